"""The comparison itself: for each row, benchmark and metric a cell with its difference from the
baseline and its statistics.

Stars: sign-flip p over images, Holm over all methods x primary metrics of the study (the last
round of each). With several training seeds the interval and the test take each image's counts
averaged over the seeds against the baseline; the seeds' own values and their t-interval are kept
apart, because a bootstrap over images says nothing about another training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.reporting.results import GRADE_KEYS, BenchmarkColumns, Records, Row, shown
from harness.reporting.stats import (
    Floats,
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the table and everything said about it; a line of ``table.csv``.

    ``role`` and ``of``: see :class:`harness.reporting.results.Row`. ``reached_by``, for a method's
    clear gain (verdict better): the labels of its controls, derived ones included, that it is not
    clearly better than: the paired 95 % interval of method minus control, over images, does not
    lie wholly on the better side of 0. ``matched_by`` is the derived row, the baseline at the
    method's own caption length or yes-ratio; ``matched_value`` its value and ``matched_difference``
    [``matched_lo``,
    ``matched_hi``] method minus that: the method against the baseline at equal length, or at equal
    yes-ratio.

    ``value`` is ``scale * numerator_sum / denominator_sum`` (counts pooled over the seeds; nan:
    missing). ``verdict``: better, worse or no clear change (primary metrics, by ``p_holm``); not
    tested; missing; baseline. ``detectable`` is the smallest true difference found with 80 % power
    at 0.05. ``unscored`` counts over all seeds, ``questions`` and ``pictures`` once."""

    label: str
    round: int
    last: bool
    seeds: str
    seeds_planned: int
    benchmark: str
    group: str
    version: str
    metric: str
    better: str
    unit: str
    primary: bool
    scale: float
    numerator_sum: float = NAN
    denominator_sum: float = NAN
    value: float = NAN
    baseline_value: float = NAN
    difference: float = NAN
    lo: float = NAN
    hi: float = NAN
    interval: str = "none"
    se: float = NAN
    detectable: float = NAN
    p: float = NAN
    p_holm: float = NAN
    verdict: str = "missing"
    seed_values: str = ""
    seed_mean: float = NAN
    seed_lo: float = NAN
    seed_hi: float = NAN
    unscored: int = 0
    questions: int = 0
    pictures: int = 0
    role: str = "method"
    of: str = ""
    reached_by: tuple[str, ...] = ()
    matched_by: str = ""
    matched_value: float = NAN
    matched_difference: float = NAN
    matched_lo: float = NAN
    matched_hi: float = NAN

    @property
    def n_seeds(self) -> int:
        return len(self.seeds.split())

    @property
    def heading(self) -> str:
        """The column's head: the metric, where it should go, its unit."""
        arrow = {"higher": "↑", "lower": "↓", "none": ""}[self.better]
        unit = "" if self.unit == self.metric else self.unit
        return " ".join(part for part in (shown(self.metric), arrow, unit) if part)

    @property
    def full_name(self) -> str:
        return f"{shown(self.benchmark)} / {shown(self.metric)}"

    @property
    def places(self) -> int:
        """Decimals to print: one for points of a hundred, two for smaller scales (words a caption,
        scores)."""
        return 1 if self.scale >= 100 else 2


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One row's grades on one benchmark: ``sums[name]`` is ``(S, C)``, a number a seed and image,
    images sorted."""

    seeds: tuple[int, ...]
    pictures: tuple[str, ...]
    questions: tuple[str, ...]
    sums: dict[str, Floats]
    values: Floats  # (S, Q): each question's own score, nan where unscored

    def pairs(self, metric: Metric) -> Floats:
        """Numerator and denominator ``(S, C, 2)``; a count no grade mentions is zero, as in
        ``metric_value``."""
        zeros = np.zeros((len(self.seeds), len(self.pictures)))
        return np.stack(
            [self.sums.get(metric.numerator, zeros), self.sums.get(metric.denominator, zeros)],
            axis=-1,
        )

    @property
    def unscored(self) -> int:
        return int(np.isnan(self.values).sum())


def counts(grades: pd.DataFrame, label: str, round: int, benchmark: str) -> Counts | None:
    """The row's counts by seed and image; None where nothing is graded. Seeds that saw other
    questions are not mixed in."""
    mine = grades[
        (grades["label"] == label) & (grades["round"] == round) & (grades["benchmark"] == benchmark)
    ]
    return None if mine.empty else counted(mine)


def grouped(grades: pd.DataFrame) -> dict[tuple[str, int, str], Counts]:
    """Every row's counts, by label, round and benchmark."""
    parts = grades.groupby(["label", "round", "benchmark"], sort=False)
    return {
        (str(label), int(str(round)), str(name)): counted(part)
        for (label, round, name), part in parts
    }


