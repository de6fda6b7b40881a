"""The table as HTML: ``fragment`` for a page of one's own, ``document`` for a file to open. Every
text is escaped."""

from __future__ import annotations

from html import escape as html_escape

from harness.reporting.tables.model import Block, Column, Entry, Table, printable

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0"
    " 1rem;color:#1b1b1b}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .6rem;text-align:right;vertical-align:top}th:first-child{text-align:left}"
    "thead th{border-bottom:1px solid #555;vertical-align:bottom}tbody tr{border-bottom:1px solid"
    " #e3e3e3}"
    "td small{display:block;white-space:nowrap;color:#444}td"
    " small.remark{white-space:normal;max-width:14rem;margin-left:auto}"
    "th.group{font-weight:400;font-style:italic;padding-top:.7rem}td.better{background:#e6f2ea}td.worse{background:#fbe9e5}"
    ".reported{color:#5a4a00;background:#fdf8e4}.second{text-decoration:underline}.soft{color:#555}"
)


def escape(text: str) -> str:
    return html_escape(printable(text))


def fragment(table: Table) -> str:
    """Headings from ``h2`` down, a ``section.block`` a block; it brings no style and no script."""
    notes = "\n".join(f"<li>{escape(text)}</li>" for text in table.notes)
    reading = "\n".join(f"<li>{escape(text)}</li>" for text in table.reading)
    return "\n".join(
        [
            (
                f"<h2>{escape(table.title)}</h2>\n<p>{escape(table.question)}</p>\n<ul"
                f' class="reading">\n{reading}\n</ul>'
            ),
            *map(block_fragment, table.blocks),
            f'<h3>Notes</h3>\n<ul class="notes">\n{notes}\n</ul>\n',
        ]
    )


def block_fragment(block: Block, benchmark: str = "") -> str:
    """One block. Classes: ``better`` and ``worse`` on starred cells, ``reported`` on the
    literature's, ``best``, ``second``.
    ``benchmark``: the name that a page's script finds the block by.
    """
    data = f' data-benchmark="{escape(benchmark)}"' if benchmark else ""
    heads = "".join(
        f'<th scope="col"{_class("reported" if column.reported else "")}>{_head(column)}</th>'
        for column in block.columns
    )
    lines = []
    for group, members in block.grouped:
        if group:
            lines.append(
                f'<tr><th class="group" colspan="{len(block.columns) + 1}"'
                f' scope="rowgroup">{escape(group)}</th></tr>'
            )
        for line in members:
            cells = "".join(
                _cell(entry, column.reported)
                for entry, column in zip(line.entries, block.columns, strict=True)
            )
            lines.append(f'<tr><th scope="row">{escape(line.head)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<section class="block"{data}>\n<h3>{escape(block.heading)}</h3>\n<p'
        f' class="soft">{escape(block.caption)}</p>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(block.heading)},'
        ' table">\n<table>\n'
        "<thead><tr><th"
        f' scope="col">{escape(block.corner)}</th>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n'
        "</div>\n</section>"
    )


def _head(column: Column) -> str:
    """An arrow and a unit stay with the last word."""
    text = escape(column.text)
    for sign in ("↑", "↓", "%"):
        text = text.replace(f" {sign}", f"\u00a0{sign}")
    return text


def _cell(entry: Entry, reported: bool) -> str:
    value = escape(entry.value)
    if entry.rank:
        value = (
            f'<b class="best">{value}</b>'
            if entry.rank == 1
            else f'<span class="second">{value}</span>'
        )
    said = (
        (f"({entry.change})" if entry.change else "")
        + (f"* {entry.verdict}" if entry.verdict else "")
        + entry.mark
    )
    small = f" <small>{escape(said)}</small>" if said else ""
    small += f' <small class="remark">{escape(entry.remark)}</small>' if entry.remark else ""
    return f"<td{_class(entry.verdict, 'reported' if reported else '')}>{value}{small}</td>"


def _class(*names: str) -> str:
    found = " ".join(name for name in names if name)
    return f' class="{found}"' if found else ""


def document(table: Table) -> str:
    """A whole file, with a small style of its own."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{fragment(table)}</body>\n</html>\n"
    )
