"""One look for every figure: sizes for a paper's text width, fonts embedded as text, colours told
apart by everyone.

Palette: Okabe and Ito, "Color Universal Design" (2008). Each row also has a marker of its own, so
that print in grey works."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from harness.reporting.results import Records

WIDTH = 7.2  # inches: two columns of a paper
GREY, BLACK = "#767676", "#000000"
WRONG = (  # a word for what is not there: coloured, bold and underlined, so that colour is not needed
    "#B33A00"
)
PALE, GOOD = "#EAF3EE", "#3B7A5C"  # the better side of a panel, and its word
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#8A7A00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")
STACK = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#F0E442", "#CC79A7", "#009E73", "#BBBBBB")
"""Pairs first, then the reasons by size, the last for all others."""


@contextmanager
def look() -> Iterator[None]:
    """Everything drawn and saved inside has the house's look; the user's own settings are
    untouched."""
    with mpl.rc_context(
        {
            "pdf.fonttype": 42,  # TrueType, so that text in the PDF stays text
            "ps.fonttype": 42,
            "font.family": "sans-serif",
            "font.sans-serif": [
                "DejaVu Sans"
            ],  # shipped with matplotlib: the same figure everywhere
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
            "text.parse_math": (
                False
            ),  # labels come from users and models: a dollar sign is a dollar sign
            "figure.dpi": 200,  # the layout is measured at the size it is saved in
            "savefig.dpi": "figure",
            "svg.hashsalt": "selfsight",
        }
    ):
        yield


def canvas(height: float) -> Figure:
    """An empty figure of the full text width, on the Agg backend (no display needed)."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as ``png`` or ``pdf`` bytes, without the date, so that equal records give equal
    files."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # the layout once, not once a file: it is what takes time
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    metadata = {"CreationDate": None, "ModDate": None} if kind == "pdf" else {"Software": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def row_colours(records: Records) -> dict[str, tuple[str, str]]:
    """Each row's colour and marker, the same in every figure; what is derived from the untrained
    model's answers is grey."""
    trained = [row for row in records.methods if row.role != "derived"]
    marks = [
        MARKERS[(index + index // len(COLOURS)) % len(MARKERS)] for index in range(len(trained))
    ]
    found = {
        row.label: (COLOURS[index % len(COLOURS)], marks[index])
        for index, row in enumerate(trained)
    }
    derived = [row for row in records.methods if row.role == "derived"]
    return found | {
        row.label: (GREY, MARKERS[index % len(MARKERS)]) for index, row in enumerate(derived)
    }


def short(text: str, length: int = 34) -> str:
    """A label that fits: one line, control characters gone, cut with an ellipsis."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return clean if len(clean) <= length else clean[: length - 1] + "…"
