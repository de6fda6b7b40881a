"""Numbers and results as the table's texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from harness.reporting.comparison import SEED_WITHOUT_VALUE, TRAINING_DIFFERS, MetricResult
from harness.reporting.tables.model import FEWER_SEEDS, MISSING, REACHED, UNTOLD, TableCell


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


STAMPS: Mapping[str, Literal["better", "worse", "this training"]] = {
    "better": "better",
    "worse": "worse",
    TRAINING_DIFFERS: "this training",
}
REMARKS = ("other questions", SEED_WITHOUT_VALUE)


def table_cell(cell: MetricResult, *, ahead: bool = False) -> TableCell:
    """A result as a cell of the table."""
    if not np.isfinite(cell.value):
        return TableCell(value=MISSING)
    mark = REACHED if cell.reached_by else UNTOLD if cell.untold_by else ""
    mark += FEWER_SEEDS if cell.n_seeds < cell.seeds_planned else ""
    return TableCell(
        value=number(cell.value, cell.places),
        change=change(cell),
        verdict=STAMPS.get(cell.verdict, ""),
        mark=mark,
        remark=cell.verdict if cell.verdict in REMARKS else "",
        ahead=ahead,
    )
