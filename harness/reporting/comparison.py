"""Compares each row with the baseline: for each benchmark and metric a value, its difference, and
the difference's statistics.

Two questions are kept apart. *The method* differs: trainings and images vary; it needs two
training seeds or more; stars, "better" and "worse" belong to it alone. *This training* differs:
images vary, the trained weights are as they are; nothing is said about another training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.reporting.contrasts import ALPHA, Contrast, control_contrasts
from harness.reporting.counts import Counts
from harness.reporting.display_names import display_name, metric_name
from harness.reporting.power import detectable_difference, spread
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.stats import McNemar, estimate, holm, mcnemar
from harness.reporting.study_row import Row

NAN = float("nan")
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
TRAINING_DIFFERS = "this training differs"
TRAINING_SAME = "this training: no clear change"
SEED_WITHOUT_VALUE = "a seed has no value"
UNTOLD_VERDICT = "cannot be told"
CONTROL_FIELDS = {
    "exceeds": "exceeds",
    "reached_by": "does not exceed",
    "untold_by": "cannot be told yet",
}
"""Fields of a result that name controls, by the contrast's outcome."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One row's result in one metric of one benchmark; a line of ``table.csv``."""

    label: str
    round: int
    last: bool
    """Whether this is the row's last round."""
    seeds: str
    """The graded training seeds, separated by spaces."""
    seeds_planned: int
    benchmark: str
    group: str
    version: str
    metric: str
    better: str
    """One of "higher", "lower", "none" (a descriptive metric)."""
    unit: str
    primary: bool
    """Whether the study declared the metric before it ran; only such metrics are tested."""
    scale: float
    numerator_sum: float = NAN
    denominator_sum: float = NAN
    value: float = NAN
    """``scale * numerator_sum / denominator_sum``, pooled over the seeds; nan: missing."""
    baseline_value: float = NAN
    difference: float = NAN
    """The row's value minus the baseline's, in the metric's unit; [``lo``, ``hi``] is its 95 %
    interval."""
    lo: float = NAN
    hi: float = NAN
    about: str = "none"
    """What interval, p and verdict are about: "method" (trainings and images vary), "training"
    (images vary; one training, or trainings that agree in every count), or "none"."""
    se_training: float = NAN
    """The part of the standard error from the trainings' seeds; nan: unknown."""
    se_images: float = NAN
    """The part from the drawn images."""
    se_one_count: float = NAN
    """The part of one count more and one fewer than seen (harness/reporting/stats.py)."""
    detectable: float = NAN
    """The smallest true difference that this many seeds and images find with 80 % power at 0.05,
    by the spread found here."""
    p: float = NAN
    p_holm: float = NAN
    verdict: str = "missing"
    """About a method, by ``p_holm``: "better", "worse" or "no clear change"; about one training:
    "this training differs" or "this training: no clear change". Otherwise "not tested", "cannot be
    told", "a seed has no value", "other questions" (than the baseline's), "missing" or
    "baseline"."""
    seed_values: str = ""
    """Each seed's own value, separated by spaces."""
    unscored: int = 0
    """Unscored answers of all seeds."""
    questions: int = 0
    images: int = 0
    role: str = "method"
    of: str = ""
    exceeds: tuple[str, ...] = ()
    """Where the verdict is "better": the controls (and matched baselines) after the same round that
    the method truly exceeds."""
    reached_by: tuple[str, ...] = ()
    """Those that it does not exceed: a gain over them that is worth having is excluded."""
    untold_by: tuple[str, ...] = ()
    """Those for which it cannot be told yet."""
    matched_by: str = ""
    """The matched baseline: the baseline's answers at the row's caption length or share of yes.
    ``matched_value`` is its value; ``matched_difference`` [``matched_lo``, ``matched_hi``] is the
    row's value minus that."""
    matched_value: float = NAN
    matched_difference: float = NAN
    matched_lo: float = NAN
    matched_hi: float = NAN

    @property
    def n_seeds(self) -> int:
        return len(self.seeds.split())

    @property
    def by_seed(self) -> dict[str, float]:
        """Each seed's own value; nan: it has none."""
        return dict(zip(self.seeds.split(), map(float, self.seed_values.split()), strict=True))

    @property
    def heading(self) -> str:
        """The column's heading: metric, direction, unit."""
        unit = "" if self.unit == self.metric else self.unit
        return " ".join(filter(None, (display_name(self.metric), ARROWS[self.better], unit)))

    @property
    def full_name(self) -> str:
        return metric_name(self.benchmark, display_name(self.metric))

    @property
    def decimals(self) -> int:
        """Decimals to print: one for percentages, two for smaller scales."""
        return 1 if self.scale >= 100 else 2

    @property
    def tested(self) -> bool:
        """Whether the result is one of the tests that Holm corrects. Matched baselines are not:
        they claim nothing."""
        directed = self.better != "none" and self.role not in ("baseline", "matched")
        return self.primary and self.last and directed

    @property
    def column(self) -> tuple[str, str]:
        """Benchmark and metric."""
        return self.benchmark, self.metric

    @property
    def key(self) -> tuple[str, str, str]:
        """Label, benchmark and metric."""
        return self.label, self.benchmark, self.metric


