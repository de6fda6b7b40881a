"""Figures of the comparison: each row's difference from the baseline with its paired interval, and
the values round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name, grouped, row_name
from harness.reporting.figures.style import (
    BLACK,
    DASHED,
    GOOD,
    GREY,
    PALE,
    RowMark,
    Style,
    canvas,
    dot,
    interval,
    least_points,
    least_span,
    legend_entry,
    panel_lines,
    row_marks,
    shorten,
    wrap_label,
)
from harness.reporting.figures.style import panels as grid_of
from harness.reporting.results import StudyResults
from harness.reporting.tables.cells import printed

ROW = 0.24
"""Inches of a row in a panel."""


def before_and_after(
    study: StudyResults, cells: Sequence[MetricResult], benchmark: str | None = None
) -> Figure | None:
    """A panel a metric: each row's difference from the baseline with its paired interval. All
    metrics of one ``benchmark``, or the primary metrics of all. None: nothing can be compared."""
    # A matched baseline is graded on some benchmarks only, so it is left out of the figure of all.
    marks = row_marks(study)
    shown_labels = {
        row.label
        for row in study.compared
        if row.varied is None and (row.role != "matched" or benchmark is not None)
    }
    labels = [label for label in marks if label in shown_labels]
    panel_cells = [
        cell
        for cell in cells
        if cell.last
        and cell.label in (study.baseline, *labels)
        and (cell.primary if benchmark is None else cell.benchmark == benchmark)
    ]
    if not any(np.isfinite(cell.difference) for cell in panel_cells):
        return None
    panels = grouped((cell.column, cell) for cell in panel_cells)
    by_key = {cell.key: cell for cell in panel_cells}
    max_cells = max(map(len, panels.values()))
    figure = canvas(0.6 + panel_lines(len(panels)) * (0.95 + ROW * max_cells))
    if benchmark is not None:
        figure.suptitle(shorten(display_name(benchmark), 60), fontsize=9, fontweight="bold")
    grid = grid_of(figure, len(panels))
    first = [line[0] for line in grid]
    for axes, panel in zip(chain.from_iterable(grid), panels, strict=True):
        base = by_key[study.baseline, *panel]
        row_cells = [by_key[label, *panel] for label in labels if (label, *panel) in by_key]
        if benchmark is None:
            title = f"{shorten(display_name(base.benchmark), 34)}\n{shorten(base.heading, 40)}"
        else:
            title = shorten(base.heading + (" (primary)" if base.primary else ""), 40)
        axes.set_title(title, loc="left")
        _panel(axes, base, row_cells, marks, named=axes in first)
    _legend(figure, study, panel_cells)
    return figure


def _legend(figure: Figure, study: StudyResults, cells: Sequence[MetricResult]) -> None:
    mark: Style = {"color": GREY, "marker": "o", "markersize": 4.5}
    open_mark: Style = mark | {"markerfacecolor": "white"}
    black: Style = {"color": BLACK, "marker": "o", "linestyle": "none"}
    name = shorten(f"{row_name(study.baseline)} (baseline)")
    handles = [
        legend_entry(name, markersize=4.5, **black),
        legend_entry("filled: a clear change of the method; 95 % interval", **mark),
        legend_entry("open: no clear change, one training, not tested", **open_mark),
    ]
    if any(cell.n_seeds > 1 for cell in cells):
        seed: Style = {"color": GREY, "marker": "|", "markersize": 6, "linestyle": "none"}
        handles.append(legend_entry("one training seed", **seed))
    if any(cell.reached_by for cell in cells):
        ring: Style = {"markersize": 9, "markerfacecolor": "none"}
        handles.append(legend_entry("ringed: does not exceed a control", **ring, **black))
    handles.append(legend_entry("grey numbers: the metric's value", linestyle="none"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, handlelength=1.8, columnspacing=1.6
    )


def _panel(
    axes: Axes,
    base: MetricResult,
    cells: Sequence[MetricResult],
    marks: Mapping[str, RowMark],
    *,
    named: bool,
) -> None:
    """One metric: the baseline at 0, then each row's difference, interval and seeds. Values are at
    the right; ``named``: rows' names at the left."""
    low, high = _limits(cells)
    axes.set_xlim(low, high)
    axes.set_ylim(len(cells) + 0.6, -0.6)
    if base.better != "none":
        higher = base.better == "higher"
        axes.axvspan(*((0, high) if higher else (low, 0)), color=PALE, linewidth=0, zorder=0)
        label: Style = {"va": "top", "color": GOOD, "fontsize": 6.5, "transform": axes.transAxes}
        axes.text(
            0.985 if higher else 0.015, 0.985, "better", ha="right" if higher else "left", **label
        )
    axes.axvline(0, color=BLACK, linewidth=0.8, zorder=1)
    if np.isfinite(base.value):
        dot(axes, 0, 0, marker="o", markersize=4.8, color=BLACK, zorder=3)
    for y, cell in enumerate(cells, start=1):
        if np.isfinite(cell.difference):
            _row(axes, y, cell, marks[cell.label])
        else:
            text: Style = {"ha": "center", "va": "center", "color": GREY, "fontsize": 6.5}
            axes.text((low + high) / 2, y, "missing", **text)
    rows = [base, *cells]
    edge: Style = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    for y, cell in enumerate(rows):
        value = printed(cell.value, cell.decimals)
        axes.annotate(value, (1, y), (3.5, 0), color=GREY, va="center_baseline", **edge)
    names = [wrap_label(row_name(cell.label), 30, 2) for cell in rows] if named else []
    axes.set_yticks(range(len(names)), names, linespacing=0.9)
    axes.tick_params(axis="y", left=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    unit = "points" if base.unit == "%" else base.unit
    axes.set_xlabel("difference" + (f" ({shorten(unit, 20)})" if unit else ""))


def _row(axes: Axes, y: int, cell: MetricResult, row_mark: RowMark) -> None:
    colour, marker, _ = row_mark
    if np.isfinite(cell.lo):
        ends = [cell.lo, cell.hi]
        axes.plot(ends, [y, y], color=colour, solid_capstyle="butt", zorder=2)
    if cell.n_seeds > 1:
        values = _seed_differences(cell)
        ticks: Style = {"linestyle": "none", "marker": "|", "markersize": 4}
        axes.plot(values, [y + 0.3] * len(values), color=colour, **ticks)
    face = colour if cell.verdict in ("better", "worse") else "white"
    mark: Style = {"marker": marker, "markersize": 4.8, "color": colour, "markerfacecolor": face}
    dot(axes, cell.difference, y, zorder=3, **mark)
    if cell.reached_by:
        ring: Style = {"marker": "o", "markersize": 10, "color": BLACK, "markerfacecolor": "none"}
        dot(axes, cell.difference, y, zorder=4, **ring)


def _limits(cells: Sequence[MetricResult]) -> tuple[float, float]:
    """The x axis: everything drawn, with 0 at least a fifth of the width away from the edges; never
    so narrow that rounding looks like a change."""
    values = [0.0]
    for cell in cells:
        values += [cell.lo, cell.hi, cell.difference, *_seed_differences(cell)]
    finite = [value for value in values if np.isfinite(value)]
    low, high = min(finite), max(finite)
    width = high - low
    low, high = min(low - 0.06 * width, -0.32 * width), max(high + 0.06 * width, 0.32 * width)
    return least_span((low, high), least_points(cells[0].decimals))


def _seed_differences(cell: MetricResult) -> list[float]:
    values = (value - cell.baseline_value for value in cell.by_seed.values())
    return [value for value in values if np.isfinite(value)]


def rounds(study: StudyResults, cells: Sequence[MetricResult]) -> Figure | None:
    """A panel a primary metric: the value after each round, from the baseline on, with the paired
    interval of the difference. None: no row has more than one graded round."""
    several = {cell.label for cell in cells if not cell.last}
    primary_cells = [cell for cell in cells if cell.primary and cell.label in several]
    panels = dict.fromkeys(cell.column for cell in primary_cells)
    if not panels:
        return None
    bases = {cell.key: cell for cell in cells if cell.label == study.baseline}
    figure = canvas(0.5 + 2.1 * panel_lines(len(panels)) + 0.05 * len(several))
    grid = list(chain.from_iterable(grid_of(figure, len(panels))))
    marks = {label: mark for label, mark in row_marks(study).items() if label in several}
    for axes, panel in zip(grid, panels, strict=True):
        base = bases[study.baseline, *panel]
        axes.axhline(base.value, color=GREY, linewidth=0.6, linestyle=DASHED)
        for index, (label, mark) in enumerate(marks.items()):
            centred = (index - (len(marks) - 1) / 2) / max(1, len(marks) - 1)
            shift = min(0.5, 0.08 * len(marks)) * centred
            row = [
                cell
                for cell in primary_cells
                if cell.key == (label, *panel) and np.isfinite(cell.value)
            ]
            _rounds_line(axes, base, row, shift, label, mark)
        dot(axes, 0, base.value, marker="o", markersize=4.8, color=BLACK)
        name = shorten(display_name(base.benchmark), 34)
        axes.set_title(f"{name}\n{shorten(base.heading, 34)}", loc="left")
        axes.set_xlabel(f"round (0: {shorten(row_name(study.baseline), 20)})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(least_span(axes.get_ylim(), least_points(base.decimals)))
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, max(1, len(names))))
    return figure


def _rounds_line(
    axes: Axes,
    base: MetricResult,
    row: Sequence[MetricResult],
    shift: float,
    label: str,
    row_mark: RowMark,
) -> None:
    """One row's rounds; ``shift`` keeps the rows' intervals apart."""
    colour, marker, line = row_mark
    xs = [cell.round + shift for cell in row]
    values = [cell.value for cell in row]
    thin: Style = {"linewidth": 1.1, "linestyle": line}
    mark: Style = {"color": colour, "marker": marker, "markersize": 4.5}
    axes.plot([0.0, *xs], [base.value, *values], color=colour, alpha=0.7, **thin)
    axes.plot([], [], label=shorten(row_name(label), 36), **thin, **mark)
    for x, cell in zip(xs, row, strict=True):
        interval(axes, x, cell, colour, 0.9)
        dot(axes, x, cell.value, **mark)
