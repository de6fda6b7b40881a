"""The one table object: rows, columns, cells and notes as plain text, built once and rendered as
Markdown, LaTeX, HTML and text.

All text in it is raw (models', users' and data's words); each renderer escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MISSING = "-"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A cell: ``value``, its ``change`` from the baseline with the interval, the star's ``verdict``
    and ``remark`` in words.

    ``mark`` is a sign explained in the notes (†). ``rank``: 1 the best, 2 the second best of the
    compared rows, 0 neither."""

    value: str
    change: str = ""
    verdict: Literal["", "better", "worse"] = ""
    mark: str = ""
    remark: str = ""
    rank: int = 0

    @property
    def text(self) -> str:
        """All of it on one line: ``8.1 (-2.3 [-3.4, -1.2])* better``."""
        text = self.value + (f" ({self.change})" if self.change else "")
        text += f"* {self.verdict}" if self.verdict else ""
        return text + (f" ({self.remark})" if self.remark else "") + self.mark


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: a ``primary`` metric carries the stars; a ``reported`` one holds numbers of papers,
    never measured ones."""

    heading: str
    primary: bool = False
    reported: bool = False

    @property
    def text(self) -> str:
        return self.heading + (" (primary)" if self.primary else "")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its name, its cells, and the words above the group of rows it stands in ("": none)."""

    head: str
    entries: tuple[Entry, ...]
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A small table of its own: ``corner`` heads the rows' names, ``columns`` the others."""

    heading: str
    caption: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def header(self) -> tuple[str, ...]:
        return (self.corner, *(column.text for column in self.columns))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Every row as text, its name first."""
        return tuple((line.head, *(entry.text for entry in line.entries)) for line in self.lines)

    @property
    def grouped(self) -> tuple[tuple[str, tuple[Line, ...]], ...]:
        """The rows by group, in order."""
        groups: dict[str, list[Line]] = {}
        for line in self.lines:
            groups.setdefault(line.group, []).append(line)
        return tuple((name, tuple(lines)) for name, lines in groups.items())


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything a reader needs: what was asked, a reading in words, blocks, notes."""

    title: str
    question: str
    reading: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def block(
    heading: str, caption: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> Block:
    """A block of plain texts."""
    return Block(
        heading=heading,
        caption=caption,
        corner=header[0],
        columns=tuple(Column(heading=head) for head in header[1:]),
        lines=tuple(
            Line(head=row[0], entries=tuple(Entry(value=text) for text in row[1:])) for row in rows
        ),
    )


def printable(text: str) -> str:
    """Model and data text on one line, without control characters (a terminal would obey them)."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
