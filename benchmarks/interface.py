"""The words benchmarks and harness share: questions, grades, metrics, reports and the protocol of a
benchmark.

A benchmark sees questions and answers, never a model. It is exported (``questions``), answered by
the harness's one engine, and graded (``grade``); grading again is free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. ``cluster`` is the id of its image: the statistics resample images, not
    questions."""

    id: str
    images: tuple[Image, ...]
    text: str
    max_new_tokens: int
    cluster: str

    def __post_init__(self) -> None:
        if not self.id or not self.cluster:
            raise ValueError("A Question needs an id and a cluster (its image's id).")
        if self.max_new_tokens < 1:
            raise ValueError(
                f"Question {self.id}: max_new_tokens is {self.max_new_tokens}; it must be at"
                " least 1."
            )


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What one answer is worth.

    ``value`` is the question's own score (None: unscored, counted apart, never 0.0). ``counts``
    holds the summable numbers the benchmark's metrics are computed from (for CHAIR: mentions,
    hallucinated, truth, found, words ...), so that a metric can be recomputed on any resample of
    images without the answers. ``read_as`` is the reader's reading; ``why`` explains.
    ``truth`` says what is right, ``wrong`` where in the answer something is named that is not there
    (characters, from and to): for a reader's eyes, no metric uses them."""

    question: str
    cluster: str
    value: float | None
    read_as: str
    why: str = ""
    counts: Mapping[str, float] = field(default_factory=dict)
    truth: str = ""
    wrong: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as a ratio of sums over grades' ``counts``: ``scale * sum(numerator) /
    sum(denominator)``.

    A mean is the ratio whose denominator counts questions; F1 is the ratio 2tp / (2tp + fp + fn).
    So every metric can be recomputed on any resample of images. ``better`` "none" marks a
    descriptive number (yes-ratio, words). ``primary`` metrics carry a study's stars."""

    name: str
    better: Literal["higher", "lower", "none"]
    unit: str
    numerator: str
    denominator: str
    scale: float = 100.0
    primary: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """Values by metric name (None where its denominator is zero), every grade, and the number
    unscored."""

    values: Mapping[str, float | None]
    grades: Sequence[Grade]
    unscored: int


class Benchmark(Protocol):
    """``version`` changes whenever questions or grading change: a column of a table never mixes two
    versions.

    Two metrics' names mean something to the harness: ``words`` (counts words / captions) says that
    the answers are captions, and
    ``yes_ratio`` that every question is to be answered with yes or no. Each brings a control that
    matches a method's value."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> Literal["hallucination", "general"]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def version(self) -> str: ...
    def questions(self) -> Iterator[Question]: ...
    def grade(self, answers: Mapping[str, str]) -> Report: ...


def metric_value(metric: Metric, sums: Mapping[str, float]) -> float | None:
    """The metric from sums of counts over any set of grades; None where nothing can be said (a zero
    denominator)."""
    below = sums.get(metric.denominator, 0.0)
    return metric.scale * sums.get(metric.numerator, 0.0) / below if below else None


def report(metrics: Sequence[Metric], grades: Sequence[Grade]) -> Report:
    """Every metric over these grades; an unscored grade adds to ``unscored`` and to no metric but
    its own counts."""
    sums: dict[str, float] = {}
    for grade in grades:
        for name, amount in grade.counts.items():
            sums[name] = sums.get(name, 0.0) + amount
    values = {metric.name: metric_value(metric, sums) for metric in metrics}
    return Report(
        values=values, grades=tuple(grades), unscored=sum(grade.value is None for grade in grades)
    )
