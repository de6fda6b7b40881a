"""Differences between trained rows: a method against its controls, and methods against each other.

Rows are compared after the same number of rounds only. A method and its control share seeds and
data, so their trainings are paired by seed; two methods are independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from benchmarks.interface import Metric
from harness.reporting.counts import Counts
from harness.reporting.results import StudyResults
from harness.reporting.stats import Design, estimate, holm, rank_ranges
from harness.reporting.study_row import Row

ALPHA = 0.05
NAN = float("nan")
WORTH = 0.01
"""A difference worth having, as a share of the metric's scale: one point of a percentage."""
Key = tuple[str, str, str]
"""Row, benchmark, metric."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """``label`` minus ``other`` in one metric after the same round."""

    label: str
    other: str
    round: int
    benchmark: str
    metric: Metric
    role: str
    """The role of the row ``label``."""
    matched: bool
    """Whether ``other`` is a matched baseline."""
    seeds: str = ""
    """The trainings of both rows, such as "5 and 5"."""
    value: float = NAN
    other_value: float = NAN
    difference: float = NAN
    lo: float = NAN
    hi: float = NAN
    """The 95 % interval of the difference; nan: none."""
    about: str = "none"
    """As in ``MetricResult``."""
    p: float = NAN
    p_holm: float = NAN
    outcome: str = "cannot be told yet"
    """Against a control: "exceeds", "does not exceed" (the interval holds 0 or a loss and excludes
    a gain worth having) or "cannot be told yet". Between methods: "ahead", "behind" or "cannot be
    told yet"."""

    @property
    def worth(self) -> float:
        """A difference worth having, in the metric's unit."""
        return WORTH * self.metric.scale

    @property
    def key(self) -> Key:
        return self.label, self.benchmark, self.metric.name

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.metric.better == "higher" else -1


def control_contrasts(study: StudyResults) -> list[Contrast]:
    """Every method and reference row against each of its controls and matched baselines, in every
    directed metric, with outcomes. Holm corrects, for each row, its primary metrics and controls
    together."""
    contrasts: list[Contrast] = []
    for row in study.rows:
        if row.role not in ("method", "reference"):
            continue
        family: list[Contrast] = []
        for control in (candidate for candidate in study.rows if candidate.of == row.label):
            matched = control.role == "matched"
            round = row.rounds if matched else min(row.rounds, control.rounds)
            family += _contrasts(study, row, control, round, 0 if matched else round, shared=True)
        contrasts += [_control_outcome(contrast) for contrast in _with_holm(family)]
    return contrasts


def _control_outcome(contrast: Contrast) -> Contrast:
    if contrast.about != "method":
        return contrast
    low, high = sorted((contrast.sign * contrast.lo, contrast.sign * contrast.hi))
    if low > 0:  # a gain, but is it clear after Holm's correction?
        return replace(contrast, outcome="exceeds") if contrast.p_holm < ALPHA else contrast
    return replace(contrast, outcome="does not exceed") if high < contrast.worth else contrast


def method_contrasts(study: StudyResults) -> list[Contrast]:
    """Every pair of methods of one base and the same number of rounds, in the primary metrics.
    Holm corrects all of them together."""
    methods = [row for row in study.rows if row.role == "method"]
    contrasts: list[Contrast] = []
    for row, other in combinations(methods, 2):
        if row.rounds == other.rounds and row.base == other.base:
            pair_contrasts = _contrasts(study, row, other, row.rounds, other.rounds, shared=False)
            contrasts += [contrast for contrast in pair_contrasts if contrast.metric.primary]
    return [_method_outcome(contrast) for contrast in _with_holm(contrasts)]


def _method_outcome(contrast: Contrast) -> Contrast:
    if contrast.about != "method" or not contrast.p_holm < ALPHA:
        return contrast
    ahead = contrast.sign * contrast.difference > 0
    return replace(contrast, outcome="ahead" if ahead else "behind")


def ranks(contrasts: Sequence[Contrast], benchmark: str, metric: str) -> dict[str, tuple[int, int]]:
    """The ranks that each compared method may hold in a metric, 1 the best."""
    of_metric = [
        contrast
        for contrast in contrasts
        if (contrast.benchmark, contrast.metric.name) == (benchmark, metric)
    ]
    labels = list(
        dict.fromkeys(name for contrast in of_metric for name in (contrast.label, contrast.other))
    )
    ahead = np.zeros((len(labels), len(labels)), dtype=bool)
    for contrast in of_metric:
        first, second = labels.index(contrast.label), labels.index(contrast.other)
        ahead[first, second] = contrast.outcome == "ahead"
        ahead[second, first] = contrast.outcome == "behind"
    return dict(zip(labels, rank_ranges(ahead), strict=True))


def _contrasts(
    study: StudyResults, row: Row, other: Row, round: int, other_round: int, *, shared: bool
) -> Iterator[Contrast]:
    """All directed metrics; a missing result is a contrast without numbers, so that it stays in
    the family."""
    for benchmark in study.benchmarks:
        if not (row.covers(benchmark.name) and other.covers(benchmark.name)):
            continue
        counts = study.counts.get((row.label, round, benchmark.name))
        other_counts = study.counts.get((other.label, other_round, benchmark.name))
        for metric in (metric for metric in benchmark.metrics if metric.better != "none"):
            contrast = Contrast(
                label=row.label,
                other=other.label,
                round=round,
                benchmark=benchmark.name,
                metric=metric,
                role=row.role,
                matched=other.role == "matched",
            )
            if counts and other_counts and counts.questions == other_counts.questions:
                contrast = _with_interval(contrast, counts, other_counts, shared)
            yield contrast


def _with_interval(
    contrast: Contrast, counts: Counts, other_counts: Counts, shared: bool
) -> Contrast:
    metric = contrast.metric
    design: Design = "paired" if shared and counts.seeds == other_counts.seeds else "independent"
    result = estimate(
        counts.terms(metric), other_counts.terms(metric), scale=metric.scale, design=design
    )
    values = [*counts.seed_values(metric), *other_counts.seed_values(metric)]
    contrast = replace(
        contrast,
        seeds=f"{len(counts.seeds)} and {len(other_counts.seeds)}",
        value=counts.pooled(metric),
        other_value=other_counts.pooled(metric),
        difference=result.difference,
    )
    if not np.isfinite(values).all():
        return contrast  # a seed has no value
    lo, hi = result.interval()
    p = result.p if metric.primary and result.about == "method" else NAN
    return replace(contrast, lo=lo, hi=hi, about=result.about, p=p)


def _with_holm(family: Sequence[Contrast]) -> list[Contrast]:
    """With Holm's p over the primary metrics of the family; other metrics are not tested."""
    tested = [index for index, contrast in enumerate(family) if contrast.metric.primary]
    adjusted = dict(zip(tested, holm([family[index].p for index in tested]), strict=True))
    return [
        replace(contrast, p_holm=adjusted.get(index, NAN)) for index, contrast in enumerate(family)
    ]
