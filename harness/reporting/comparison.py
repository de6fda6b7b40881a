"""Compares each row with the baseline: for each benchmark and metric a value, its difference, and
the difference's statistics.

Stars: p of a sign-flip permutation over images, corrected by Holm over all methods and primary
metrics of the study (last rounds only). With several training seeds, interval and test use each
image's counts averaged over the seeds. A bootstrap over images cannot say what another training
would give, so the seeds' own values and their t-interval are kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.reporting.counts import Counts, all_counts
from harness.reporting.display_names import display_name
from harness.reporting.results import GRADE_KEYS, BenchmarkColumns, Row, StudyResults
from harness.reporting.stats import (
    Interval,
    McNemar,
    holm,
    mcnemar,
    paired_interval,
    paired_intervals,
    ratio,
    seed_interval,
    sign_flip,
    smallest_detectable,
)

ALPHA = 0.05
NAN = float("nan")
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
CountsByRow = Mapping[tuple[str, int, str], Counts]
"""Counts by label, round and benchmark."""


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
    """The row's value minus the baseline's, in the metric's unit; [``lo``, ``hi``] is its paired
    95 % interval over images, ``interval`` the kind of interval, ``se`` its standard error."""
    lo: float = NAN
    hi: float = NAN
    interval: str = "none"
    se: float = NAN
    detectable: float = NAN
    """The smallest true difference that the test finds with 80 % power at 0.05."""
    p: float = NAN
    p_holm: float = NAN
    verdict: str = "missing"
    """By ``p_holm``: "better", "worse" or "no clear change". Otherwise "not tested", "other
    questions" (than the baseline's), "missing" or "baseline"."""
    seed_values: str = ""
    """Each seed's own value, separated by spaces."""
    seed_mean: float = NAN
    """Mean difference over the seeds, with its t-interval [``seed_lo``, ``seed_hi``]."""
    seed_lo: float = NAN
    seed_hi: float = NAN
    unscored: int = 0
    """Unscored answers of all seeds."""
    questions: int = 0
    images: int = 0
    role: str = "method"
    of: str = ""
    reached_by: tuple[str, ...] = ()
    """Where the verdict is "better": the controls (and matched baselines) that the row does not
    clearly beat. The paired 95 % interval of row minus control includes 0, or lies on the worse
    side."""
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
    def heading(self) -> str:
        """The column's heading: metric, direction, unit."""
        unit = "" if self.unit == self.metric else self.unit
        return " ".join(filter(None, (display_name(self.metric), ARROWS[self.better], unit)))

    @property
    def full_name(self) -> str:
        return f"{display_name(self.benchmark)} / {display_name(self.metric)}"

    @property
    def places(self) -> int:
        """Decimals to print: one for percentages, two for smaller scales."""
        return 1 if self.scale >= 100 else 2

    @property
    def tested(self) -> bool:
        """Whether the result is one of the tests that Holm corrects. Matched baselines are not:
        they claim nothing."""
        directed = self.better != "none" and self.role not in ("baseline", "matched")
        return self.primary and self.last and directed

    @property
    def key(self) -> tuple[str, str, str]:
        """Label, benchmark and metric."""
        return self.label, self.benchmark, self.metric


def compare(study: StudyResults) -> list[MetricResult]:
    """Every result in the table's order: benchmark, row, round, metric. Earlier rounds are
    included where they were graded."""
    cells: list[MetricResult] = []
    counts = all_counts(study.grades)
    for benchmark in study.benchmarks:
        base = counts.get((study.baseline, study.base_row.rounds, benchmark.name))
        for row in study.rows:
            if not row.covers(benchmark.name):
                continue
            for number in row.round_numbers:
                mine = counts.get((row.label, number, benchmark.name))
                if mine is not None or number == row.rounds:
                    case = _Case(
                        benchmark=benchmark,
                        row=row,
                        round=number,
                        counts=mine,
                        base=base,
                        is_base=row.label == study.baseline,
                    )
                    cells += _row_results(case)
    return [_against_controls(study, cell, counts) for cell in _with_holm(cells)]


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A row after one round on one benchmark, with its counts and the baseline's."""

    benchmark: BenchmarkColumns
    row: Row
    round: int
    counts: Counts | None
    base: Counts | None
    is_base: bool


def _row_results(case: _Case) -> list[MetricResult]:
    """The results of all metrics of a benchmark; they share the bootstrap's resamples."""
    metrics, counts, base = case.benchmark.metrics, case.counts, case.base
    intervals: list[Interval | None] = [None] * len(metrics)
    if counts and base and not case.is_base and base.questions == counts.questions:
        intervals = [
            *paired_intervals(
                [
                    (base.mean_terms(metric), counts.mean_terms(metric), metric.scale)
                    for metric in metrics
                ]
            )
        ]
    return [
        _result(case, metric, interval) for metric, interval in zip(metrics, intervals, strict=True)
    ]