def compare(study: StudyResults) -> list[MetricResult]:
    """Every result in the table's order: benchmark, row, round, metric. Earlier rounds are
    included where they were graded."""
    cells: list[MetricResult] = []
    for benchmark in study.benchmarks:
        base = study.counts.get((study.baseline, study.base_row.rounds, benchmark.name))
        for row in study.rows:
            if not row.covers(benchmark.name):
                continue
            for number in row.round_numbers:
                counts = study.counts.get((row.label, number, benchmark.name))
                if counts is not None or number == row.rounds:
                    cells += [
                        _result(benchmark, metric, row, number, counts, base)
                        for metric in benchmark.metrics
                    ]
    contrasts = control_contrasts(study)
    return [_with_controls(cell, contrasts) for cell in _with_holm(cells)]


def _result(
    benchmark: BenchmarkColumns,
    metric: Metric,
    row: Row,
    number: int,
    counts: Counts | None,
    base: Counts | None,
) -> MetricResult:
    """The row's result after round ``number``; ``base``: the baseline's counts."""
    cell = MetricResult(
        label=row.label,
        round=number,
        last=number == row.rounds,
        seeds=" ".join(map(str, counts.seeds)) if counts else "",
        seeds_planned=len(row.seeds),
        benchmark=benchmark.name,
        group=benchmark.group,
        version=benchmark.version,
        metric=metric.name,
        better=metric.better,
        unit=metric.unit,
        primary=metric.primary,
        scale=metric.scale,
        role=row.role,
        of=row.of or "",
    )
    if counts is None:
        return cell
    numerator_sum, denominator_sum = counts.terms(metric).sum(axis=(0, 1)).tolist()
    cell = replace(
        cell,
        numerator_sum=numerator_sum,
        denominator_sum=denominator_sum,
        value=counts.pooled(metric),
        seed_values=" ".join(f"{value:.10g}" for value in counts.seed_values(metric)),
        unscored=counts.unscored,
        questions=len(counts.questions),
        images=len(counts.images),
        verdict="baseline" if row.role == "baseline" else "not tested",
    )
    if row.role == "baseline" or base is None:
        return cell
    if base.questions != counts.questions:
        return replace(cell, verdict="other questions")
    return _with_difference(cell, metric, counts, base) if np.isfinite(cell.value) else cell


def _with_difference(
    cell: MetricResult, metric: Metric, counts: Counts, base: Counts
) -> MetricResult:
    terms, base_terms = counts.terms(metric), base.terms(metric)
    difference = estimate(terms, base_terms, scale=metric.scale)
    cell = replace(cell, baseline_value=base.pooled(metric), difference=difference.difference)
    if not np.isfinite(counts.seed_values(metric)).all():
        # Without that seed the others would look better than the method is.
        return replace(cell, verdict=SEED_WITHOUT_VALUE if cell.tested else cell.verdict)
    lo, hi = difference.interval()
    cell = replace(
        cell,
        lo=lo,
        hi=hi,
        about=difference.about,
        se_training=float(np.sqrt(difference.training)),
        se_images=float(np.sqrt(difference.images)),
        se_one_count=float(np.sqrt(difference.one_count)),
    )
    if not cell.tested:
        return cell
    cell = replace(cell, p=difference.p, verdict=UNTOLD_VERDICT)
    if difference.about != "method":
        return cell
    size = {"seeds": len(counts.seeds), "images": len(counts.images)}
    measured_spread = spread(terms, base_terms, metric.scale)
    return replace(cell, detectable=detectable_difference(measured_spread, **size))


