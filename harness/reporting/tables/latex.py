r"""The table as LaTeX: a ``fragment`` to ``\input`` into a paper that loads array and booktabs, or
a ``document`` to compile alone.

A cell has two lines: the value, then its difference and interval. Bold: truly ahead of
the baseline and of every other method."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

from harness.reporting.tables.cells import (
    MISSING,
    Block,
    Column,
    Table,
    TableCell,
    TableRow,
    printable,
)

TEXT, COLUMN = 410, 230
"""The text width and the width of a column, in points, of a page in two columns."""
WIDTH, WIDEST = 480, 110
"""The width in points of a table (the text width of A4 paper) and of one column. A wider block is
continued in another table."""
LINES = 26
"""Rows of a table. A longer block is continued in another table."""

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%",
    "&": r"\&", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
    '"': "''", "[": "{[}", "]": "{]}", "*": "{*}", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "×": r"$\times$", "–": "--", "—": "---",
    "§": r"\S{}", "°": r"$^{\circ}$", "…": r"\ldots{}", "‘": "`", "’": "'", "“": "``", "”": "''",
    "ß": r"{\ss}", "ø": r"{\o}", "Ø": r"{\O}", "æ": r"{\ae}", "Æ": r"{\AE}",
}  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327", "`'^~\"rvc", strict=True))

PACKAGES = r"% \usepackage{array,booktabs}"
LEGEND = (
    r"Below a value: its difference from the baseline and the 95\,\% interval; $^{*}$: see the"
    r" notes; $^{\circ}$: about one training. "
    r"Bold: truly ahead of the baseline and of every other method."
)


def escape(text: str) -> str:
    """Plain text for LaTeX, in any font encoding. A character that it cannot print becomes its code
    point."""
    text = "".join(map(_sign, unicodedata.normalize("NFC", printable(text))))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)


def _sign(char: str) -> str:
    if char in SIGNS:
        return SIGNS[char]
    if " " <= char <= "~":
        return char
    letter, *marks = list(unicodedata.normalize("NFD", char))
    if letter.isascii() and letter.isalpha() and len(marks) == 1 and marks[0] in ACCENTS:
        return f"{{\\{ACCENTS[marks[0]]}{{{letter}}}}}"
    return f"{{[}}U+{ord(char):04X}{{]}}"


def fragment(table: Table) -> str:
    """One or more floats a block, then the notes as a list."""
    parts = [
        PACKAGES,
        *([summary_float(table.summary)] if table.summary else []),
        *(part for block in table.blocks for part in _floats(block)),
    ]
    notes = "\n".join(rf"\item[$\bullet$] {escape(text)}" for text in table.notes)
    return (
        "\n\n".join([*parts, f"\\begin{{itemize}}\\footnotesize\n{notes}\n\\end{{itemize}}"]) + "\n"
    )


def summary(block: Block) -> str:
    """``summary.tex``: the summary alone."""
    return f"{PACKAGES}\n\n{summary_float(block)}\n"


def summary_float(block: Block) -> str:
    """One float for a page in two columns. Columns that do not fit beside the others go below
    them."""
    names = min(150, 3 + max(round(4.6 * len(line.head)) for line in block.lines))
    widths = [
        _points([*head, *(line.cells[index].text for line in block.lines)], []) + 3
        for index, head in enumerate(block.stacked[1:])
    ]
    column_parts = _parts(widths, TEXT - names)
    width = names + max(
        (sum(widths[index] for index in columns) for columns in column_parts), default=0
    )
    name = "table" if width <= COLUMN else "table*"
    rows = [
        rf"\begin{{{name}}}[tbp]\centering\small\setlength{{\tabcolsep}}{{3pt}}",
        rf"\caption{{{escape(block.heading)}: {escape(block.caption)}.}}",
    ]
    for columns in column_parts:
        heads = (r" \\ ".join(map(escape, block.stacked[index + 1])) for index in columns)
        stacks = (rf"\shortstack[r]{{{head}}}" for head in heads)
        rows += [
            rf"\par\medskip\begin{{tabular}}{{@{{}}>{{\raggedright\arraybackslash}}p{{{names}pt}}"
            rf"*{{{len(columns)}}}{{r}}@{{}}}}",
            r"\toprule",
            _line([escape(block.corner), *stacks]),
        ]
        for group, lines in block.grouped:
            rows += [r"\midrule", *([_group(group, len(columns))] if group else [])]
            for line in lines:
                cells = (_brief(line.cells[index]) for index in columns)
                rows.append(_line([escape(line.head), *cells]))
        rows += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*rows, rf"\end{{{name}}}"])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _group(name: str, columns: int) -> str:
    """The heading of a group of rows, over the rows' names and these columns."""
    return rf"\multicolumn{{{columns + 1}}}{{@{{}}l}}{{\emph{{{escape(name)}}}}} \\"


