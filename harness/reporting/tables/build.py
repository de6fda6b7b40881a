"""The comparison as one table object, built once from the cells, and the files it is written to.

A block a benchmark, a row a run, a cell such as ``8.1 (-2.3 [-3.4, -1.2])* better``; what the
literature reports has columns of its own. ``table.csv`` is the long form: a line a measured cell,
numbers unrounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from harness.artifacts.results_folder import write_bytes
from harness.reporting import leakage, literature, model_cards
from harness.reporting.comparison import Cell, as_frame, compare
from harness.reporting.leakage import Leaks
from harness.reporting.results import BenchmarkColumns, Records, Row, shown
from harness.reporting.tables import html as table_html
from harness.reporting.tables import latex as table_latex
from harness.reporting.tables import notes, pair_blocks, provenance
from harness.reporting.tables import text as table_text
from harness.reporting.tables.model import MISSING, Block, Column, Entry, Line, Table, block

GROUPS: Mapping[str, str] = {
    "baseline": "",
    "method": "",
    "bound": "bounds: supervision or exact truth that the methods do not have",
    "control": "controls: a method with one thing taken from it",
    "derived": (
        "derived: stored answers of the untrained model shortened or shifted, nothing trained"
    ),
}
"""The words above the rows of each role, in the table's order."""

MATCHED = 7
"""A benchmark with more ranked metrics shows its primary ones alone at equal length or share of
yes: official files break theirs down by category and reader. ``table.csv`` has them all."""

COMPARED = ("baseline", "method")
"""The best and second best are sought among these; bounds and controls are there to be compared
with."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A study's folder, read: its records (without the leaked images where that was asked), cells
    and table."""

    records: Records
    cells: tuple[Cell, ...]
    table: Table
    leaks: Leaks


def load(out: Path, *, exclude_leaks: bool = False) -> Comparison:
    """Read and compare a study's folder from its records, never from a model.

    Raises:
        UserError: the folder holds no study, a record is broken, or no image is left without the
            leaks.
    """
    records, leaks = leakage.opened(out, exclude_leaks=exclude_leaks)
    records = replace(
        records, facts={**records.facts, "provenance": tuple(provenance.sentences(out, records))}
    )
    cells = tuple(compare(records))
    table = build(records, cells, pair_blocks.blocks(out, records))
    return Comparison(records=records, cells=cells, table=table, leaks=leaks)


def write(out: Path, *, exclude_leaks: bool = False, made: Comparison | None = None) -> str:
    """Write ``table.md``, ``.tex``, ``.html`` and ``.csv`` and ``leaks.csv`` into a study's folder,
    and each row's results onto the cards of its models; the table for a terminal. ``made`` is what
    ``load`` gave, where it was called already.

    Raises:
        UserError: as in ``load``.
    """
    made = made or load(out, exclude_leaks=exclude_leaks)
    for name, text in (
        ("table.md", table_text.markdown(made.table)),
        ("table.tex", table_latex.fragment(made.table)),
        ("table.html", table_html.document(made.table)),
        ("table.csv", as_frame(made.cells).to_csv(index=False)),
    ):
        write_bytes(out / name, text.encode())
    leakage.write(out, made.leaks)
    model_cards.with_results(out, made.records, made.cells)
    return table_text.terminal(made.table)


def build(records: Records, cells: Sequence[Cell], made: Sequence[Block] = ()) -> Table:
    """The table; ``made`` are blocks about the pairs, whose records are no part of ``records``."""
    references = literature.references(records.rows, records.benchmarks)
    blocks = [
        _benchmark_block(records, cells, benchmark, references) for benchmark in records.benchmarks
    ]
    optional = [
        _matched_block(cells),
        _rounds_block(cells),
        _seeds_block(records, cells),
        _made_block(records),
        _funnel_block(records),
    ]
    return Table(
        title=records.name,
        question=records.question,
        reading=tuple(notes.reading(records, cells)),
        blocks=(*blocks, *(block for block in optional if block is not None), *made),
        notes=(*notes.footnotes(records, cells), *notes.reported(references)),
    )


