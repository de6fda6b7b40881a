"""Prompts that a model cannot read whole: the one question or item is left out, not the study
ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from harness.errors import PromptTooLong

T = TypeVar("T")
R = TypeVar("R")


def without_too_long(
    items: Sequence[T],
    work: Callable[[Sequence[T]], list[R]],
    instead: Callable[[T, PromptTooLong], R],
) -> list[R]:
    """The results of ``work``; of an item whose prompt is too long, ``instead``. Halves are tried
    until such an item is alone, so that all others are done in large batches."""
    try:
        return work(items)
    except PromptTooLong as error:
        if len(items) == 1:
            return [instead(items[0], error)]
    middle = len(items) // 2
    return [
        *without_too_long(items[:middle], work, instead),
        *without_too_long(items[middle:], work, instead),
    ]
