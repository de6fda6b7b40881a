"""What the GPU bench builds is LLaVA-1.5-7B's shape, and its training is placed by memory: on the meta device, so without any."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import Problem
from harness.training.adapters import choose_trainable
from harness.training.data import EncodedPair
from harness.training.placement import GIB, Placement, estimate, fit
from methods.interface import PreferencePair, Recipe
from tests.benches import gpu_work
from tests.benches.gpu_work import LENGTHS, WORK, Call, build, filler, pictures


@pytest.fixture(scope="module")
def model() -> Any:
    return build("7b", "meta")[0]


def pairs(count: int, side: int = 100) -> list[EncodedPair]:
    pair = PreferencePair(key="a", item="a", prompt="a", chosen="a", rejected="a")
    prompt, answer = [0] * 620, [0] * side
    one = EncodedPair(pair=pair, prompt=prompt, places=torch.zeros(1, 620), chosen=answer, rejected=answer)
    return [one] * count


def test_the_shape_is_llava_1_5_7b(model: Any) -> None:
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == 7_063_427_072  # the published checkpoint's
    assert model.dtype == torch.bfloat16
    assert model.config.image_seq_length == 576


def test_full_training_of_7b_is_placed_by_memory(model: Any) -> None:
    trained = choose_trainable(model, Recipe(lr=1e-6))
    need = estimate(model, trained, pairs(8), sides=2, checkpointing=True)
    assert need.weights + need.gradients + need.optimizer == pytest.approx(16 * 6.76e9, rel=0.02)
    asked = {"sides": 2, "processes": 1, "adapted": False}
    one = fit(Placement(memory=139 * GIB), model, trained, pairs(8), **asked)
    assert (one.checkpointing, one.sharded) == (True, False)
    four = fit(Placement(memory=79 * GIB), model, trained, pairs(8), **{**asked, "processes": 4})
    assert four.sharded
    with pytest.raises(Problem, match=r"needs about 1\d\d\.\d GiB a device .* and 79\.0 GiB are there; give a recipe with LoRA"):
        fit(Placement(memory=79 * GIB), model, trained, pairs(8), **asked)


@pytest.mark.parametrize("name", sorted(WORK))
def test_workloads_have_the_lengths_they_are_said_to_have(name: str) -> None:
    _, processor = build("tiny", "cpu")
    size = LENGTHS["7b"]
    calls: list[Call] = WORK[name](pictures(2, 8), size)
    keys = [prompt.key for call in calls for prompt in call.prompts]
    new = sum(call.how.max_new_tokens for call in calls)
    if name == "sena":
        assert len(keys) == 16
        assert 110 <= new <= 130  # about 120 an image
    if name == "csr":
        assert len(keys) == 2 * 13
    if name == "sima":
        asked = calls[-1].prompts[0].text
        assert len(processor.tokenizer(asked)["input_ids"]) == 1300
    if name == "pope":
        assert len(keys) == 36
    assert len(filler(7).split()) == 7
    assert set(gpu_work.FLOORS) == set(WORK)
