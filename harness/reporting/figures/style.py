"""The common style of all figures: sizes for a paper's text width, fonts embedded as text, colours
that colour-blind readers can tell apart.

Palette: Okabe and Ito, "Color Universal Design" (2008). Each row also has its own marker, for print
in grey."""

from __future__ import annotations

import io
import itertools
import logging
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from harness.reporting.comparison import MetricResult
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row

WIDTH = 7.2
"""Inches: two columns of a paper."""
GREY, BLACK = "#767676", "#000000"
WRONG = "#B33A00"
"""A word for an object that is not in the image; it is also bold and underlined."""
PALE, GOOD = "#EAF3EE", "#3B7A5C"
"""The better side of a panel, and its label."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#8A7A00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":")
STACK = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#F0E442", "#CC79A7", "#009E73", "#BBBBBB")
"""Of the prompts: pairs first, then drop reasons by size, the last for all others."""
MONO, SANS = ("DejaVu Sans Mono", "DejaVu Sans"), ("DejaVu Sans",)
"""Shipped with matplotlib: equal figures everywhere."""
MORE_FONTS = (
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
)
"""Fonts with Chinese, Japanese or emoji as outlines; used where they are installed, for characters
that the shipped fonts lack."""
DASHED = (0, (4, 3))
Style = dict[str, Any]
"""Keyword arguments of matplotlib."""


@contextmanager
def style() -> Iterator[None]:
    """The style of everything drawn and saved inside; the user's own settings are unchanged."""
    # It warns of every font without a bold face.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(
        {
            "pdf.fonttype": 42,  # TrueType, so that text in the PDF stays text
            "ps.fonttype": 42,
            "font.family": list(SANS + more_fonts()),
            "font.size": 7.5,
            "axes.titlesize": 8,
            "axes.labelsize": 7.5,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "lines.linewidth": 1.3,
            "text.parse_math": False,  # a dollar sign in a user's label stays a dollar sign
            "figure.dpi": 200,  # the layout is measured at the size it is saved in
            "figure.autolayout": False,
            "figure.constrained_layout.use": False,
            "savefig.dpi": "figure",
            "svg.hashsalt": "selfsight",
        }
    ):
        yield


@cache
def more_fonts() -> tuple[str, ...]:
    """Those of MORE_FONTS that are installed."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return tuple(name for name in MORE_FONTS if name in installed)


@cache
def characters(family: str) -> frozenset[int]:
    """The characters of a font, in both weights."""
    files = [
        font_manager.findfont(FontProperties(family=family, weight=weight))
        for weight in ("normal", "bold")
    ]
    return frozenset.intersection(
        *(frozenset(font_manager.get_font(file).get_charmap()) for file in files)
    )


def drawable_text(text: str) -> str:
    """The text, with an escape such as ``\\u4e2d`` for each character that no font here has."""
    if text.isascii():
        return text
    fonts = [characters(family) for family in (*SANS, *more_fonts())]
    return "".join(
        char
        if any(ord(char) in font for font in fonts)
        else char.encode("ascii", "backslashreplace").decode()
        for char in text
    )


def canvas(height: float) -> Figure:
    """An empty figure of the full text width and ``height`` inches, without a display."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as ``png`` or ``pdf``, without a date, so that equal figures give equal files."""
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # the slow layout is done once for all kinds
        figure.set_layout_engine(None)  # with "none", each kind would be drawn twice
    buffer = io.BytesIO()
    metadata = {"CreationDate": None, "ModDate": None} if kind == "pdf" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


COLUMNS = 3
"""Panels in a line at most."""


def panel_lines(count: int) -> int:
    """Lines of ``count`` panels."""
    return -(-count // COLUMNS)


def panels(figure: Figure, count: int, *, sharey: bool = False) -> list[list[Axes]]:
    """Axes in lines of nearly equal number, each as wide as the figure: a grid without holes."""
    lines = panel_lines(count)
    grid = figure.add_gridspec(lines, math.lcm(*range(1, COLUMNS + 1)))
    grid_axes: list[list[Axes]] = []
    for line in range(lines):
        size = count // lines + (line < count % lines)
        width = grid.ncols // size
        row: list[Axes] = []
        for column in range(size):
            cell = grid[line, column * width : (column + 1) * width]
            first = [*itertools.chain(*grid_axes), *row][:1]
            row.append(figure.add_subplot(cell, sharey=first[0] if sharey and first else None))
            if sharey and column:
                row[-1].tick_params(labelleft=False)
        grid_axes.append(row)
    return grid_axes


def least_span(limits: Sequence[float], least: float) -> tuple[float, float]:
    """An axis's limits, at least ``least`` apart, so that rounding does not look like a change."""
    low, high = limits
    more = max(0.0, least - (high - low)) / 2
    return low - more, high + more


def least_points(decimals: int) -> float:
    """The least span of an axis of a metric printed with so many decimals: 2 points with one."""
    return 20 * 10.0**-decimals


def wrap_label(text: str, width: int, lines: int = 3) -> str:
    """A label in up to ``lines`` lines of at most ``width`` characters. It breaks after spaces and
    ``+ , _ - /``, else inside a word; only what is longer still is cut."""
    rows = [""]
    for piece in re.findall(r"[^ +,_/-]*[ +,_/-]|[^ +,_/-]+", shorten(text, width * lines)):
        if rows[-1] and len(rows[-1] + piece.rstrip()) > width:
            rows.append("")
        rows[-1] += piece
    rows = [line for row in rows for line in textwrap.wrap(row, width, break_on_hyphens=False)]
    return "\n".join([*rows[: lines - 1], shorten(" ".join(rows[lines - 1 :]), width)]).rstrip()


class RowMark(NamedTuple):
    """How figures draw a row: its colour, its marker and the style of its lines."""

    colour: str
    marker: str
    line: str


def row_marks(study: StudyResults) -> dict[str, RowMark]:
    """Each row's mark, the same in every figure. Controls have their method's colour and stand
    after it; matched baselines are grey. Rows with a varied setting get the last colours."""
    families: dict[str, list[Row]] = {}
    for row in study.compared:
        family = "" if row.role == "matched" else row.of or row.label
        families.setdefault(family, []).append(row)
    order = sorted(families, key=lambda name: families[name][0].varied is not None)
    return {
        row.label: RowMark(
            GREY if row.role == "matched" else COLOURS[index % len(COLOURS)],
            MARKERS[(index + index // len(COLOURS) + index_in_family) % len(MARKERS)],
            LINES[(index_in_family + index // len(COLOURS)) % len(LINES)],
        )
        for name, rows in families.items()
        for index in (order.index(name),)
        for index_in_family, row in enumerate(rows)
    }


def shorten(text: str, length: int = 34) -> str:
    """A label on one line, without control characters, cut with an ellipsis."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    clean = drawable_text(clean)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def dot(axes: Axes, x: float, y: float, **style: Any) -> None:
    """One marker."""
    axes.plot([x], [y], linestyle="none", **style)


def interval(axes: Axes, x: float, cell: MetricResult, colour: str, width: float) -> None:
    """A result's interval as a vertical line around its baseline's value; nothing: it has none."""
    if np.isfinite(cell.lo):
        ends = [cell.baseline_value + cell.lo, cell.baseline_value + cell.hi]
        axes.plot([x, x], ends, color=colour, linewidth=width)


def legend_entry(label: str, **style: Any) -> Line2D:
    return Line2D([], [], label=label, **style)


def grid_lines(axes: Axes) -> None:
    axes.grid(color="#E6E6E6", linewidth=0.5)
    axes.set_axisbelow(True)