def _result(case: _Case, metric: Metric, interval: Interval | None) -> MetricResult:
    row, counts, benchmark = case.row, case.counts, case.benchmark
    cell = MetricResult(
        label=row.label,
        round=case.round,
        last=case.round == row.rounds,
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
    totals = counts.terms(metric).sum(axis=(0, 1))
    seed_values = counts.seed_values(metric)
    cell = replace(
        cell,
        numerator_sum=float(totals[0]),
        denominator_sum=float(totals[1]),
        value=float(ratio(totals, metric.scale)),
        seed_values=" ".join(f"{value:.10g}" for value in seed_values),
        unscored=counts.unscored,
        questions=len(counts.questions),
        images=len(counts.images),
        verdict="baseline" if case.is_base else "not tested",
    )
    if case.is_base or case.base is None:
        return cell
    if interval is None:
        return replace(cell, verdict="other questions")
    if not np.isfinite(cell.value):
        return cell
    return _with_difference(cell, metric, counts, case.base, interval)


def _with_difference(
    cell: MetricResult, metric: Metric, counts: Counts, base: Counts, interval: Interval
) -> MetricResult:
    terms, base_terms = counts.mean_terms(metric), base.mean_terms(metric)
    baseline_value = float(ratio(base_terms.sum(axis=0), metric.scale))
    by_seed = [float(value) - baseline_value for value in counts.seed_values(metric)]
    seed_mean, seed_lo, seed_hi = seed_interval(by_seed)
    return replace(
        cell,
        baseline_value=baseline_value,
        difference=interval.difference,
        lo=interval.lo,
        hi=interval.hi,
        interval=interval.how,
        se=interval.se,
        detectable=smallest_detectable(interval.se),
        p=sign_flip(base_terms, terms, scale=metric.scale) if cell.tested else NAN,
        seed_mean=seed_mean,
        seed_lo=seed_lo,
        seed_hi=seed_hi,
    )


def holm_family(cells: Sequence[MetricResult]) -> list[MetricResult]:
    """The family of tests that Holm corrects: rows x primary metrics, missing ones included."""
    return [cell for cell in cells if cell.tested]


def _with_holm(cells: Sequence[MetricResult]) -> list[MetricResult]:
    """The results with corrected p and verdict."""
    corrected = iter(holm([cell.p for cell in holm_family(cells)]))
    return [_verdict(cell, next(corrected)) if cell.tested else cell for cell in cells]


def _verdict(cell: MetricResult, p_holm: float) -> MetricResult:
    if np.isnan(p_holm):
        return cell
    gain = cell.difference > 0 if cell.better == "higher" else cell.difference < 0
    verdict = ("better" if gain else "worse") if p_holm < ALPHA else "no clear change"
    return replace(cell, p_holm=p_holm, verdict=verdict)


def _against_controls(study: StudyResults, cell: MetricResult, counts: CountsByRow) -> MetricResult:
    """The result with ``reached_by`` and ``matched_*``. Row and control are compared after the
    same number of rounds; a matched baseline is compared with the row's last round, which it was
    made for."""
    if cell.role not in ("method", "reference") or not cell.last:
        return cell
    metric = study.benchmark(cell.benchmark).metric(cell.metric)
    reached = []
    for control in study.rows:
        matched = control.role == "matched"
        if control.of != cell.label or (not matched and cell.verdict != "better"):
            continue  # a control can only reach a gain
        number = cell.round if matched else min(cell.round, control.rounds)
        mine = counts.get((cell.label, number, cell.benchmark))
        other = counts.get((control.label, control.rounds, cell.benchmark))
        if mine is None or other is None or other.questions != mine.questions:
            continue
        terms = other.mean_terms(metric)
        interval = paired_interval(terms, mine.mean_terms(metric), scale=metric.scale)
        if matched:
            cell = replace(
                cell,
                matched_by=control.label,
                matched_value=float(ratio(terms.sum(axis=0), metric.scale)),
                matched_difference=interval.difference,
                matched_lo=interval.lo,
                matched_hi=interval.hi,
            )
        beaten = interval.lo > 0 if cell.better == "higher" else interval.hi < 0
        if cell.verdict == "better" and not beaten:
            rounds = f" (both after round {control.rounds})"
            reached.append(control.label + ("" if control.rounds in (0, cell.round) else rounds))
    return replace(cell, reached_by=tuple(reached))


def as_frame(cells: Sequence[MetricResult]) -> pd.DataFrame:
    """The content of ``table.csv``: a line a result, every number unrounded."""
    return pd.DataFrame(
        [{**asdict(cell), "reached_by": "; ".join(cell.reached_by)} for cell in cells]
    )


def question_tests(study: StudyResults) -> list[tuple[str, str, int, McNemar]]:
    """(benchmark, label, seed, exact McNemar test) of each row's last round, for benchmarks whose
    questions are scored 0 or 1. Questions unscored in either row are left out."""
    last = {row.label: row.rounds for row in study.rows}
    grades = study.grades[[*GRADE_KEYS, "question", "cluster", "value"]]
    counts = all_counts(grades[grades["round"] == grades["label"].map(last)])
    tests = []
    for benchmark in study.benchmarks:
        base = counts.get((study.baseline, study.base_row.rounds, benchmark.name))
        for row in study.compared:
            mine = counts.get((row.label, row.rounds, benchmark.name))
            if row.role == "matched" or base is None or mine is None:
                continue
            if base.questions != mine.questions:
                continue
            for seed, values in zip(mine.seeds, mine.values, strict=True):
                both = np.isfinite(values) & np.isfinite(base.values[0])
                first, second = base.values[0][both], values[both]
                if len(first) and np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
                    test = mcnemar(first == 1, second == 1)
                    tests.append((benchmark.name, row.label, seed, test))
    return tests
