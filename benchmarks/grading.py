"""What the native graders share: an item of a data source, a benchmark made of items, and meeting
answers with truth.

A data source (the world, a folder of official files) is a callable that yields items: the same
ones, in the same order, each time it is called. Grading never touches the images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

from PIL.Image import Image

from benchmarks.interface import Grade, Metric, Question, Report, report

T = TypeVar("T")
Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Item(Generic[T]):
    """A question with its truth. ``picture`` opens or draws the image; ``cluster`` is the image's
    id."""

    id: str
    cluster: str
    text: str
    truth: T
    picture: Callable[[], Image]


def separate(_items: Sequence[Item[T]], grades: list[Grade]) -> list[Grade]:
    """Each answer is worth what it is worth by itself."""
    return grades


@dataclass(frozen=True, kw_only=True)
class Graded(Generic[T]):
    """A benchmark over any source of items. ``source`` names the data and its version, ``grader``
    the grader and its version.

    ``judge(item, answer)`` grades one answer; ``together(items, grades)`` then sees all grades at
    once, where questions count only in company (both questions of an image, all rotations of a
    choice), and may add counts. ``choices``: the two words that all questions ask for, as in
    ``Benchmark``."""

    name: str
    group: Literal["hallucination", "general"]
    source: str
    grader: str
    items: Callable[[], Iterator[Item[T]]]
    metrics: tuple[Metric, ...]
    judge: Callable[[Item[T], str], Grade]
    max_new_tokens: int
    together: Callable[[Sequence[Item[T]], list[Grade]], list[Grade]] = separate
    choices: tuple[str, str] | None = None

    @property
    def version(self) -> str:
        return f"{self.source} {self.grader}"

    def questions(self) -> Iterator[Question]:
        for item in self.items():
            yield Question(
                id=item.id,
                images=(item.picture(),),
                text=item.text,
                max_new_tokens=self.max_new_tokens,
                cluster=item.cluster,
            )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """A grade an item, in the items' order; an item without an answer is unscored ("no
        answer").

        Raises:
            ValueError: an answer belongs to no item.
        """
        asked = list(self.items())
        known = {item.id for item in asked}
        for id in answers:
            if id not in known:
                raise ValueError(
                    f"There is no question {id!r} for an answer; grade the answers of this"
                    " benchmark, split and limit."
                )
        grades = [
            (
                self.judge(item, answers[item.id])
                if item.id in answers
                else unscored(item, "no answer")
            )
            for item in asked
        ]
        return report(self.metrics, self.together(asked, grades))


def unscored(
    item: Item[T], why: str, counts: Mapping[str, float] | None = None, truth: str = ""
) -> Grade:
    """A grade that says nothing about the model but that, and why, there is nothing to say;
    ``truth`` as in a Grade."""
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=None,
        read_as="",
        why=why,
        counts=counts or {},
        truth=truth,
    )


def percent(
    name: str,
    numerator: str,
    denominator: str,
    better: Direction = "higher",
    *,
    primary: bool = False,
) -> Metric:
    """100 x numerator / denominator."""
    return Metric(
        name=name,
        better=better,
        unit="%",
        numerator=numerator,
        denominator=denominator,
        primary=primary,
    )


def fixed(
    items: Sequence[Item[T]], name: str, *grading_data: object
) -> tuple[Callable[[], Iterator[Item[T]]], str]:
    """Loaded items as ``items`` and ``source`` of a benchmark: the source is the name and a
    fingerprint of the questions, their truth and whatever else the answers are graded with (a
    synonym list).

    Raises:
        ValueError: an id is there twice.
    """
    seen: set[str] = set()
    digest = hashlib.sha256(json.dumps(grading_data, sort_keys=True, default=_plain).encode())
    for item in items:
        if item.id in seen:
            raise ValueError(
                f"{name}: the question {item.id!r} is there twice; give each question an id of its"
                " own."
            )
        seen.add(item.id)
        digest.update(
            json.dumps(
                [item.id, item.cluster, item.text, item.truth], sort_keys=True, default=_plain
            ).encode()
        )
    return partial(iter, tuple(items)), f"{name}-{digest.hexdigest()[:12]}"


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no place in a fingerprint")


def few_pictures(items: Sequence[Item[T]], limit: int | None) -> tuple[Item[T], ...]:
    """All questions of at most ``limit`` images, in the items' order.

    The images are chosen by a hash of their id: a smaller limit keeps some of a larger one's, and
    every kind of question of a sorted file has its share.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit is None:
        return tuple(items)
    if limit < 1:
        raise ValueError(
            f"A benchmark's limit is {limit} images; it must be at least 1, or None for all."
        )
    kept = set(shuffled({item.cluster for item in items}, "limit")[:limit])
    return tuple(item for item in items if item.cluster in kept)


def shuffled(names: Iterable[str], salt: str) -> list[str]:
    """The names in an order that hangs on each name and the salt alone (ascending sha256 of
    ``"<salt> <name>"``)."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt} {name}".encode()).digest())


def only_test_split(name: str, split: str) -> None:
    """
    Raises:
        ValueError: another split than test is asked of a benchmark whose official questions are all
            for testing.
    """
    if split != "test":
        raise ValueError(
            f"{name} has no {split!r} split: all its questions are test questions; tune on"
            " coco_chair or the world."
        )
