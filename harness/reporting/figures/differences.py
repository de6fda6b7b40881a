"""Before and after, and round by round: each method against the untrained model with its paired
intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.reporting.comparison import Cell
from harness.reporting.figures.style import BLACK, GOOD, GREY, PALE, canvas, row_colours, short
from harness.reporting.results import Records, shown
from harness.reporting.tables.build import column_text, number

COLUMNS = 3
ROW = 0.24  # inches a method in a panel
RINGED = Line2D(
    [],
    [],
    color=BLACK,
    marker="o",
    markersize=9,
    markerfacecolor="none",
    linestyle="none",
    label="ringed: a control reaches this gain",
)


def before_and_after(
    records: Records, cells: Sequence[Cell], *, benchmark: str | None = None
) -> Figure | None:
    """A panel a metric: each method's difference from the baseline with its paired interval, on the
    metric's own axis.

    All metrics of one ``benchmark``, or without it the primary metrics of all. None where there is
    nothing to compare."""
    # Derived rows lie on some benchmarks only, so they stand where one benchmark is shown; settings
    # have figures of their own.
    rows = [
        row
        for row in records.methods
        if row.setting is None and (row.role != "derived" or benchmark is not None)
    ]
    labels = {records.baseline, *(row.label for row in rows)}
    mine = [
        cell
        for cell in cells
        if cell.last and (cell.primary if benchmark is None else cell.benchmark == benchmark)
    ]
    mine = [cell for cell in mine if cell.label in labels]
    if not any(np.isfinite(cell.difference) for cell in mine):
        return None
    panels = list(dict.fromkeys((cell.benchmark, cell.metric) for cell in mine))
    found = {(cell.benchmark, cell.metric, cell.label): cell for cell in mine}
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    most = max(
        sum(cell.benchmark == one and cell.metric == metric for cell in mine)
        for one, metric in panels
    )
    figure = canvas(0.6 + lines * (0.95 + ROW * most))
    if benchmark is not None:
        figure.suptitle(short(shown(benchmark), 60), fontsize=9, fontweight="bold")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    colours = row_colours(records)
    for place, axes in enumerate(grid):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        base = found[(*panels[place], records.baseline)]
        others = [
            found[(*panels[place], row.label)]
            for row in rows
            if (*panels[place], row.label) in found
        ]
        title = short(base.heading if benchmark is None else column_text(base), 40)
        axes.set_title(
            f"{short(shown(base.benchmark), 34)}\n{title}" if benchmark is None else title,
            loc="left",
        )
        _panel(axes, base, others, colours, named=place % columns == 0)
    several = any(cell.n_seeds > 1 for cell in mine)
    handles = [
        Line2D(
            [],
            [],
            color=BLACK,
            marker="o",
            markersize=4.5,
            linestyle="none",
            label=short(f"{records.baseline} (baseline)"),
        ),
        Line2D([], [], color=GREY, marker="o", markersize=4.5, label="clear change; 95 % interval"),
        Line2D(
            [],
            [],
            color=GREY,
            marker="o",
            markersize=4.5,
            markerfacecolor="white",
            label="no clear change or not tested",
        ),
        *(
            [
                Line2D(
                    [],
                    [],
                    color=GREY,
                    marker="|",
                    markersize=6,
                    linestyle="none",
                    label="one training seed",
                )
            ]
            if several
            else []
        ),
        *([RINGED] if any(cell.reached_by for cell in mine) else []),
        Line2D([], [], linestyle="none", label="grey numbers: the metric's value"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, handlelength=1.8, columnspacing=1.6
    )
    return figure


def _panel(
    axes: Axes, base: Cell, cells: list[Cell], colours: dict[str, tuple[str, str]], *, named: bool
) -> None:
    """One metric: the baseline's dot at 0, then each method's difference, its interval and its
    seeds; values at the right."""
    low, high = _reach(cells)
    axes.set_xlim(low, high)
    axes.set_ylim(len(cells) + 0.6, -0.6)
    if base.better != "none":
        good = (0, high) if base.better == "higher" else (low, 0)
        axes.axvspan(*good, color=PALE, linewidth=0, zorder=0)
        side, place_at = ("right", 0.985) if base.better == "higher" else ("left", 0.015)
        axes.text(
            place_at,
            0.985,
            "better",
            ha=side,
            va="top",
            color=GOOD,
            fontsize=6.5,
            transform=axes.transAxes,
        )
    axes.axvline(0, color=BLACK, linewidth=0.8, zorder=1)
    if np.isfinite(base.value):
        axes.plot([0], [0], marker="o", markersize=4.8, color=BLACK, zorder=3)
    for place, cell in enumerate(cells, start=1):
        colour, marker = colours[cell.label]
        if not np.isfinite(cell.difference):
            axes.text(
                (low + high) / 2,
                place,
                "missing",
                ha="center",
                va="center",
                color=GREY,
                fontsize=6.5,
            )
            continue
        if np.isfinite(cell.lo):
            axes.plot(
                [cell.lo, cell.hi], [place, place], color=colour, solid_capstyle="butt", zorder=2
            )
        if cell.n_seeds > 1:
            values = _seed_differences(cell)
            axes.plot(
                values,
                [place + 0.3] * len(values),
                linestyle="none",
                marker="|",
                markersize=4,
                color=colour,
            )
        face = colour if cell.verdict in ("better", "worse") else "white"
        axes.plot(
            [cell.difference],
            [place],
            marker=marker,
            markersize=4.8,
            color=colour,
            markerfacecolor=face,
            zorder=3,
        )
        if cell.reached_by:
            axes.plot(
                [cell.difference],
                [place],
                marker="o",
                markersize=10,
                color=BLACK,
                markerfacecolor="none",
                zorder=4,
            )
    everyone = [base, *cells]
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(
        range(len(everyone)),
        [number(cell.value, cell.places) if np.isfinite(cell.value) else "-" for cell in everyone],
    )
    right.tick_params(length=0, labelcolor=GREY)
    axes.set_yticks(
        range(len(everyone)),
        [short(cell.label, 24) for cell in everyone] if named else [""] * len(everyone),
    )
    axes.tick_params(axis="y", length=0)
    for spine in (axes.spines["left"], right.spines["left"], right.spines["right"]):
        spine.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    unit = "points" if base.unit == "%" else base.unit
    axes.set_xlabel("difference" + (f" ({short(unit, 20)})" if unit else ""))


def _reach(cells: list[Cell]) -> tuple[float, float]:
    """The axis: all that is drawn, with 0 never nearer to an edge than a fifth of the width."""
    drawn = [
        0.0,
        *(
            value
            for cell in cells
            for value in (cell.lo, cell.hi, cell.difference, *_seed_differences(cell))
        ),
    ]
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = min(finite), max(finite)
    width = max(high - low, 10.0 ** -cells[0].places)
    return min(low - 0.06 * width, -0.25 * width), max(high + 0.06 * width, 0.25 * width)


def _seed_differences(cell: Cell) -> list[float]:
    values = [float(value) - cell.baseline_value for value in cell.seed_values.split()]
    return [value for value in values if np.isfinite(value)]


def rounds(records: Records, cells: Sequence[Cell]) -> Figure | None:
    """A panel a primary metric: its value round by round from the untrained model on, with the
    paired interval of the difference laid around it. None where no row has more than one graded
    round."""
    several = {cell.label for cell in cells if not cell.last}
    panels = list(
        dict.fromkeys(
            (cell.benchmark, cell.metric)
            for cell in cells
            if cell.primary and cell.label in several
        )
    )
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = canvas(0.5 + 2.1 * lines + 0.05 * len(several))
    colours = row_colours(records)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (benchmark, metric) in zip(grid, panels, strict=False):
        mine = [cell for cell in cells if (cell.benchmark, cell.metric) == (benchmark, metric)]
        base = next(cell for cell in mine if cell.label == records.baseline)
        axes.axhline(base.value, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
        labels = [label for label in colours if label in several]
        for place, label in enumerate(labels):
            its = [cell for cell in mine if cell.label == label and np.isfinite(cell.value)]
            colour, marker = colours[label]
            apart = (
                min(0.5, 0.08 * len(labels))
                * (place - (len(labels) - 1) / 2)
                / max(1, len(labels) - 1)
            )
            at = [0.0, *(cell.round + apart for cell in its)]
            axes.plot(
                at,
                [base.value, *(cell.value for cell in its)],
                color=colour,
                linewidth=1.1,
                alpha=0.7,
            )
            axes.plot(
                [],
                [],
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=1.1,
                label=short(label, 36),
            )
            for cell, x in zip(its, at[1:], strict=True):
                if np.isfinite(cell.lo):
                    axes.plot(
                        [x, x],
                        [base.value + cell.lo, base.value + cell.hi],
                        color=colour,
                        linewidth=0.9,
                    )
                axes.plot([x], [cell.value], marker=marker, markersize=4.5, color=colour)
        axes.plot([0], [base.value], marker="o", markersize=4.8, color=BLACK, linestyle="none")
        axes.set_title(f"{short(shown(benchmark), 34)}\n{short(base.heading, 34)}", loc="left")
        axes.set_xlabel(f"round (0: {short(records.baseline, 20)})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, max(1, len(names))))
    return figure
