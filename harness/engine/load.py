"""Loads a base model and checks it; pipeline, command line and tests load models here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.engine.model_checks import check_model
from harness.models.base_cards import BaseCard
from harness.models.load_base import load_base
from harness.models.processor_checks import one_sentence


def load_model(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor; checked against transformers.

    Args:
        weights: a folder with a fine-tuned model of the same architecture, loaded in place of the
            card's weights; the processor is always the card's.

    Raises:
        UserError: the model cannot be loaded here (:func:`load_base`), or a check failed
            (:func:`check_model`).
    """
    model, processor = load_base(card, device, weights)
    # A forward pass shows what the files do not, such as a layer that is not there.
    with one_sentence(f"Base {card.name!r}", str(weights or card.source), card.revision):
        check_model(model, processor)
    return model, processor
