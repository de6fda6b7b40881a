"""The table as text: Markdown for a file, columns of fixed width for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.reporting.tables.cells import Block, Table, printable

WIDTH = 160


def escape(text: str) -> str:
    """Plain text for Markdown: it cannot break a cell or begin markup or HTML."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\|*`_~":
        text = text.replace(char, "\\" + char)
    return text.replace("](", "]\\(")


def markdown(table: Table) -> str:
    lines = [f"# {escape(table.title)}", "", escape(table.question), ""]
    lines += [*_section(table.summary), ""] if table.summary else []
    lines += [f"- {escape(text)}" for text in table.reading]
    for block in table.blocks:
        lines += ["", *_section(block)]
    lines += ["", "## Notes", "", *(f"- {escape(text)}" for text in table.notes)]
    return "\n".join(lines) + "\n"


def _section(block: Block) -> list[str]:
    lines = [f"## {escape(block.heading)}", "", f"{escape(block.caption)}", ""]
    lines += [_row(block.header), "| :-- |" + " --: |" * len(block.columns)]
    for group, members in block.grouped:
        if group:
            lines.append("| *" + escape(group) + "* |" + " |" * len(block.columns))
        for line in members:
            lines.append(_row((line.head, *(cell.text for cell in line.cells))))
    return lines


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, texts)) + " |"


def terminal(table: Table, width: int = WIDTH) -> str:
    lines = [printable(table.title), *textwrap.wrap(printable(table.question), width), ""]
    if table.summary:
        heads = table.summary.stacked
        height = max(map(len, heads))
        stacked = zip(*([""] * (height - len(head)) + head for head in heads), strict=True)
        lines += [*_terminal_block(table.summary, width, [list(row) for row in stacked]), ""]
    lines += _bullets(table.reading, width)
    for block in table.blocks:
        lines += ["", *_terminal_block(block, width, [list(block.header)])]
    return "\n".join([*lines, "", *_bullets(table.notes, width)]) + "\n"


def _terminal_block(block: Block, width: int, head: Sequence[Sequence[str]]) -> list[str]:
    """Caption and columns; ``head`` is the header in one or more lines."""
    rows = [[printable(text) for text in row] for row in (*head, *block.rows)]
    groups = [*[""] * len(head), *(line.group for line in block.lines)]
    lines = textwrap.wrap(printable(f"{block.heading}: {block.caption}"), width)
    for columns in _split_columns(rows, width):
        cells = [[row[column] for column in columns] for row in rows]
        sizes = [max(len(row[index]) for row in cells) for index in range(len(columns))]
        for index, row in enumerate(cells):
            if index and groups[index] != groups[index - 1]:
                lines.append(f"{printable(groups[index])[: width - 1]}:")
            texts = [
                row[0].ljust(sizes[0]),
                *(text.rjust(size) for text, size in zip(row[1:], sizes[1:], strict=True)),
            ]
            lines.append("  ".join(texts).rstrip())
            if index == len(head) - 1:
                lines.append("  ".join("-" * size for size in sizes))
        lines.append("")
    return lines[:-1]


def _bullets(texts: Sequence[str], width: int) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(f"- {printable(text)}", width, subsequent_indent="  ")
    ]


def _split_columns(rows: list[list[str]], width: int) -> list[list[int]]:
    """The columns' indices in parts that fit the width; each part begins with the first column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    column_groups: list[list[int]] = []
    room = 0
    for column in range(1, len(widths)):
        if not column_groups or room < widths[column] + 2:
            column_groups.append([0])
            room = width - widths[0]
        column_groups[-1].append(column)
        room -= widths[column] + 2
    return column_groups
