"""The figures, PDF and PNG, from the records: before and after, what became of the prompts, and the training curves.

``before-and-after`` has the primary metrics, ``before-and-after-<benchmark>`` all metrics of one benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.reporting.cells import Cell, compare
from harness.reporting.frames import Records, read, shown
from harness.reporting.style import BLACK, COLOURS, GOOD, GREY, MARKERS, PALE, STACK, canvas, look, rendered, short
from harness.reporting.tables import column_text, drops_mean, number, totals
from harness.store import write_bytes

COLUMNS = 3
ROW = 0.24  # inches a method in a panel


def write(out: Path) -> list[Path]:
    """Draw what the records allow into ``<out>/figures``; the files written, PNG and PDF of each figure.

    Raises:
        Problem: the folder holds no study, or a record is broken.
    """
    records = read(out)
    written = []
    with look():
        cells = compare(records)
        for name, figure in (
            ("before-and-after", before_and_after(records, cells)),
            *(
                (f"before-and-after {one.name}", before_and_after(records, cells, benchmark=one.name))
                for one in records.benchmarks
            ),
            ("prompts", prompts(records)),
            ("training", training(records)),
        ):
            if figure is None:
                continue
            for kind in ("png", "pdf"):
                path = out / "figures" / f"{name.replace(' ', '-')}.{kind}"
                write_bytes(path, rendered(figure, kind))
                written.append(path)
    return written


def _colours(records: Records) -> dict[str, tuple[str, str]]:
    """Each method's colour and marker, the same in every figure."""
    return {
        row.label: (COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)])
        for index, row in enumerate(records.methods)
    }


