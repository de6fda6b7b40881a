"""Shared by the native graders: a question with its truth (:class:`Item`), and a benchmark made of
items.

A data source (the synthetic images, a folder of official files) is a callable that yields the same
items in the same order at each call. Grading never opens an image."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from PIL.Image import Image

from benchmarks.interface import (
    Benchmark,
    Cost,
    Direction,
    Grade,
    Group,
    Metric,
    Question,
    Report,
    report,
    summed,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Item(Generic[T]):
    """A question with its truth. ``cluster`` is the image's id."""

    id: str
    cluster: str
    text: str
    truth: T
    load_image: Callable[[], Image]


def without_images(benchmark: Benchmark) -> Iterable[Question | Item[object]]:
    """The questions, for their ids and clusters; opens no image where the benchmark is made of
    items."""
    items = getattr(benchmark, "items", None)  # of ItemBenchmark
    return items() if callable(items) else benchmark.questions()


@dataclass(frozen=True, kw_only=True)
class ItemBenchmark(Generic[T]):
    """A benchmark over any source of items."""

    name: str
    group: Group
    source: str
    """The data and their version."""
    grader: str
    """The grader and its version."""
    items: Callable[[], Iterator[Item[T]]]
    metrics: tuple[Metric, ...]
    grade_one: Callable[[Item[T], str], Grade]
    """The grade of one answer."""
    max_new_tokens: int
    group_of: Callable[[Item[T]], str] | None = None
    """Names the group of an item where questions count together: both questions of an image (MME),
    all rotations of a choice (MMBench). None: none do."""
    group_counts: Callable[[Item[T], Sequence[Grade]], Mapping[str, float]] | None = None
    """The counts of a group, from its last item and its grades; added to the last grade."""

    @property
    def version(self) -> str:
        return f"{self.source} {self.grader}"

    def questions(self) -> Iterator[Question]:
        for item in self.items():
            yield Question(
                id=item.id,
                images=(item.load_image(),),
                text=item.text,
                max_new_tokens=self.max_new_tokens,
                cluster=item.cluster,
            )

    def grade(self, answers: Mapping[str, str]) -> Report:
        """A grade an item, in the items' order. An item without an answer is unscored.

        Raises:
            ValueError: an answer belongs to no item.
        """
        items = list(self.items())
        check_answers(answers, [item.id for item in items])
        grades = [
            self.grade_one(item, answers[item.id])
            if item.id in answers
            else unscored(item, "no answer")
            for item in items
        ]
        if self.group_of and self.group_counts:
            groups: defaultdict[str, list[int]] = defaultdict(list)
            for index, item in enumerate(items):
                groups[self.group_of(item)].append(index)
            for indices in groups.values():
                last_index = indices[-1]
                extra_counts = self.group_counts(
                    items[last_index], [grades[index] for index in indices]
                )
                counts = summed([grades[last_index].counts, extra_counts])
                grades[last_index] = replace(grades[last_index], counts=counts)
        return report(self.metrics, grades)

    def estimate(self, answers: Mapping[str, str]) -> Cost | None:  # noqa: ARG002 - the protocol's
        """No model judges these answers."""
        return None


def check_answers(answers: Iterable[str], questions: Iterable[str]) -> None:
    """``answers``: the questions' ids.

    Raises:
        ValueError: an answer belongs to none of these questions.
    """
    question_ids = set(questions)
    if unknown := [id for id in answers if id not in question_ids]:
        raise ValueError(
            f"There is no question {unknown[0]!r} for an answer ({len(unknown)} such answers);"
            " grade the answers of this benchmark, split and limit."
        )


def unscored(
    item: Item[T], why: str, counts: Mapping[str, float] | None = None, truth: str = ""
) -> Grade:
    """The grade of an answer that cannot be scored."""
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
    return ratio(name, numerator, denominator, better, unit="%", scale=100.0, primary=primary)


