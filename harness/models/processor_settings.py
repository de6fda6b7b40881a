"""A card's image shape, system text and size bound, given to a loaded processor."""

from __future__ import annotations

from typing import Any

from harness.models.base_cards import BaseCard


def apply_card(processor: Any, card: BaseCard) -> None:
    """Give a loaded processor the card's image shape and system text. Both are saved with it."""
    apply_to_images(processor.image_processor, card)
    if card.system is not None and getattr(processor, "chat_template", None):
        processor.chat_template = card.system + processor.chat_template


def apply_to_images(image_processor: Any, card: BaseCard) -> None:
    """Apply the card's ``image_shape`` and ``max_pixels``; a lower bound of the processor stays."""
    if card.image_shape is not None:
        image_processor.image_aspect_ratio = card.image_shape
    if card.max_pixels is not None:
        size = image_processor.size
        size["longest_edge"] = min(size["longest_edge"], card.max_pixels)
