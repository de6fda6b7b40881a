"""Rows that are not trained here against the values that papers print for them: the untrained base,
and released weights.

The base comes first: if it does not have its published values, no row can be held against a paper.
The interval decides. It covers the images, and the rounding of the printed number. Where the papers
draw images of their own (CHAIR), it covers their draw, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.interface import Metric
from harness.reporting import literature
from harness.reporting.display_names import display_name
from harness.reporting.literature import Number
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.stats import estimate
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import MISSING, Block, printed, text_block, with_interval

HEADING = "Against published values"
HEADER = (
    *("run", "benchmark", "metric", "measured", "published", "difference", "verdict"),
    "published by",
)
MIN_IMAGES = 50
"""With fewer images an interval is so wide that nearly every value agrees."""
DRAWN = ("chair",)
"""The papers' benchmarks whose images each paper draws for itself, about as many as here."""
WARNING = "WARNING: "
CAUSES = (
    "Usual causes: images cut to the centre where the authors pad them, another system text or"
    " prompt format (`python -m harness doctor --base NAME` shows both), another question, another"
    " decoding (the papers: greedy), a shorter limit of tokens, other images, another reading of"
    " answers."
)


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """A row's value in one metric beside the number that one paper prints for it."""

    row: Row
    benchmark: str
    metric: Metric
    number: Number
    value: float
    """Measured here."""
    difference: float
    """Measured minus published; [``lo``, ``hi``] is its 95 % interval."""
    lo: float
    hi: float
    images: int

    @property
    def verdict(self) -> Literal["agrees", "differs", "cannot be told"]:
        if self.images < MIN_IMAGES or not np.isfinite(self.lo):
            return "cannot be told"
        return "agrees" if self.lo <= 0 <= self.hi else "differs"

    @property
    def decimals(self) -> int:
        return 1 if self.metric.scale >= 100 else 2

    @property
    def full_name(self) -> str:
        return f"{display_name(self.benchmark)} / {display_name(self.metric.name)}"

    @property
    def change(self) -> str:
        if not np.isfinite(self.difference):
            return MISSING
        return with_interval(self.difference, self.lo, self.hi, self.decimals)


def values(study: StudyResults) -> list[PublishedValue]:
    """Every published number of the rows that are not trained here and are graded, in the table's
    order."""
    published = []
    for benchmark in study.benchmarks:
        for row in study.rows:
            if row.rounds == 0 and row.role != "matched":
                published += _of_row(study, row, benchmark)
    return published


def _of_row(study: StudyResults, row: Row, benchmark: BenchmarkColumns) -> list[PublishedValue]:
    counts = study.counts.get((row.label, 0, benchmark.name))
    if counts is None:
        return []
    published = []
    for name, numbers in literature.matching((row,), benchmark).items():
        metric = benchmark.metric(name)
        terms = counts.terms(metric)
        # A paper may print a number in two of its tables.
        own_numbers = [number for number in numbers if literature.same_row(row, number)]
        distinct = {(number.paper, number.value): number for number in own_numbers}
        for number in distinct.values():
            # A row that has the published value on every image.
            constant = terms[..., 1:] * [float(number.value) / metric.scale, 1.0]
            difference = estimate(terms, constant, scale=metric.scale)
            half_width = difference.half_width() if difference.about != "none" else np.nan
            half_width *= np.sqrt(2) if number.benchmark in DRAWN else 1
            half_width += 0.5 * 10.0 ** -len(number.value.partition(".")[2])
            published.append(
                PublishedValue(
                    row=row,
                    benchmark=benchmark.name,
                    metric=metric,
                    number=number,
                    value=counts.pooled(metric),
                    difference=difference.difference,
                    lo=difference.difference - half_width,
                    hi=difference.difference + half_width,
                    images=len(counts.images),
                )
            )
    return published