def holm_family(cells: Sequence[MetricResult], role: str = "method") -> list[MetricResult]:
    """A family of tests that Holm corrects: the rows of this role x primary metrics, missing ones
    included. Methods, reference rows and controls are families of their own."""
    return [cell for cell in cells if cell.tested and cell.role == role]


def _with_holm(cells: Sequence[MetricResult]) -> list[MetricResult]:
    """The results with corrected p and verdict."""
    corrected = {}
    for role in dict.fromkeys(cell.role for cell in cells):
        family = holm_family(cells, role)
        for cell, p in zip(family, holm([cell.p for cell in family]), strict=True):
            corrected[cell.key] = p
    return [_verdict(cell, corrected[cell.key]) if cell.tested else cell for cell in cells]


def _verdict(cell: MetricResult, p_holm: float) -> MetricResult:
    if np.isnan(p_holm):
        return cell
    clear = p_holm < ALPHA
    if cell.about == "training":
        verdict = TRAINING_DIFFERS if clear else TRAINING_SAME
    else:
        gain = cell.difference > 0 if cell.better == "higher" else cell.difference < 0
        verdict = ("better" if gain else "worse") if clear else "no clear change"
    return replace(cell, p_holm=p_holm, verdict=verdict)


def _with_controls(cell: MetricResult, contrasts: Sequence[Contrast]) -> MetricResult:
    """The result with its controls of the same round: their outcomes where there is a gain, and
    the matched baseline."""
    key = (*cell.key, cell.round)
    own_contrasts = [contrast for contrast in contrasts if (*contrast.key, contrast.round) == key]
    for contrast in (contrast for contrast in own_contrasts if contrast.matched):
        cell = replace(
            cell,
            matched_by=contrast.other,
            matched_value=contrast.other_value,
            matched_difference=contrast.difference,
            matched_lo=contrast.lo,
            matched_hi=contrast.hi,
        )
    if cell.verdict != "better":
        return cell
    names: dict[str, Any] = {
        field: tuple(contrast.other for contrast in own_contrasts if contrast.outcome == outcome)
        for field, outcome in CONTROL_FIELDS.items()
    }
    return replace(cell, **names)


def as_frame(cells: Sequence[MetricResult]) -> pd.DataFrame:
    """The content of ``table.csv``: a line a result, every number unrounded."""
    lines = [
        asdict(cell) | {name: "; ".join(getattr(cell, name)) for name in CONTROL_FIELDS}
        for cell in cells
    ]
    return pd.DataFrame(lines)


def question_tests(study: StudyResults) -> list[tuple[str, str, int, McNemar]]:
    """(benchmark, label, seed, exact McNemar test) of each row's last round, for benchmarks whose
    questions are scored 0 or 1. Questions unscored in either row are left out."""
    tests = []
    for benchmark in study.benchmarks:
        base = study.counts.get((study.baseline, study.base_row.rounds, benchmark.name))
        for row in (row for row in study.compared if row.role != "matched"):
            counts = study.counts.get((row.label, row.rounds, benchmark.name))
            if base is None or counts is None or base.questions != counts.questions:
                continue
            for seed, values in zip(counts.seeds, counts.values, strict=True):
                scored_in_both = np.isfinite(values) & np.isfinite(base.values[0])
                base_scores, row_scores = base.values[0][scored_in_both], values[scored_in_both]
                if (
                    len(base_scores)
                    and np.isin(base_scores, (0, 1)).all()
                    and np.isin(row_scores, (0, 1)).all()
                ):
                    test = mcnemar(base_scores == 1, row_scores == 1)
                    tests.append((benchmark.name, row.label, seed, test))
    return tests