def counted(mine: pd.DataFrame) -> Counts:
    """The counts of one row's grades on one benchmark."""
    # Another benchmark's counts are 0 here, and an absent count is taken as 0.
    names = [name for name in mine.columns if name.startswith("count_") and mine[name].any()]
    by_seed = {int(str(seed)): part.sort_values("question") for seed, part in mine.groupby("seed")}
    first = next(iter(by_seed.values()))
    questions = first["question"].tolist()
    by_seed = {
        seed: part for seed, part in by_seed.items() if part["question"].tolist() == questions
    }
    summed = [part.groupby("cluster", sort=True)[names].sum() for part in by_seed.values()]
    return Counts(
        seeds=tuple(by_seed),
        pictures=tuple(str(picture) for picture in summed[0].index),
        questions=tuple(questions),
        sums={
            name.removeprefix("count_"): np.stack(
                [part[name].to_numpy(dtype=np.float64) for part in summed]
            )
            for name in names
        },
        values=np.stack([part["value"].to_numpy(dtype=np.float64) for part in by_seed.values()]),
    )


def compare(records: Records) -> list[Cell]:
    """Every cell, in the table's order: benchmark, row, round, metric. Earlier rounds are there
    where they were graded."""
    cells: list[Cell] = []
    answered = grouped(records.grades)
    for benchmark in records.benchmarks:
        base = answered.get(
            (records.baseline, records.row(records.baseline).rounds, benchmark.name)
        )
        for row in records.rows:
            if not row.covers(benchmark.name):
                continue
            for number in range(1, row.rounds + 1) if row.rounds else (0,):
                mine = answered.get((row.label, number, benchmark.name))
                if mine is not None or number == row.rounds:
                    cells += _cells(
                        benchmark, row, number, mine, base, row.label == records.baseline
                    )
    return [_against_controls(records, cell, answered) for cell in _starred(cells)]


def _cells(
    benchmark: BenchmarkColumns,
    row: Row,
    number: int,
    mine: Counts | None,
    base: Counts | None,
    is_base: bool,
) -> list[Cell]:
    """A row's cells on a benchmark, a metric each."""
    intervals: list[Interval | None] = [None] * len(benchmark.metrics)
    if mine is not None and base is not None and not is_base and base.questions == mine.questions:
        systems = [
            (base.pairs(one).mean(axis=0), mine.pairs(one).mean(axis=0), one.scale)
            for one in benchmark.metrics
        ]
        intervals = [*paired_intervals(systems)]
    return [
        _cell(benchmark, metric, row, number, mine, base, is_base, found)
        for metric, found in zip(benchmark.metrics, intervals, strict=True)
    ]


