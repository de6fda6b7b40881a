"""The end of a run on one screen: the rows' primary metrics, and the first sentences of the
summary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults
from harness.reporting.tables.build import ComparedStudy
from harness.reporting.tables.cells import number, table_cell
from harness.reporting.tables.model import MISSING, Block, Column, Table, TableCell, TableRow

ROLES = ("baseline", "method", "reference")
"""The rows that are shown; controls and matched baselines are in the full table."""
MOST_ROWS, SENTENCES = 14, 3


def short(comparison: ComparedStudy) -> Table:
    """The table with the primary metrics of its first rows alone, without notes."""
    reading = comparison.table.reading[:SENTENCES]
    blocks = (block(comparison.study, comparison.cells),)
    return replace(comparison.table, reading=reading, blocks=blocks, notes=())


def block(study: StudyResults, cells: Iterable[MetricResult]) -> Block:
    """The rows' primary metrics after their last round."""
    rows = [row.label for row in study.rows if row.role in ROLES]
    mine = {cell.key: cell for cell in cells if cell.last and cell.primary and cell.label in rows}
    columns = list(dict.fromkeys((*key[1:], cell.heading) for key, cell in mine.items()))
    lines = []
    for label in rows[:MOST_ROWS]:
        found = [mine.get((label, benchmark, metric)) for benchmark, metric, _ in columns]
        texts = tuple(map(_cell, found))
        lines.append(TableRow(head=label, cells=texts))
    left_out = len(study.rows) - len(lines)
    more = f"; {left_out} more rows are in the table" if left_out else ""
    return Block(
        heading="Primary metrics",
        caption=f"value (difference from {study.baseline}), * significant{more}",
        corner="row",
        columns=tuple(
            Column(heading=_heading(benchmark, heading)) for benchmark, _, heading in columns
        ),
        lines=tuple(lines),
    )


def _cell(cell: MetricResult | None) -> TableCell:
    """A cell without its interval."""
    if cell is None:
        return TableCell(value=MISSING)
    known = np.isfinite(cell.difference)
    change = number(cell.difference, cell.places, sign=True) if known else ""
    return replace(table_cell(cell), change=change)


def _heading(benchmark: str, heading: str) -> str:
    """``POPE accuracy``, but ``CHAIR-s`` where the metric already names the benchmark."""
    name = display_name(benchmark).removeprefix("synthetic ")
    return heading if heading.startswith(name) else f"{name} {heading}"
