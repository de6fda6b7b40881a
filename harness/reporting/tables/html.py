"""The table as HTML: ``fragment`` to put into a page, ``document`` as a file of its own. Every text
is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape as html_escape

from harness.reporting.tables.cells import Block, Column, Table, TableCell, printable

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
body{color:#1b1b1b}.scroll{overflow-x:auto}.soft{color:#555}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;vertical-align:top}th:first-child{text-align:left}
thead th{border-bottom:1px solid #555;vertical-align:bottom}
tbody tr{border-bottom:1px solid #e3e3e3}
.whole{white-space:nowrap}td small{display:block;color:#444}td small span{white-space:nowrap}
td small.remark{white-space:normal;max-width:14rem;margin-left:auto}
th.group{font-weight:400;font-style:italic;padding-top:.7rem}
td.better{background:#e6f2ea}td.worse{background:#fbe9e5}
.reported{color:#5a4a00;background:#fdf8e4}
""".strip()


def escape(text: str) -> str:
    return html_escape(printable(text))


def fragment(table: Table) -> str:
    """Headings from ``h2`` down, a ``section.block`` a block; without style and script."""
    blocks = "\n".join(map(block_fragment, table.blocks))
    summary = f"{block_fragment(table.summary)}\n" if table.summary else ""
    return (
        f"<h2>{escape(table.title)}</h2>\n<p>{escape(table.question)}</p>\n"
        f"{summary}{_list('reading', table.reading)}\n{blocks}\n"
        f"<h3>Notes</h3>\n{_list('notes', table.notes)}\n"
    )


def _list(name: str, texts: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{name}">\n{items}\n</ul>'


def block_fragment(block: Block, benchmark: str = "") -> str:
    """One block. Classes of cells: ``better`` and ``worse`` (starred), ``this-training``,
    ``best``, ``reported`` (from papers). ``benchmark``: the name by which the page's script
    finds the block."""
    data = f' data-benchmark="{escape(benchmark)}"' if benchmark else ""
    heads = "".join(
        f'<th scope="col"{_class("reported" if column.reported else "")}>{_head(column)}</th>'
        for column in block.columns
    )
    lines = []
    for group, members in block.grouped:
        if group:
            span = f'colspan="{len(block.columns) + 1}" scope="rowgroup"'
            lines.append(f'<tr><th class="group" {span}>{escape(group)}</th></tr>')
        for line in members:
            cells = "".join(
                _cell(cell, column) for cell, column in zip(line.cells, block.columns, strict=True)
            )
            lines.append(f'<tr><th scope="row">{escape(line.head)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<section class="block"{data}>\n<h3>{escape(block.heading)}</h3>\n'
        f'<p class="soft">{escape(block.caption)}</p>\n'
        '<div class="scroll" role="region" tabindex="0"'
        f' aria-label="{escape(block.heading)}, table">\n<table>\n'
        f'<thead><tr><th scope="col">{escape(block.corner)}</th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>\n</section>"
    )


def _head(column: Column) -> str:
    """The heading; no line breaks before an arrow or a unit, nor within CHAIR-s."""
    return re.sub(r"\b\w+-\w\b", r'<span class="whole">\g<0></span>', _unbroken(column.text))


def _unbroken(heading: str) -> str:
    return re.sub(r" (?=[↑↓%])", "\u00a0", escape(heading))


def _cell(cell: TableCell, column: Column) -> str:
    value = escape(cell.value)
    if cell.ahead:
        value = f'<b class="best">{value}</b>'
    value += escape(cell.mark)
    # An interval stays on one line; the page puts it below its difference where columns are narrow.
    difference, bracket, interval = escape(cell.change).partition("[")
    small = difference + (f"<span>[{interval}</span>" if bracket else "") + escape(cell.stamp)
    small = f" <small>{small}</small>" if small else ""
    small += f' <small class="remark">{escape(cell.remark)}</small>' if cell.remark else ""
    names = (cell.verdict.replace(" ", "-"), "reported" if column.reported else "")
    # On a phone the page shows the heading above each cell.
    return f'<td{_class(*names)} data-heading="{_unbroken(column.text)}">{value}{small}</td>'


def _class(*names: str) -> str:
    present = " ".join(filter(None, names))
    return f' class="{present}"' if present else ""


def document(table: Table) -> str:
    """A whole file with its style."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{fragment(table)}</body>\n</html>\n"
    )