def suffixed(metric: Metric, suffix: str) -> Metric:
    """The metric whose name and counts end in ``suffix``."""
    name, numerator = f"{metric.name}{suffix}", f"{metric.numerator}{suffix}"
    return replace(
        metric, name=name, numerator=numerator, denominator=f"{metric.denominator}{suffix}"
    )


def suffixed_counts(counts: Mapping[str, float], suffix: str) -> dict[str, float]:
    """The counts for :func:`suffixed` metrics."""
    return {f"{name}{suffix}": count for name, count in counts.items()}


def by_kind(metric: Metric, kinds: Iterable[str]) -> tuple[Metric, ...]:
    """The metric of each kind, whose name and counts end in ``_<kind>``."""
    return tuple(suffixed(metric, f"_{kind}") for kind in kinds)


def ratio(
    name: str,
    numerator: str,
    denominator: str,
    better: Direction = "higher",
    *,
    unit: str,
    scale: float = 1.0,
    primary: bool = False,
) -> Metric:
    """``scale`` x numerator / denominator."""
    return Metric(
        name=name,
        better=better,
        unit=unit,
        numerator=numerator,
        denominator=denominator,
        scale=scale,
        primary=primary,
    )


def items_and_source(
    items: Sequence[Item[T]], limit: int | None, name: str, *grading_data: object
) -> tuple[Callable[[], Iterator[Item[T]]], str]:
    """Loaded items of at most ``limit`` images as ``items`` and ``source`` of a benchmark. The
    source is the name and a fingerprint of questions, truth and ``grading_data`` (such as a synonym
    list).

    Raises:
        ValueError: an id occurs twice, or ``limit`` is below 1.
    """
    kept_items = limit_images(items, limit)
    seen_ids: set[str] = set()
    digest = hashlib.sha256(_as_json(grading_data))
    for item in kept_items:
        if item.id in seen_ids:
            raise ValueError(
                f"{name}: the question {item.id!r} occurs twice; give each question its own id."
            )
        seen_ids.add(item.id)
        digest.update(_as_json([item.id, item.cluster, item.text, item.truth]))
    return partial(iter, kept_items), f"{name}-{digest.hexdigest()[:12]}"


def _as_json(value: object) -> bytes:
    def to_plain(entry: object) -> object:
        if is_dataclass(entry) and not isinstance(entry, type):
            return asdict(entry)
        if isinstance(entry, frozenset):
            return sorted(entry)
        raise TypeError(f"a {type(entry).__name__} cannot be fingerprinted")

    return json.dumps(value, sort_keys=True, default=to_plain).encode()


def limit_images(items: Sequence[Item[T]], limit: int | None) -> tuple[Item[T], ...]:
    """All questions of at most ``limit`` images, in the items' order.

    Images are chosen by a hash of their id. So a smaller limit keeps some of the images of a
    larger one, and every kind of question of a sorted file has its share.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    check_limit(limit)
    if limit is None:
        return tuple(items)
    kept_images = set(shuffled({item.cluster for item in items}, "limit")[:limit])
    return tuple(item for item in items if item.cluster in kept_images)


def check_limit(limit: int | None, all_images: str = "all") -> None:
    """
    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(
            f"A benchmark's limit is {limit} images; it must be at least 1, or None for"
            f" {all_images}."
        )


def shuffled(names: Iterable[str], salt: str) -> list[str]:
    """The names in an order that depends on each name and the salt alone: by ascending sha256 of
    ``"<salt> <name>"``."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt} {name}".encode()).digest())


def check_split(split: str) -> None:
    """
    Raises:
        ValueError: the split is neither dev nor test.
    """
    if split not in ("dev", "test"):
        raise ValueError(f"A benchmark's split is {split!r}; it must be dev (tuning) or test.")


def only_test_split(name: str, split: str) -> None:
    """
    Raises:
        ValueError: another split than test is asked of a benchmark that has only test questions.
    """
    if split != "test":
        raise ValueError(
            f"{name} has no {split!r} split: all its questions are test questions; tune on"
            " coco_chair or a synthetic benchmark."
        )