def number(value: float, places: int, *, sign: bool = False) -> str:
    """A rounded number; a difference that rounds to nothing carries no sign."""
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    return f"{0:.{places}f}" if float(text) == 0 else text


def cell_text(cell: Cell) -> str:
    """``8.1 (-2.3 [-3.4, -1.2])* better``; the baseline has its value alone, † marks a row that
    lacks planned seeds."""
    return entry(cell).text


def entry(cell: Cell, rank: int = 0) -> Entry:
    """A measured cell as the table holds it; what a control reaches too is said in words."""
    if not np.isfinite(cell.value):
        return Entry(value=MISSING)
    places = cell.places
    change = ""
    if np.isfinite(cell.difference):
        bounds = (
            f" [{number(cell.lo, places)}, {number(cell.hi, places)}]"
            if np.isfinite(cell.lo)
            else ""
        )
        change = f"{number(cell.difference, places, sign=True)}{bounds}"
    remark = "other questions" if cell.verdict == "other questions" else ""
    if cell.reached_by:
        remark = f"a control reaches this too: {', '.join(cell.reached_by)}"
    return Entry(
        value=number(cell.value, places),
        change=change,
        verdict=(
            "better" if cell.verdict == "better" else "worse" if cell.verdict == "worse" else ""
        ),
        mark="†" if cell.n_seeds < cell.seeds_planned else "",
        remark=remark,
        rank=rank,
    )


def column_text(cell: Cell) -> str:
    return cell.heading + (" (primary)" if cell.primary else "")


def role(row: Row, baseline: str) -> str:
    return "baseline" if row.label == baseline else row.role if row.role in GROUPS else "method"


def by_role(records: Records) -> list[tuple[Row, str]]:
    """The rows with the words above their group: baseline, methods, bounds, controls, derived
    rows."""
    order = list(GROUPS)
    rows = sorted(records.rows, key=lambda row: order.index(role(row, records.baseline)))
    return [(row, GROUPS[role(row, records.baseline)]) for row in rows]


def _ranks(records: Records, cells: Sequence[Cell]) -> dict[tuple[str, str], int]:
    """1 and 2 for the best and second best of each metric by (label, metric); what prints alike
    shares its rank."""
    compared = {row.label for row in records.rows if role(row, records.baseline) in COMPARED}
    found: dict[tuple[str, str], int] = {}
    for metric in {cell.metric for cell in cells if cell.better != "none"}:
        mine = [
            cell
            for cell in cells
            if cell.metric == metric and cell.label in compared and np.isfinite(cell.value)
        ]
        values = sorted({float(number(cell.value, cell.places)) for cell in mine})
        values = values if mine and mine[0].better == "lower" else values[::-1]
        if len(values) > 1:
            for cell in mine:
                place = values.index(float(number(cell.value, cell.places)))
                found[cell.label, metric] = place + 1 if place < 2 else 0
    return found


def _benchmark_block(
    records: Records, cells: Sequence[Cell], benchmark: BenchmarkColumns, references: Sequence[str]
) -> Block:
    mine = [cell for cell in cells if cell.benchmark == benchmark.name and cell.last]
    first = [cell for cell in mine if cell.label == records.baseline]
    ranks = _ranks(records, mine)
    reported = literature.matching(records.rows, benchmark)
    lines = []
    for row, group in by_role(records):
        its = [cell for cell in mine if cell.label == row.label]
        if not its:
            continue  # a row of other benchmarks only
        seen = its[0].questions * its[0].n_seeds
        unscored = f"{its[0].unscored:,} of {seen:,}" if seen else MISSING
        entries = [entry(cell, ranks.get((cell.label, cell.metric), 0)) for cell in its]
        entries += [literature.of_row(row, numbers, references) for numbers in reported.values()]
        lines.append(Line(head=row.label, entries=(*entries, Entry(value=unscored)), group=group))
    empty = (Entry(value=MISSING),) * len(first)
    for base, name in literature.others(records.rows, reported):
        entries = [
            literature.of_name(base, name, numbers, references) for numbers in reported.values()
        ]
        lines.append(
            Line(
                head=name, entries=(*empty, *entries, Entry(value=MISSING)), group=literature.GROUP
            )
        )
    sizes = sorted({(cell.pictures, cell.questions) for cell in mine if cell.questions})
    said = (
        " / ".join(f"{pictures:,} images, {questions:,} questions" for pictures, questions in sizes)
        or "not graded yet"
    )
    measured = [Column(heading=cell.heading, primary=cell.primary) for cell in first]
    headings = {cell.metric: cell.heading for cell in first}
    return Block(
        heading=f"{shown(benchmark.name)} ({benchmark.group})",
        caption=f"{said}; {records.split} split; version {benchmark.version}",
        corner="run",
        columns=(
            *measured,
            *(literature.column(headings[name]) for name in reported),
            Column(heading="unscored"),
        ),
        lines=tuple(lines),
    )