def before_and_after(records: Records, cells: Sequence[Cell], *, benchmark: str | None = None) -> Figure | None:
    """A panel a metric: each method's difference from the baseline with its paired interval, on the metric's own axis.

    All metrics of one ``benchmark``, or without it the primary metrics of all. None where there is nothing to compare.
    """
    mine = [cell for cell in cells if cell.last and (cell.primary if benchmark is None else cell.benchmark == benchmark)]
    if not any(np.isfinite(cell.difference) for cell in mine):
        return None
    panels = list(dict.fromkeys((cell.benchmark, cell.metric) for cell in mine))
    found = {(cell.benchmark, cell.metric, cell.label): cell for cell in mine}
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = canvas(0.6 + lines * (0.95 + ROW * len(records.rows)))
    if benchmark is not None:
        figure.suptitle(short(shown(benchmark), 60), fontsize=9, fontweight="bold")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    colours = _colours(records)
    for place, axes in enumerate(grid):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        base = found[(*panels[place], records.baseline)]
        others = [found[(*panels[place], row.label)] for row in records.methods]
        title = short(base.heading if benchmark is None else column_text(base), 40)
        axes.set_title(f"{short(shown(base.benchmark), 34)}\n{title}" if benchmark is None else title, loc="left")
        _panel(axes, base, others, colours, named=place % columns == 0)
    several = any(cell.n_seeds > 1 for cell in mine)
    handles = [
        Line2D([], [], color=BLACK, marker="o", markersize=4.5, linestyle="none", label=short(f"{records.baseline} (baseline)")),
        Line2D([], [], color=GREY, marker="o", markersize=4.5, label="clear change; 95 % interval"),
        Line2D([], [], color=GREY, marker="o", markersize=4.5, markerfacecolor="white", label="no clear change or not tested"),
        *([Line2D([], [], color=GREY, marker="|", markersize=6, linestyle="none", label="one training seed")] if several else []),
        Line2D([], [], linestyle="none", label="grey numbers: the metric's value"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.8, columnspacing=1.6)
    return figure


def _panel(axes: Axes, base: Cell, cells: list[Cell], colours: dict[str, tuple[str, str]], *, named: bool) -> None:
    """One metric: the baseline's dot at 0, then each method's difference, its interval and its seeds; values at the right."""
    low, high = _reach(cells)
    axes.set_xlim(low, high)
    axes.set_ylim(len(cells) + 0.6, -0.6)
    if base.better != "none":
        good = (0, high) if base.better == "higher" else (low, 0)
        axes.axvspan(*good, color=PALE, linewidth=0, zorder=0)
        side, place_at = ("right", 0.985) if base.better == "higher" else ("left", 0.015)
        axes.text(place_at, 0.985, "better", ha=side, va="top", color=GOOD, fontsize=6.5, transform=axes.transAxes)
    axes.axvline(0, color=BLACK, linewidth=0.8, zorder=1)
    if np.isfinite(base.value):
        axes.plot([0], [0], marker="o", markersize=4.8, color=BLACK, zorder=3)
    for place, cell in enumerate(cells, start=1):
        colour, marker = colours[cell.label]
        if not np.isfinite(cell.difference):
            axes.text((low + high) / 2, place, "missing", ha="center", va="center", color=GREY, fontsize=6.5)
            continue
        if np.isfinite(cell.lo):
            axes.plot([cell.lo, cell.hi], [place, place], color=colour, solid_capstyle="butt", zorder=2)
        if cell.n_seeds > 1:
            values = _seed_differences(cell)
            axes.plot(values, [place + 0.3] * len(values), linestyle="none", marker="|", markersize=4, color=colour)
        face = colour if cell.verdict in ("better", "worse") else "white"
        axes.plot([cell.difference], [place], marker=marker, markersize=4.8, color=colour, markerfacecolor=face, zorder=3)
    everyone = [base, *cells]
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(
        range(len(everyone)), [number(cell.value, cell.places) if np.isfinite(cell.value) else "-" for cell in everyone]
    )
    right.tick_params(length=0, labelcolor=GREY)
    axes.set_yticks(range(len(everyone)), [short(cell.label, 24) for cell in everyone] if named else [""] * len(everyone))
    axes.tick_params(axis="y", length=0)
    for spine in (axes.spines["left"], right.spines["left"], right.spines["right"]):
        spine.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    unit = "points" if base.unit == "%" else base.unit
    axes.set_xlabel("difference" + (f" ({short(unit, 20)})" if unit else ""))


def _reach(cells: list[Cell]) -> tuple[float, float]:
    """The axis: all that is drawn, with 0 never nearer to an edge than a fifth of the width."""
    drawn = [0.0, *(value for cell in cells for value in (cell.lo, cell.hi, cell.difference, *_seed_differences(cell)))]
    finite = [value for value in drawn if np.isfinite(value)]
    low, high = min(finite), max(finite)
    width = max(high - low, 10.0 ** -cells[0].places)
    return min(low - 0.06 * width, -0.25 * width), max(high + 0.06 * width, 0.25 * width)


def _seed_differences(cell: Cell) -> list[float]:
    values = [float(value) - cell.baseline_value for value in cell.seed_values.split()]
    return [value for value in values if np.isfinite(value)]


def prompts(records: Records) -> Figure | None:
    """What became of each method's prompts: a bar a row, pairs first, then the reasons for having none."""
    sums = {row.label: totals(records, row.label) for row in records.methods if row.rounds}
    labels = [label for label in sums if np.isfinite(sums[label]["pairs"])]
    if not labels:
        return None
    ordered = [str(name) for name in records.drops.groupby("reason")["count"].sum().sort_values(ascending=False).index]
    kept, others = ordered[: len(STACK) - 2], ordered[len(STACK) - 2 :]
    parts: dict[str, list[float]] = {"became a pair": [], **{reason: [] for reason in kept}}
    if others:
        parts["other reasons"] = []
    for label in labels:
        parts["became a pair"].append(float(sums[label]["pairs"]))
        for reason in kept:
            parts[reason].append(drops_mean(records, label, reason))
        if others:
            parts["other reasons"].append(sum(drops_mean(records, label, reason) for reason in others))
    everything = np.maximum(np.sum(list(parts.values()), axis=0), 1)
    figure = canvas(0.9 + 0.36 * len(labels) + 0.13 * len(parts))
    axes = figure.subplots()
    left = np.zeros(len(labels))
    for (name, amounts), colour in zip(parts.items(), STACK, strict=False):
        share = 100 * np.array(amounts) / everything
        axes.barh(
            range(len(labels)),
            share,
            left=left,
            color=colour,
            height=0.62,
            edgecolor="white",
            linewidth=0.5,
            label=short(name, 60),
        )
        for place, (size, start, amount) in enumerate(zip(share, left, amounts, strict=True)):
            if size >= 5:
                dark = colour in ("#0072B2", "#D55E00", "#009E73")
                axes.text(
                    start + size / 2,
                    place,
                    f"{amount:,.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if dark else BLACK,
                )
        left = left + share
    named = [f"{short(label, 26)} ({total:,.0f} prompts)" for label, total in zip(labels, everything, strict=True)]
    axes.set_yticks(range(len(labels)), named)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the prompts made (%), all rounds, mean over training seeds")
    axes.set_title("What became of the prompts: a preference pair, or dropped because …", loc="left")
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return figure


CURVES = (
    ("loss", "training loss", 1.0, None),
    ("accuracy", "pairs ranked rightly (%)", 100.0, 50.0),
    ("margin", "reward margin, chosen − rejected", 1.0, 0.0),
)


def training(records: Records) -> Figure | None:
    """Loss, accuracy and margin by optimiser step: thin lines are training seeds, thick ones their smoothed mean."""
    if records.log.empty:
        return None
    curves = [curve for curve in CURVES if curve[0] in records.log and records.log[curve[0]].notna().any()]
    figure = canvas(2.5)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    colours = _colours(records)
    for axes, (name, title, scale, reference) in zip(grid, curves, strict=True):
        if reference is not None:
            axes.axhline(reference, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
        for label, (colour, _) in colours.items():
            mine = _continued(records.log[records.log["label"] == label])
            if mine.empty or mine[name].isna().all():
                continue
            # Round by round: a new round begins from a new reference, so a line across the border would mean nothing.
            for number_, (_, part) in enumerate(mine.groupby("round")):
                wide = scale * part.pivot_table(index="at", columns="seed", values=name)
                for seed in wide.columns:
                    axes.plot(wide.index, wide[seed], color=colour, linewidth=0.5, alpha=0.35)
                mean = wide.mean(axis=1).rolling(max(1, len(wide) // 10), min_periods=1, center=True).mean()
                axes.plot(mean.index, mean, color=colour, linewidth=1.6, label=None if number_ else short(label))
                if number_:
                    axes.axvline(float(part["at"].min()) - 0.5, color=GREY, linewidth=0.6, linestyle=":")
        axes.set_title(title, loc="left")
        axes.set_xlabel("optimiser step" + (", dotted: a new round" if records.log["round"].nunique() > 1 else ""))
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(6, max(1, len(names))))
    return figure


def _continued(log: pd.DataFrame) -> pd.DataFrame:
    """The steps of all rounds behind one another, as column ``at`` (from 1)."""
    if log.empty:
        return log.assign(at=[])
    lengths = log.groupby("round")["step"].max()
    before = lengths.cumsum() - lengths
    return log.assign(at=log["step"] + log["round"].map(before))
