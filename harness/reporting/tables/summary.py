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
    by_key = {(cell.label, cell.round, *cell.column): cell for cell in cells}
    columns = list(dict.fromkeys(_columns(study, by_key.values())))
    row_lines = lines(study, {key[:2] for key in by_key}, most)
    marked = len({row.rounds for row in study.rows if row.rounds}) > 1
    table_rows = tuple(
        TableRow(
            head=_label(row, round, marked),
            cells=tuple(_cell(by_key.get((row.label, round, *key))) for key, _ in columns),
            group="reference rows" if row.role == "reference" else "",
        )
        for row, round in row_lines
    )
    left_out = {row.label for row in study.rows if row.role != "matched"}
    left_out -= {row.label for row, _ in row_lines}
    return Block(
        heading="Summary",
        caption="; ".join((*_facts(study, row_lines), *_legend(study, table_rows, len(left_out)))),
        corner="row",
        columns=tuple(Column(heading=heading) for _, heading in columns),
        lines=table_rows,
    )


def lines(study: StudyResults, graded: set[tuple[str, int]], most: int = MOST_ROWS) -> list[Line]:
    """The rows by round. A method also stands there after the earlier rounds at which other rows
    end, if it was ``graded`` (label, round) then. Its controls follow it, after the same round."""
    trained = [row for row in study.rows if row.role != "matched"]
    ends = sorted({row.rounds for row in trained})
    row_lines: list[Line] = [(study.base_row, study.base_row.rounds)]
    for round in ends:
        for row in (row for row in trained if row.role == "method"):
            earlier = 0 < round < row.rounds and row.varied is None
            if round == row.rounds or (earlier and (row.label, round) in graded):
                row_lines.append((row, round))
                row_lines += [
                    (control, round)
                    for control in trained
                    if (control.role, control.of, control.rounds) == ("control", row.label, round)
                ]
    row_lines += [(row, row.rounds) for row in trained if row.role == "reference"]
    if len(row_lines) > most:
        row_lines = [line for line in row_lines if line[0].role != "control"]
    return row_lines[:most]


def as_csv(study: StudyResults, cells: Iterable[MetricResult]) -> str:
    """``summary.csv``: a line a row; for each column its number and its marks."""
    cells = list(cells)
    table, row_lines = (
        block(study, cells),
        lines(study, {(cell.label, cell.round) for cell in cells}),
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (name for column in table.columns for name in (column.text, f"{column.text} marks"))
    writer.writerow([table.corner, "label", "role", "round", *names])
    for (row, round), line in zip(row_lines, table.lines, strict=True):
        values = (part for cell in line.cells for part in (cell.value, cell.mark))
        texts = ("" if part == MISSING else part for part in values)
        writer.writerow([line.head, row.label, row.role, round, *texts])
    return text.getvalue()


def _columns(
    study: StudyResults, cells: Iterable[MetricResult]
) -> Iterable[tuple[tuple[str, str], str]]:
    """((benchmark, metric), heading) of each primary metric, and a companion a benchmark."""
    cell_of = {cell.column: cell for cell in cells}
    for benchmark in study.benchmarks:
        names = [metric.name for metric in benchmark.metrics if metric.primary]
        metrics = [metric.name for metric in benchmark.metrics]
        names += [name for name in COMPANIONS if names and name in metrics][:1]
        for name in names:
            if cell := cell_of.get((benchmark.name, name)):
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
    full = table_cell(cell)
    mark = {"": "", "this training": ONE_TRAINING}.get(full.verdict, STAR)
    mark += full.mark.replace(FEWER_SEEDS, "")
    return TableCell(value=full.value, verdict=full.verdict, mark=mark, brief=True)


def _facts(study: StudyResults, row_lines: Sequence[Line]) -> Iterable[str]:
    """What the rows share: base, pool, seeds, rounds."""
    trained = [row for row, round in row_lines if round]
    bases = (base_name(row.base) for row, _ in row_lines if not row.given)
    yield f"Base {' or '.join(dict.fromkeys(bases))}"
    if not trained:
        return
    yield f"pool {' or '.join(dict.fromkeys(row.pool for row in trained))}"
    seeds = dict.fromkeys(", ".join(map(str, row.seeds)) for row in trained)
    yield f"training seed{'s' * any(',' in text for text in seeds)} {' or '.join(seeds)}"
    rounds = " or ".join(map(str, sorted({round for _, round in row_lines if round})))
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


def _legend(study: StudyResults, table_rows: Sequence[TableRow], left_out: int) -> Iterable[str]:
    """The marks that occur, and how many rows are left out."""
    marks = "".join(cell.mark for line in table_rows for cell in line.cells)
    for mark, meaning in MEANINGS.items():
        if mark in marks:
            yield f"{mark} {meaning.format(baseline=study.baseline)}"
    if left_out:
        yield f"rows only in the long tables: {left_out}"