def block(published: Sequence[PublishedValue]) -> Block | None:
    """The table's block; None: no paper has a number for these rows."""
    if not published:
        return None
    rows = [
        (
            entry.row.label,
            display_name(entry.benchmark),
            display_name(entry.metric.name),
            printed(entry.value, entry.decimals),
            entry.number.value,
            entry.change,
            entry.verdict,
            f"{entry.number.paper} ({entry.number.verified})",
        )
        for entry in published
    ]
    return text_block(
        heading=HEADING,
        caption=(
            "rows that are not trained here; measured minus published with its 95 % interval over"
            " images and the rounding of the printed number (CHAIR: also over the paper's own draw"
            " of images). On the same images an exact repetition differs by far less than the"
            " interval, so an agreement is no proof of equal procedures"
        ),
        header=HEADER,
        rows=rows,
    )


def base_sentences(study: StudyResults, published: Sequence[PublishedValue]) -> list[str]:
    """Whether the untrained base has its published values: sentences for terminal, table and page.
    Empty where no paper has a number for it."""
    of_base = [value for value in published if value.row.label == study.baseline]
    name = study.base_row.base
    if not of_base:
        return _other_input(study, name)
    metrics = list(dict.fromkeys(value.full_name for value in of_base))
    groups = {
        metric: [value for value in of_base if value.full_name == metric] for metric in metrics
    }
    outcomes = {metric: {value.verdict for value in group} for metric, group in groups.items()}
    sentences = []
    if differs := [metric for metric in metrics if outcomes[metric] == {"differs"}]:
        sentences.append(
            f"{WARNING}the untrained base {name} does not have its published values:"
            f" {'; '.join(_describe(groups[metric]) for metric in differs)}. Rows that start from"
            f" it cannot be held against the papers' tables in these metrics. {CAUSES}"
        )
    if split := [metric for metric in metrics if {"agrees", "differs"} <= outcomes[metric]]:
        sentences.append(
            f"Papers differ about the untrained base {name}, and it agrees with some:"
            f" {'; '.join(_describe(groups[metric]) for metric in split)}."
        )
    if agrees := [metric for metric in metrics if outcomes[metric] == {"agrees"}]:
        sentences.append(
            f"The untrained base {name} has its published values:"
            f" {'; '.join(_describe(groups[metric]) for metric in agrees)}."
        )
    if untold := [metric for metric in metrics if outcomes[metric] == {"cannot be told"}]:
        sentences.append(
            f"It cannot be told whether the untrained base {name} has its published values in"
            f" {', '.join(untold)}: fewer than {MIN_IMAGES} images, or no value."
        )
    return sentences


def differing(study: StudyResults, published: Sequence[PublishedValue]) -> bool:
    """Whether some metric of the base agrees with no paper."""
    return any(text.startswith(WARNING) for text in base_sentences(study, published))


def _describe(group: Sequence[PublishedValue]) -> str:
    """``POPE / accuracy 81.2 (published: 85.9 in A, 86.1 in B; nearest -4.7 [-5.6, -3.8])``."""
    near = min(group, key=lambda entry: abs(entry.difference))
    numbers = [entry.number for entry in group]
    texts = ", ".join(dict.fromkeys(f"{number.value} in {number.paper}" for number in numbers))
    value = printed(near.value, near.decimals)
    nearest = "difference" if len(group) == 1 else "nearest"
    return f"{near.full_name} {value} (published: {texts}; {nearest} {near.change})"


def _other_input(study: StudyResults, name: str) -> list[str]:
    """A base with published values that gets another input than in the papers."""
    papers = name.removesuffix("-hf")
    as_papers = [replace(study.base_row, base=papers)]
    has_values = papers != name and any(
        literature.same_row(as_papers[0], number)
        for benchmark in study.benchmarks
        for numbers in literature.matching(as_papers, benchmark).values()
        for number in numbers
    )
    if not has_values:
        return []
    return [
        f"The published values of {papers} are not compared with {name}: the papers pad images and"
        f" use the system text of vicuna_v1, and {name} does neither; take --base {papers}."
    ]
