"""Numbers and results as the table's texts."""

from __future__ import annotations

import numpy as np

from harness.reporting.comparison import MetricResult
from harness.reporting.tables.model import FEWER_SEEDS, MISSING, REACHED, TableCell


def number(value: float, places: int, *, sign: bool = False) -> str:
    """A rounded number. A difference that rounds to zero has no sign."""
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    return f"{0:.{places}f}" if float(text) == 0 else text


def printed(value: float, places: int) -> str:
    """A rounded number; ``MISSING`` where it is nan."""
    return number(value, places) if np.isfinite(value) else MISSING


def with_interval(difference: float, lo: float, hi: float, places: int) -> str:
    """``-2.3 [-3.4, -1.2]``; the difference alone where there is no interval."""
    text = number(difference, places, sign=True)
    if np.isfinite(lo):
        text += f" [{number(lo, places)}, {number(hi, places)}]"
    return text


def change(cell: MetricResult) -> str:
    """The difference from the baseline with its interval; "": there is none."""
    if not np.isfinite(cell.difference):
        return ""
    return with_interval(cell.difference, cell.lo, cell.hi, cell.places)


def table_cell(cell: MetricResult, rank: int = 0) -> TableCell:
    """A result as a cell of the table."""
    if not np.isfinite(cell.value):
        return TableCell(value=MISSING)
    mark = REACHED if cell.reached_by else ""
    mark += FEWER_SEEDS if cell.n_seeds < cell.seeds_planned else ""
    return TableCell(
        value=number(cell.value, cell.places),
        change=change(cell),
        verdict="better"
        if cell.verdict == "better"
        else "worse"
        if cell.verdict == "worse"
        else "",
        mark=mark,
        remark="other questions" if cell.verdict == "other questions" else "",
        rank=rank,
    )