def _cell(
    benchmark: BenchmarkColumns,
    metric: Metric,
    row: Row,
    number: int,
    mine: Counts | None,
    base: Counts | None,
    is_base: bool,
    found: Interval | None,
) -> Cell:
    cell = Cell(
        label=row.label,
        round=number,
        last=number == row.rounds,
        seeds=" ".join(map(str, mine.seeds)) if mine else "",
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
    if mine is None:
        return cell
    by_seed = mine.pairs(metric)
    totals = by_seed.sum(axis=(0, 1))
    each = ratio(by_seed.sum(axis=1), metric.scale)
    cell = replace(
        cell,
        numerator_sum=float(totals[0]),
        denominator_sum=float(totals[1]),
        value=float(ratio(totals, metric.scale)),
        seed_values=" ".join(f"{value:.10g}" for value in each),
        unscored=mine.unscored,
        questions=len(mine.questions),
        pictures=len(mine.pictures),
        verdict="baseline" if is_base else "not tested",
    )
    if is_base or base is None:
        return cell
    if found is None:
        return replace(cell, verdict="other questions")
    if not np.isfinite(cell.value):
        return cell
    theirs = base.pairs(metric).mean(axis=0)
    averaged = by_seed.mean(axis=0)
    baseline_value = float(ratio(theirs.sum(axis=0), metric.scale))
    seed_mean, seed_lo, seed_hi = seed_interval([float(value) - baseline_value for value in each])
    return replace(
        cell,
        baseline_value=baseline_value,
        difference=found.difference,
        lo=found.lo,
        hi=found.hi,
        interval=found.how,
        se=found.se,
        detectable=smallest_detectable(found.se),
        p=sign_flip(theirs, averaged, scale=metric.scale) if _is_tested(cell) else NAN,
        seed_mean=seed_mean,
        seed_lo=seed_lo,
        seed_hi=seed_hi,
    )


def family(cells: Sequence[Cell]) -> list[int]:
    """The places of the family the stars are corrected over: rows x primary metrics, missing ones
    included; rows that are derived from the baseline's answers claim nothing and are not among
    them."""
    return [place for place, cell in enumerate(cells) if _is_tested(cell)]


def _is_tested(cell: Cell) -> bool:
    return (
        cell.primary
        and cell.last
        and cell.better != "none"
        and cell.role not in ("baseline", "derived")
    )


def _starred(cells: list[Cell]) -> list[Cell]:
    places = family(cells)
    done = list(cells)
    for place, p_holm in zip(places, holm([cells[place].p for place in places]), strict=True):
        cell = cells[place]
        if np.isnan(p_holm):
            continue
        good = cell.difference > 0 if cell.better == "higher" else cell.difference < 0
        verdict = ("better" if good else "worse") if p_holm < ALPHA else "no clear change"
        done[place] = replace(cell, p_holm=p_holm, verdict=verdict)
    return done


def _against_controls(
    records: Records, cell: Cell, answered: Mapping[tuple[str, int, str], Counts]
) -> Cell:
    """The cell with its method held against its controls: both after as many rounds as the control
    has."""
    if cell.role not in ("method", "bound") or not cell.last:
        return cell
    found = next(one for one in records.benchmarks if one.name == cell.benchmark)
    metric = next(one for one in found.metrics if one.name == cell.metric)
    reached = []
    for row in records.rows:
        # A derived row is held against the very round it was made to match; it has no rounds of its
        # own.
        number = cell.round if row.role == "derived" else min(cell.round, row.rounds)
        if row.of != cell.label or (row.role != "derived" and cell.verdict != "better"):
            continue  # only a gain can be reached
        mine = answered.get((cell.label, number, cell.benchmark))
        control = answered.get((row.label, row.rounds, cell.benchmark))
        if mine is None or control is None or control.questions != mine.questions:
            continue
        theirs, ours = control.pairs(metric).mean(axis=0), mine.pairs(metric).mean(axis=0)
        apart = paired_interval(theirs, ours, scale=metric.scale)
        if row.role == "derived":
            cell = replace(
                cell,
                matched_by=row.label,
                matched_value=float(ratio(theirs.sum(axis=0), metric.scale)),
                matched_difference=apart.difference,
                matched_lo=apart.lo,
                matched_hi=apart.hi,
            )
        if cell.verdict == "better" and not (
            apart.lo > 0 if cell.better == "higher" else apart.hi < 0
        ):
            reached.append(
                row.label
                if row.rounds in (0, cell.round)
                else f"{row.label} (both after round {row.rounds})"
            )
    return replace(cell, reached_by=tuple(reached))


def as_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """The long form that ``table.csv`` holds: a line a cell, every number unrounded."""
    return pd.DataFrame(
        [{**asdict(cell), "reached_by": "; ".join(cell.reached_by)} for cell in cells]
    )


def question_tests(records: Records) -> list[tuple[str, str, int, McNemar]]:
    """(benchmark, label, seed, exact McNemar test) wherever both rows' questions are scored 0 or 1,
    in each row's last round.

    Questions unscored in either system are left out.
    """
    last = {row.label: row.rounds for row in records.methods} | {
        records.baseline: records.row(records.baseline).rounds
    }
    grades = records.grades
    values = grades[[*GRADE_KEYS, "question", "cluster", "value"]]
    found, answered = [], grouped(values[grades["round"] == grades["label"].map(last)])
    for benchmark in records.benchmarks:
        base = answered.get(
            (records.baseline, records.row(records.baseline).rounds, benchmark.name)
        )
        for row in (row for row in records.methods if row.role != "derived"):
            mine = answered.get((row.label, row.rounds, benchmark.name))
            if base is None or mine is None or base.questions != mine.questions:
                continue
            for seed, values in zip(mine.seeds, mine.values, strict=True):
                both = np.isfinite(values) & np.isfinite(base.values[0])
                first, second = base.values[0][both], values[both]
                if len(first) and np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
                    found.append(
                        (benchmark.name, row.label, seed, mcnemar(first == 1, second == 1))
                    )
    return found
