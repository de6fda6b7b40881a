"""The summary table: the rows' primary metrics, one number and at most two marks a cell. It stands
first in every output; ``summary.csv`` and ``summary.tex`` hold it alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import base_name, metric_name, row_name, with_trainer
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import (
    FEWER_SEEDS,
    MISSING,
    ONE_TRAINING,
    REACHED,
    UNTOLD,
    Block,
    Column,
    TableCell,
    TableRow,
    table_cell,
)

COMPANIONS = ("yes_ratio", "recall", "cover")
"""Without the first of these that it has, a benchmark's primary metrics are easily misread: silence
lowers CHAIR, and always "yes" gives POPE half of its points."""
MOST_ROWS, SCREEN_ROWS = 50, 20
"""The most rows on a page of paper, and on a screen. Controls are left out first."""
STAR = "*"
MEANINGS = {
    STAR: "clear difference from {baseline}, for better or worse",
    ONE_TRAINING: "clear for one training, not for the method",
    REACHED: "does not exceed a control, so the gain is not the method's own",
    UNTOLD: "whether it exceeds its controls cannot be told yet",
}

Line = tuple[Row, int]
"""A row after one of its rounds."""


def block(study: StudyResults, cells: Iterable[MetricResult], most: int = MOST_ROWS) -> Block:
    """The summary with at most ``most`` rows."""
    found = {(cell.label, cell.round, *cell.column): cell for cell in cells}
    columns = list(dict.fromkeys(_columns(study, found.values())))
    shown = lines(study, {key[:2] for key in found}, most)
    marked = len({row.rounds for row in study.rows if row.rounds}) > 1
    made = tuple(
        TableRow(
            head=_label(row, round, marked),
            cells=tuple(_cell(found.get((row.label, round, *key))) for key, _ in columns),
            group="reference rows" if row.role == "reference" else "",
        )
        for row, round in shown
    )
    left_out = {row.label for row in study.rows if row.role != "matched"}
    left_out -= {row.label for row, _ in shown}
    return Block(
        heading="Summary",
        caption="; ".join((*_facts(study, shown), *_legend(study, made, len(left_out)))),
        corner="row",
        columns=tuple(Column(heading=heading) for _, heading in columns),
        lines=made,
    )


def lines(study: StudyResults, graded: set[tuple[str, int]], most: int = MOST_ROWS) -> list[Line]:
    """The rows by round. A method also stands there after the earlier rounds at which other rows
    end, if it was ``graded`` (label, round) then. Its controls follow it, after the same round."""
    trained = [row for row in study.rows if row.role != "matched"]
    ends = sorted({row.rounds for row in trained})
    found: list[Line] = [(study.base_row, study.base_row.rounds)]
    for round in ends:
        for row in (row for row in trained if row.role == "method"):
            earlier = 0 < round < row.rounds and row.varied is None
            if round == row.rounds or (earlier and (row.label, round) in graded):
                found.append((row, round))
                found += [
                    (control, round)
                    for control in trained
                    if (control.role, control.of, control.rounds) == ("control", row.label, round)
                ]
    found += [(row, row.rounds) for row in trained if row.role == "reference"]
    if len(found) > most:
        found = [line for line in found if line[0].role != "control"]
    return found[:most]


def as_csv(study: StudyResults, cells: Iterable[MetricResult]) -> str:
    """``summary.csv``: a line a row; for each column its number and its marks."""
    cells = list(cells)
    table, places = block(study, cells), lines(study, {(cell.label, cell.round) for cell in cells})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (name for column in table.columns for name in (column.text, f"{column.text} marks"))
    writer.writerow([table.corner, "label", "role", "round", *names])
    for (row, round), line in zip(places, table.lines, strict=True):
        values = (part for cell in line.cells for part in (cell.value, cell.mark))
        texts = ("" if part == MISSING else part for part in values)
        writer.writerow([line.head, row.label, row.role, round, *texts])
    return text.getvalue()


def _columns(
    study: StudyResults, cells: Iterable[MetricResult]
) -> Iterable[tuple[tuple[str, str], str]]:
    """((benchmark, metric), heading) of each primary metric, and a companion a benchmark."""
    known = {cell.column: cell for cell in cells}
    for benchmark in study.benchmarks:
        names = [metric.name for metric in benchmark.metrics if metric.primary]
        there = [metric.name for metric in benchmark.metrics]
        names += [name for name in COMPANIONS if names and name in there][:1]
        for name in names:
            if cell := known.get((benchmark.name, name)):
                yield (benchmark.name, name), metric_name(benchmark.name, cell.heading)


def _label(row: Row, round: int, marked: bool) -> str:
    """The row's name, with its round where rows differ in their rounds (``marked``)."""
    if row.role == "baseline":
        return f"{base_name(row.base)} ({row.label})"
    if row.role == "control":  # it stands below its method, after the same round
        name = f"control: {row.label.removeprefix(f'{row.of} ')}"
        return with_trainer(name, row.trainer)
    if row.given:
        return f"{row.label} (not trained here)"
    name = with_trainer(row_name(row.label), row.trainer) + (
        f", round {round}" if round and marked else ""
    )
    return name + (" (not tested)" if round < row.rounds else "")


def _cell(cell: MetricResult | None) -> TableCell:
    if cell is None:
        return TableCell(value=MISSING)
    whole = table_cell(cell)
    mark = {"": "", "this training": ONE_TRAINING}.get(whole.verdict, STAR)
    mark += whole.mark.replace(FEWER_SEEDS, "")
    return TableCell(value=whole.value, verdict=whole.verdict, mark=mark, brief=True)


def _facts(study: StudyResults, shown: Sequence[Line]) -> Iterable[str]:
    """What the rows share: base, pool, seeds, rounds."""
    trained = [row for row, round in shown if round]
    bases = (base_name(row.base) for row, _ in shown if not row.given)
    yield f"Base {' or '.join(dict.fromkeys(bases))}"
    if not trained:
        return
    yield f"pool {' or '.join(dict.fromkeys(row.pool for row in trained))}"
    seeds = dict.fromkeys(", ".join(map(str, row.seeds)) for row in trained)
    yield f"training seed{'s' * any(',' in text for text in seeds)} {' or '.join(seeds)}"
    rounds = " or ".join(map(str, sorted({round for _, round in shown if round})))
    yield f"rounds {rounds}"
    yield from _adapters([row for row in trained if row.role == "method"])
    if study.missing:
        yield "some stages are missing (see the notes)"


def _adapters(methods: Sequence[Row]) -> Iterable[str]:
    """The rank of the methods' LoRA, and which methods it is of where others train in full."""
    ranks = {row.label: row.value_of("recipe.lora.r") for row in methods}
    adapted = {label: rank for label, rank in ranks.items() if rank is not None}
    if adapted:
        whom = "" if len(adapted) == len(ranks) else f" ({', '.join(map(row_name, adapted))})"
        yield f"LoRA r {' or '.join(dict.fromkeys(adapted.values()))}{whom}"


def _legend(study: StudyResults, made: Sequence[TableRow], left_out: int) -> Iterable[str]:
    """The marks that occur, and how many rows are left out."""
    marks = "".join(cell.mark for line in made for cell in line.cells)
    for mark, meaning in MEANINGS.items():
        if mark in marks:
            yield f"{mark} {meaning.format(baseline=study.baseline)}"
    if left_out:
        yield f"rows only in the long tables: {left_out}"
