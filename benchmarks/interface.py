"""The types that benchmarks and harness share, and the protocol of a benchmark.

A benchmark sees questions and answers, never a model. It is exported (``questions``), answered by
the harness, and graded (``grade``). Grading again is free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL.Image import Image

Group = Literal["hallucination", "general"]
Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about its images. ``cluster`` is the image's id: the statistics resample
    images, not questions."""

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
                f"Question {self.id}: max_new_tokens is {self.max_new_tokens}; it must be at least"
                " 1."
            )


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The grade of one answer."""

    question: str
    """The question's id."""
    cluster: str
    """The image's id."""
    value: float | None
    """The question's own score. None: unscored; it is counted apart and never taken as 0."""
    read_as: str
    """What the grader read in the answer."""
    why: str = ""
    """Why the value is what it is."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Numbers that are summed over questions (for CHAIR: mentions, hallucinated, truth, found,
    words ...). Every metric is computed from these sums, so it can be recomputed on any resample
    of images without the answers."""
    truth: str = ""
    """The right answer. For a reader; no metric uses it."""
    wrong: tuple[tuple[int, int], ...] = ()
    """Where the answer names something absent: (start, end) in characters. For a reader."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A ratio of sums over grades: ``scale * sum(numerator) / sum(denominator)``.

    A mean is the ratio whose denominator counts questions; F1 is 2tp / (2tp + fp + fn)."""

    name: str
    better: Direction
    """none: a descriptive number, such as the share of yes or the number of words."""
    unit: str
    numerator: str
    """A name in ``Grade.counts``, as is ``denominator``."""
    denominator: str
    scale: float = 100.0
    primary: bool = False
    """Whether a study tests this metric for significance (the stars of its table)."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All grades, every metric over them (None where its denominator is 0), and how many answers
    are unscored."""

    values: Mapping[str, float | None]
    grades: Sequence[Grade]
    unscored: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a judging model is asked, or was asked."""

    requests: int
    recorded: int = 0
    """Judgements that are in the recording already and need no request."""
    tokens_in: int
    tokens_out: int
    uncounted: int = 0
    """Replies without a count of tokens."""
    price: float | None
    """None: no prices are given, or a count is missing."""


class Benchmark(Protocol):
    """Everything that the harness reads of a benchmark.

    Two metric names have a meaning for the harness: ``words`` (counts words / captions) says that
    the answers are captions, ``yes_ratio`` that every question asks for yes or no. Each adds a
    matched baseline to the table."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> Group: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def version(self) -> str:
        """Changes whenever questions or grading change; a column never mixes two versions."""
        ...

    @property
    def source(self) -> str:
        """The start of ``version`` that names the questions alone, so that exported questions can
        be graded by another version of the grader. "": the version does not tell them apart."""
        return ""

    def questions(self) -> Iterator[Question]: ...
    def grade(self, answers: Mapping[str, str]) -> Report:
        """The grades of ``answers`` (question id -> text). A question without an answer is
        unscored.

        Raises:
            ValueError: an answer belongs to no question, or a judge cannot be asked.
        """
        ...

    def estimate(self, answers: Mapping[str, str]) -> Cost | None:  # noqa: ARG002 - a default
        """What grading these answers would ask of a judging model; None: no model judges. Sends
        nothing."""
        return None


def metric_value(metric: Metric, sums: Mapping[str, float]) -> float | None:
    """The metric from sums of counts over any set of grades; None where the denominator is 0."""
    denominator = sums.get(metric.denominator, 0.0)
    return metric.scale * sums.get(metric.numerator, 0.0) / denominator if denominator else None


def summed(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of each count."""
    sums: dict[str, float] = {}
    for row in counts:
        for name, count in row.items():
            sums[name] = sums.get(name, 0.0) + count
    return sums


def report(metrics: Sequence[Metric], grades: Sequence[Grade]) -> Report:
    """Every metric over these grades. The counts of an unscored grade are summed too."""
    sums = summed(grade.counts for grade in grades)
    values = {metric.name: metric_value(metric, sums) for metric in metrics}
    unscored = sum(grade.value is None for grade in grades)
    return Report(values=values, grades=tuple(grades), unscored=unscored)