def _matched_block(cells: Sequence[Cell]) -> Block | None:
    """Each row against what the baseline's own answers give at the row's caption length, or its
    share of yes."""
    mine = [cell for cell in cells if cell.matched_by and cell.better != "none"]
    mine = [cell for cell in mine if np.isfinite(cell.value) and np.isfinite(cell.matched_value)]
    metrics: dict[str, set[str]] = {}
    for cell in mine:
        metrics.setdefault(cell.benchmark, set()).add(cell.metric)
    long = [name for name, ranked in metrics.items() if len(ranked) > MATCHED]
    rows = []
    for cell in mine:
        if cell.benchmark in long and not cell.primary:
            continue
        places = cell.places
        bounds = (
            f" [{number(cell.matched_lo, places)}, {number(cell.matched_hi, places)}]"
            if np.isfinite(cell.matched_lo)
            else ""
        )
        apart = number(cell.matched_difference, places, sign=True) + bounds
        values = (number(cell.value, places), cell.matched_by, number(cell.matched_value, places))
        rows.append((cell.label, shown(cell.benchmark), cell.heading, *values, apart))
    if not rows:
        return None
    cut = (
        f"; of {', '.join(map(shown, long))} the primary metrics (table.csv has the others)"
        if long
        else ""
    )
    return block(
        heading="At equal length, or equal share of yes",
        caption=(
            "against the baseline's answers cut to the row's mean length or shifted to its share of"
            " yes; paired intervals"
        )
        + cut,
        header=("run", "benchmark", "metric", "value", "against", "its value", "difference"),
        rows=rows,
    )


def _rounds_block(cells: Sequence[Cell]) -> Block | None:
    """Each graded round on the primary metrics, where a run has more than one."""
    several = {cell.label for cell in cells if not cell.last}
    mine = [cell for cell in cells if cell.label in several and cell.primary]
    if not mine:
        return None
    columns = list(dict.fromkeys((cell.benchmark, cell.metric) for cell in mine))
    found = {(cell.label, cell.round, cell.benchmark, cell.metric): cell for cell in mine}
    rows = []
    for label, number_ in dict.fromkeys((cell.label, cell.round) for cell in mine):
        its = [found.get((label, number_, *column)) for column in columns]
        rows.append(
            (f"{label}, round {number_}", *(cell_text(cell) if cell else MISSING for cell in its))
        )
    return block(
        heading="Round by round",
        caption="primary metrics; only the last round of a run is tested",
        header=("run", *(f"{shown(benchmark)} {shown(metric)}" for benchmark, metric in columns)),
        rows=rows,
    )


def _seeds_block(records: Records, cells: Sequence[Cell]) -> Block | None:
    """Each training seed's own value, and Student's interval of the difference over the seeds."""
    mine = [cell for cell in cells if cell.primary and cell.last and cell.n_seeds > 1]
    if not mine:
        return None
    seeds = sorted({seed for cell in mine for seed in cell.seeds.split()}, key=int)
    rows = []
    for cell in mine:
        places = cell.places
        values = dict(zip(cell.seeds.split(), cell.seed_values.split(), strict=True))
        each = (
            number(float(values[seed]), places) if seed in values else MISSING for seed in seeds
        )
        over = MISSING
        if np.isfinite(cell.seed_lo):
            over = (
                f"{number(cell.seed_mean, places, sign=True)} [{number(cell.seed_lo, places)},"
                f" {number(cell.seed_hi, places)}]"
            )
        rows.append((cell.label, shown(cell.benchmark), cell.heading, *each, over))
    return block(
        heading="Training seeds apart",
        caption=(
            f"difference from {records.baseline}: mean over training seeds and its 95 % t-interval"
        ),
        header=(
            "run",
            "benchmark",
            "metric",
            *(f"seed {seed}" for seed in seeds),
            "difference over seeds",
        ),
        rows=rows,
    )


