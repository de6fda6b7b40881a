"""The table as one object of plain texts: blocks, rows, cells and notes; and numbers and results
as its texts. It is built once and rendered as Markdown, LaTeX, HTML and terminal text.

Texts are raw (they come from models, users and data); each renderer escapes them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.reporting.comparison import SEED_WITHOUT_VALUE, TRAINING_DIFFERS, MetricResult
from harness.reporting.display_names import grouped

MISSING = "-"
REACHED, FEWER_SEEDS, UNTOLD = "†", "‡", "§"
"""Marks at a value, explained in the notes."""
ONE_TRAINING = "°"
"""The mark of a difference that is clear for one training; a star is for methods only."""


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A cell of the table."""

    value: str
    change: str = ""
    """The difference from the baseline with its interval."""
    verdict: Literal["", "better", "worse", "this training"] = ""
    """Printed with a star; "this training" with the lighter mark ``ONE_TRAINING``."""
    mark: str = ""
    """Marks at the value that the notes explain, such as ``REACHED``."""
    remark: str = ""
    """A remark in words, in brackets."""
    ahead: bool = False
    """Whether the row is truly ahead of the baseline and of every other method."""
    brief: bool = False
    """Whether the marks say all that is printed of the verdict (the summary)."""

    @property
    def stamp(self) -> str:
        """The verdict with its mark: ``* better``."""
        if self.brief:
            return ""
        mark = ONE_TRAINING if self.verdict == "this training" else "*"
        return f"{mark} {self.verdict}" if self.verdict else ""

    @property
    def text(self) -> str:
        """All of it on one line: ``8.1† (-2.3 [-3.4, -1.2])* better``."""
        text = self.value + self.mark + (f" ({self.change})" if self.change else "")
        text += self.stamp
        return text + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a block."""

    heading: str
    primary: bool = False
    """Whether it holds a primary metric, which carries stars."""
    reported: bool = False
    """Whether it holds numbers from papers, not measured ones."""

    @property
    def text(self) -> str:
        return self.heading + (" (primary)" if self.primary else "")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row: its name, its cells, and the heading of its group of rows ("": none)."""

    head: str
    cells: tuple[TableCell, ...]
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A table with a heading and a caption; ``corner`` is the heading of the rows' names."""

    heading: str
    caption: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[TableRow, ...]

    @property
    def header(self) -> tuple[str, ...]:
        return (self.corner, *(column.text for column in self.columns))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Every row as text, its name first."""
        return tuple((line.head, *(cell.text for cell in line.cells)) for line in self.lines)

    @property
    def stacked(self) -> list[list[str]]:
        """Each heading in lines, broken between words, not much wider than its column's cells."""
        heads = []
        for column, heading in enumerate(map(printable, self.header)):
            cells = (len(row[column]) for row in self.rows) if column else (len(heading),)
            room = max(1, *map(len, heading.split()), *cells)
            heads.append(textwrap.wrap(heading, room, break_on_hyphens=False) or [""])
        return heads

    @property
    def grouped(self) -> tuple[tuple[str, tuple[TableRow, ...]], ...]:
        """The rows by group, in order."""
        groups = grouped((line.group, line) for line in self.lines)
        return tuple((name, tuple(lines)) for name, lines in groups.items())


@dataclass(frozen=True, kw_only=True)
class Table:
    """The whole table: title, the study's question, a summary in sentences, blocks, notes.
    ``summary``: the table that stands first."""

    title: str
    question: str
    reading: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    summary: Block | None = None


def text_block(
    heading: str, caption: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> Block:
    """A block of plain texts; the first column holds the rows' names."""
    return Block(
        heading=heading,
        caption=caption,
        corner=header[0],
        columns=tuple(Column(heading=name) for name in header[1:]),
        lines=tuple(
            TableRow(head=row[0], cells=tuple(TableCell(value=text) for text in row[1:]))
            for row in rows
        ),
    )


def printable(text: str) -> str:
    """The text on one line, without control characters (a terminal would obey them)."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def number(value: float, decimals: int, *, sign: bool = False) -> str:
    """A rounded number. A difference that rounds to zero has no sign."""
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text) == 0 else text


def printed(value: float, decimals: int) -> str:
    """A rounded number; ``MISSING`` where it is nan."""
    return number(value, decimals) if np.isfinite(value) else MISSING


def with_interval(difference: float, lo: float, hi: float, decimals: int) -> str:
    """``-2.3 [-3.4, -1.2]``; the difference alone where there is no interval."""
    text = number(difference, decimals, sign=True)
    if np.isfinite(lo):
        text += f" [{number(lo, decimals)}, {number(hi, decimals)}]"
    return text


def change(cell: MetricResult) -> str:
    """The difference from the baseline with its interval; "": there is none."""
    if not np.isfinite(cell.difference):
        return ""
    return with_interval(cell.difference, cell.lo, cell.hi, cell.decimals)


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
        value=number(cell.value, cell.decimals),
        change=change(cell),
        verdict=STAMPS.get(cell.verdict, ""),
        mark=mark,
        remark=cell.verdict if cell.verdict in REMARKS else "",
        ahead=ahead,
    )
