"""What the native graders share: an item of a data source, its questions, and meeting answers with truth.

A data source (the world, later a real data set) is a callable that yields items: the same ones, in the same order, each time
it is called. Grading never touches the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL.Image import Image

from benchmarks.interface import Grade, Question

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Item(Generic[T]):
    """A question with its truth. ``picture`` opens or draws the image; ``cluster`` is the picture's id."""

    id: str
    cluster: str
    text: str
    truth: T
    picture: Callable[[], Image]


def questions(items: Iterable[Item[T]], max_new_tokens: int) -> Iterator[Question]:
    """The items as questions, one at a time."""
    for item in items:
        yield Question(id=item.id, images=(item.picture(),), text=item.text, max_new_tokens=max_new_tokens, cluster=item.cluster)


def unscored(item: Item[T], why: str, counts: Mapping[str, float] | None = None) -> Grade:
    """A grade that says nothing about the model but that, and why, there is nothing to say."""
    return Grade(question=item.id, cluster=item.cluster, value=None, read_as="", why=why, counts=counts or {})


def grades(items: Iterable[Item[T]], answers: Mapping[str, str], judge: Callable[[Item[T], str], Grade]) -> list[Grade]:
    """A grade an item, in the items' order; an item without an answer is unscored ("no answer").

    Raises:
        ValueError: an answer belongs to no item.
    """
    asked = list(items)
    known = {item.id for item in asked}
    for id in answers:
        if id not in known:
            raise ValueError(f"There is no question {id!r} for an answer; grade the answers of this benchmark, split and limit.")
    return [judge(item, answers[item.id]) if item.id in answers else unscored(item, "no answer") for item in asked]
