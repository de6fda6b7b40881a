"""Figures of how the rows were trained: what became of the prompts, and the training curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.reporting.display_names import row_name
from harness.reporting.figures.style import (
    BLACK,
    DASHED,
    GREY,
    STACK,
    RowMark,
    Style,
    canvas,
    least_span,
    row_marks,
    shorten,
    wrap_label,
)
from harness.reporting.results import StudyResults
from harness.reporting.tables.stage_blocks import mean_drops, reasons, totals

DARK = ("#0072B2", "#D55E00", "#009E73")
"""Bars with white text."""


def prompts(study: StudyResults) -> Figure | None:
    """A bar a row: the share of prompts that became a pair, then the reasons for dropping."""
    trained = {row.label for row in study.compared if row.rounds}
    sums = {label: totals(study, label) for label in row_marks(study) if label in trained}
    labels = [label for label in sums if np.isfinite(sums[label]["pairs"])]
    if not labels:
        return None
    ordered = reasons(study)
    listed, merged = ordered[: len(STACK) - 2], ordered[len(STACK) - 2 :]
    outcomes = {"became a pair": [float(sums[label]["pairs"]) for label in labels]}
    for reason in listed:
        outcomes[reason] = [mean_drops(study, label, reason) for label in labels]
    if merged:
        outcomes["other reasons"] = [
            sum(mean_drops(study, label, reason) for reason in merged) for label in labels
        ]
    prompts = np.maximum(np.sum(list(outcomes.values()), axis=0), 1)
    figure = canvas(0.9 + 0.36 * len(labels) + 0.13 * len(outcomes))
    axes = figure.subplots()
    bar_starts = np.zeros(len(labels))
    for (name, counts), colour in zip(outcomes.items(), STACK, strict=False):
        share = 100 * np.array(counts) / prompts
        edge: Style = {"edgecolor": "white", "linewidth": 0.5}
        axes.barh(
            range(len(labels)), share, left=bar_starts, color=colour, height=0.62,
            label=shorten(name, 60), **edge,
        )  # fmt: skip
        text: Style = {"ha": "center", "va": "center", "fontsize": 6.5}
        text["color"] = "white" if colour in DARK else BLACK
        for y, (size, start, count) in enumerate(zip(share, bar_starts, counts, strict=True)):
            if size >= 5:
                axes.text(start + size / 2, y, f"{count:,.0f}", **text)
        bar_starts = bar_starts + share
    names = [
        f"{wrap_label(row_name(label), 28, 2)} ({total:,.0f} prompts)"
        for label, total in zip(labels, prompts, strict=True)
    ]
    axes.set_yticks(range(len(labels)), names)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of all prompts (%), all rounds, mean over training seeds")
    axes.set_title(
        "What became of the prompts: a preference pair, or the reason for dropping", loc="left"
    )
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return figure


CURVES = (
    ("loss", "training loss", 1.0, None),
    ("accuracy", "pairs ranked right (%)", 100.0, 50.0),
    ("margin", "reward margin, chosen − rejected", 1.0, 0.0),
    ("reward_chosen", "reward of the chosen answers", 1.0, 0.0),
    ("reward_rejected", "reward of the rejected answers", 1.0, 0.0),
)
"""Column of the log, title, factor, and the value of an untrained model. Logs of earlier versions
lack the last two."""
ACROSS = 3
"""Panels beside each other."""
IN_A_PANEL = 14
"""So many names of rows fit in a panel."""
NAMES_ACROSS = 4
"""Names of rows beside each other below the panels."""


def training(study: StudyResults) -> Figure | None:
    """Loss, accuracy, margin and rewards by optimizer step. Thin lines are training seeds, thick
    lines their smoothed mean. Rows with a varied setting are left out where others are drawn."""
    log = study.log
    if log.empty:
        return None
    curves = [curve for curve in CURVES if curve[0] in log and log[curve[0]].notna().any()]
    trained = [row for row in study.compared if row.label in set(log["label"])]
    labels = [row.label for row in trained if row.varied is None] or [row.label for row in trained]
    marks = {label: mark for label, mark in row_marks(study).items() if label in labels}
    rows = -(-len(curves) // ACROSS)
    figure = canvas(1.9 * rows + 0.3 + 0.15 * -(-len(labels) // NAMES_ACROSS))
    grid = figure.subplots(rows, min(len(curves), ACROSS), squeeze=False).flatten()
    for axes, (name, title, factor, untrained) in zip(grid, curves, strict=False):
        if untrained is not None:
            axes.axhline(untrained, color=GREY, linewidth=0.6, linestyle=DASHED)
        for label, mark in marks.items():
            row_log = _with_running_step(log[log["label"] == label])
            if row_log[name].notna().any():
                _curve(axes, row_log, name, factor, shorten(row_name(label), 40), mark)
        axes.set_ylim(least_span(axes.get_ylim(), 0.1 * factor))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title(title, loc="left")
        several = log.loc[log["label"].isin(labels), "round"].nunique() > 1
        axes.set_xlabel("optimizer step" + (", dotted: a new round" if several else ""))
    handles, names = grid[0].get_legend_handles_labels()
    free = list(grid[len(curves) :])
    for axes in free:
        axes.set_axis_off()
    if free and len(names) <= IN_A_PANEL:
        free[0].legend(handles, names, loc="upper left", title="rows")
    else:
        figure.legend(handles, names, loc="outside lower center", ncols=NAMES_ACROSS)
    return figure


def _curve(
    axes: Axes, log: pd.DataFrame, name: str, factor: float, label: str, mark: RowMark
) -> None:
    """One row's curve. Rounds are not connected, because each has its own reference model."""
    for index, (_, round_log) in enumerate(log.groupby("round")):
        by_seed = factor * round_log.pivot_table(index="at", columns="seed", values=name)
        for seed in by_seed.columns:
            axes.plot(by_seed.index, by_seed[seed], color=mark.colour, linewidth=0.5, alpha=0.35)
        window = max(1, len(by_seed) // 10)
        mean = by_seed.mean(axis=1).rolling(window, min_periods=1, center=True).mean()
        thick: Style = {"color": mark.colour, "linewidth": 1.6, "linestyle": mark.line}
        axes.plot(mean.index, mean, label=None if index else label, **thick)
        if index:
            axes.axvline(
                float(round_log["at"].min()) - 0.5, color=GREY, linewidth=0.6, linestyle=":"
            )


def _with_running_step(log: pd.DataFrame) -> pd.DataFrame:
    """The log with the steps counted on over the rounds, as column ``at`` (from 1)."""
    if log.empty:
        return log.assign(at=[])
    lengths = log.groupby("round")["step"].max()
    before = lengths.cumsum() - lengths
    return log.assign(at=log["step"] + log["round"].map(before))