def _brief(cell: TableCell) -> str:
    mark = rf"\textsuperscript{{{escape(cell.mark)}}}" if cell.mark else ""
    return escape(cell.value) + mark


def document(table: Table) -> str:
    """A document for pdflatex."""
    reading = "\n".join(rf"\item[$\bullet$] {escape(text)}" for text in table.reading)
    return (
        "\\documentclass[a4paper]{article}\n\\usepackage[margin=1.8cm]{geometry}\n"
        "\\usepackage{array,booktabs}\n\\sloppy\n"
        f"\\begin{{document}}\n\\section*{{{escape(table.title)}}}\n{escape(table.question)}\n"
        f"\\begin{{itemize}}\n{reading}\n\\end{{itemize}}\n\n{fragment(table)}\\end{{document}}\n"
    )


def _floats(block: Block) -> Iterator[str]:
    """The block as tables of at most ``WIDTH`` points and ``LINES`` rows."""
    names = _points([block.corner, *(line.head for line in block.lines)], [])
    widths = [
        _points(
            [*column.text.split(), *(line.cells[index].value for line in block.lines)],
            [line.cells[index].change for line in block.lines],
        )
        for index, column in enumerate(block.columns)
    ]
    first = True
    for columns in _parts(widths, WIDTH - names):
        lines = [line for line in block.lines if _belongs(line, columns)]
        for top in range(0, len(lines), LINES):
            yield _float(
                block,
                columns,
                (names, *(widths[index] for index in columns)),
                lines[top : top + LINES],
                first,
            )
            first = False


def _belongs(line: TableRow, columns: range) -> bool:
    """Whether the row has a value in these columns, or none at all. A paper's row has none in
    measured columns."""
    filled = [index for index, cell in enumerate(line.cells) if cell.value != MISSING]
    return not filled or any(index in columns for index in filled)


def _points(texts: Sequence[str], small: Sequence[str]) -> int:
    """The width in points of a column with these texts and these smaller ones."""
    longest, longest_small = (max(map(len, some), default=0) for some in (texts, small))
    return min(WIDEST, max(round(4.6 * longest), round(3.8 * longest_small)) + 3)


def _parts(widths: Sequence[int], room: int) -> list[range]:
    """The columns in parts that fit, of nearly equal width."""
    tables = math.ceil(sum(widths) / room)
    parts: list[range] = []
    start, taken = 0, 0
    for index, width in enumerate(widths):
        if index > start and taken + width > min(room, sum(widths) / tables + WIDEST / 2):
            parts.append(range(start, index))
            start, taken = index, 0
        taken += width
    return [*parts, range(start, len(widths))]


def _float(
    block: Block, columns: range, widths: Sequence[int], lines: Sequence[TableRow], first: bool
) -> str:
    measured = any(cell.change for line in block.lines for cell in line.cells)
    caption = f"{escape(block.heading)}{'' if first else ', continued'}: {escape(block.caption)}."
    caption += f" {LEGEND}" if measured and first else ""
    # Right-aligned paragraphs, so that a cell's words can wrap.
    shape = "".join(rf">{{\raggedleft\arraybackslash}}p{{{width}pt}}" for width in widths[1:])
    rows = [
        r"\begin{table*}[htbp]\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}}}\medskip",
        rf"\begin{{tabular}}{{@{{}}>{{\raggedright\arraybackslash}}p{{{widths[0]}pt}}{shape}@{{}}}}",
        r"\toprule",
        _line([escape(block.corner), *(_head(block.columns[index]) for index in columns)]),
        r"\midrule",
    ]
    group = ""
    for index, line in enumerate(lines):
        if line.group != group:
            rows += [r"\midrule"] if index else []
            rows.append(_group(line.group, len(columns)))
            group = line.group
        rows.append(_line([escape(line.head), *(_cell(line.cells[column]) for column in columns)]))
        rows += [r"\addlinespace"] if measured and index < len(lines) - 1 else []
    return "\n".join([*rows, r"\bottomrule", r"\end{tabular}", r"\end{table*}"])


def _head(column: Column) -> str:
    text = (
        escape(column.text)
        .replace(r" $\uparrow$", r"~$\uparrow$")
        .replace(r" $\downarrow$", r"~$\downarrow$")
        .replace(r" \%", r"~\%")
    )
    return rf"\textit{{{text}}}" if column.reported else text


def _cell(cell: TableCell) -> str:
    value = escape(cell.value)
    value = rf"\textbf{{{value}}}" if cell.ahead else value
    if cell.verdict:
        mark = r"\circ" if cell.verdict == "this training" else "*"
        value = rf"{{\scriptsize {cell.verdict}}} {value}$^{{{mark}}}$"
    value += escape(cell.mark)
    value += rf"\linebreak\mbox{{\scriptsize {escape(cell.change)}}}" if cell.change else ""
    return value + (rf"\linebreak{{\scriptsize {escape(cell.remark)}}}" if cell.remark else "")