def totals(records: Records, label: str) -> pd.Series[float]:
    """A row's sums over its rounds, averaged over the seeds whose every round is finished; nan
    where none is."""
    mine = (
        records.stages[records.stages["label"] == label]
        .drop(columns=["label", "round"])
        .astype("float64")
    )
    unfinished = mine.isna().groupby(mine["seed"]).any()
    return mine.groupby("seed").sum().mask(unfinished).mean()


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{round(seconds / 60)} min" if whole < 7200 else f"{seconds / 3600:.1f} h"


def _made_block(records: Records) -> Block | None:
    rows = [
        _made_row(records, row)
        for row, _ in by_role(records)
        if role(row, records.baseline) != "derived"
    ]
    return block(
        heading="How each row was made",
        caption="all rounds together, mean over training seeds",
        header=(
            "run", "supervision", "seeds", "rounds", "pictures", "prompts", "pairs", "dropped", "pairs used", "steps",
            "tokens generated", "tokens trained", "making pairs", "training",
        ),
        rows=rows,
    )  # fmt: skip


def _made_row(records: Records, row: Row) -> tuple[str, ...]:
    if row.rounds == 0:
        return (row.label, row.supervision, "none", *["none"] * 11)
    sums = totals(records, row.label)
    names = ("pairs", "dropped", "used", "steps", "tokens_generated", "tokens_trained")
    counted = [_count(float(sums[name])) for name in names]
    prompts = _count(float(sums["pairs"] + sums["dropped"]))
    times = [duration(float(sums[name])) for name in ("seconds_pairs", "seconds_train")]
    made = _count(float(sums["images"]))
    return (
        row.label,
        row.supervision,
        str(len(row.seeds)),
        str(row.rounds),
        made,
        prompts,
        *counted,
        *times,
    )


def _funnel_block(records: Records) -> Block | None:
    """What became of the prompts: pairs, or the reason for having none."""
    labels = [row.label for row in records.rows if row.rounds]
    sums = {label: totals(records, label) for label in labels}
    labels = [label for label in labels if np.isfinite(sums[label]["pairs"])]
    if not labels:
        return None
    reasons = records.drops.groupby("reason")["count"].sum().sort_values(ascending=False)
    rows = [
        (
            "prompts made",
            *(_count(float(sums[label]["pairs"] + sums[label]["dropped"])) for label in labels),
        )
    ]
    for reason in (None, *map(str, reasons.index)):
        texts = []
        for label in labels:
            made = float(sums[label]["pairs"] + sums[label]["dropped"])
            mean = (
                float(sums[label]["pairs"])
                if reason is None
                else drops_mean(records, label, reason)
            )
            texts.append(f"{_count(mean)} ({100 * mean / made:.1f} %)" if made else "0")
        rows.append(("became a pair" if reason is None else f"dropped: {reason}", *texts))
    return block(
        heading="What became of the prompts",
        caption="all rounds together, mean over training seeds; prompts made = pairs + dropped",
        header=("prompts", *labels),
        rows=rows,
    )


def drops_mean(records: Records, label: str, reason: str) -> float:
    """Drops of this reason summed over rounds, averaged over the seeds whose pairs are all made (a
    seed without it has 0)."""
    stages = records.stages[records.stages["label"] == label]
    seeds = set(stages["seed"]) - set(stages.loc[stages["pairs"].isna(), "seed"])
    drops = records.drops
    mine = drops[
        (drops["label"] == label) & (drops["reason"] == reason) & drops["seed"].isin(seeds)
    ]
    return float(mine["count"].sum()) / len(seeds)
