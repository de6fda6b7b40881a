"""How much of the 7B shape a card gets by its memory: 16 and 24 GB have something to do, too."""

from __future__ import annotations

import pytest

from harness.training.memory import GIB
from tests.benches import gpu_dpo
from tests.benches.gpu_models import build
from tests.benches.gpu_work import WEIGHTS
from tests.gpu_check.card import (
    LAYER_BYTES,
    LAYERS,
    WORKING_ROOM,
    layers_to_answer,
    layers_to_train,
)

LORA, FULL = gpu_dpo.recipe("7b", 32, True), gpu_dpo.recipe("7b", 32, False)


def test_a_card_answers_with_as_many_layers_as_leave_room() -> None:
    assert layers_to_answer(139 * GIB) is None
    assert layers_to_answer(23 * GIB) is None
    small = layers_to_answer(15 * GIB)
    assert small is not None
    assert 16 <= small < 32
    assert WEIGHTS - (32 - small) * LAYER_BYTES + WORKING_ROOM <= 15 * GIB
    with pytest.raises(MemoryError, match=r"1\.0 GiB are free"):
        layers_to_answer(GIB)


def test_a_card_trains_as_many_layers_as_fit() -> None:
    assert layers_to_train(139 * GIB, FULL) is None
    assert layers_to_train(79 * GIB, LORA) is None
    found = [layers_to_train(gib * GIB, FULL) for gib in (79, 47, 23)]
    assert all(layers in LAYERS[1:] for layers in found)
    assert found == sorted(found, key=lambda layers: -(layers or 32))
    beside = layers_to_train(79 * GIB, FULL, 0.125)
    assert (beside or 32) <= (found[0] or 32)
    assert layers_to_train(23 * GIB, LORA) in (None, 24)
    with pytest.raises(MemoryError, match="a training of two layers does not fit"):
        layers_to_train(2 * GIB, FULL)


def test_fewer_layers_are_built() -> None:
    model, _ = build("7b", "meta", 4)
    assert model.config.text_config.num_hidden_layers == 4
    assert len(model.model.language_model.layers) == 4
    assert model.config.text_config.hidden_size == 4096
