"""How the rows were made: what became of the prompts, and the training curves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.reporting.figures.style import BLACK, GREY, STACK, canvas, row_colours, short
from harness.reporting.results import Records
from harness.reporting.tables.build import drops_mean, totals


def prompts(records: Records) -> Figure | None:
    """What became of each method's prompts: a bar a row, pairs first, then the reasons for having
    none."""
    sums = {row.label: totals(records, row.label) for row in records.methods if row.rounds}
    labels = [label for label in sums if np.isfinite(sums[label]["pairs"])]
    if not labels:
        return None
    ordered = [
        str(name)
        for name in (
            records.drops.groupby("reason")["count"].sum().sort_values(ascending=False).index
        )
    ]
    kept, others = ordered[: len(STACK) - 2], ordered[len(STACK) - 2 :]
    parts: dict[str, list[float]] = {"became a pair": [], **{reason: [] for reason in kept}}
    if others:
        parts["other reasons"] = []
    for label in labels:
        parts["became a pair"].append(float(sums[label]["pairs"]))
        for reason in kept:
            parts[reason].append(drops_mean(records, label, reason))
        if others:
            parts["other reasons"].append(
                sum(drops_mean(records, label, reason) for reason in others)
            )
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
    named = [
        f"{short(label, 26)} ({total:,.0f} prompts)"
        for label, total in zip(labels, everything, strict=True)
    ]
    axes.set_yticks(range(len(labels)), named)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the prompts made (%), all rounds, mean over training seeds")
    axes.set_title(
        "What became of the prompts: a preference pair, or dropped because …", loc="left"
    )
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return figure


CURVES = (
    ("loss", "training loss", 1.0, None),
    ("accuracy", "pairs ranked rightly (%)", 100.0, 50.0),
    ("margin", "reward margin, chosen − rejected", 1.0, 0.0),
)


def training(records: Records) -> Figure | None:
    """Loss, accuracy and margin by optimiser step: thin lines are training seeds, thick ones their
    smoothed mean."""
    if records.log.empty:
        return None
    curves = [
        curve for curve in CURVES if curve[0] in records.log and records.log[curve[0]].notna().any()
    ]
    figure = canvas(2.5)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    colours = row_colours(records)
    for axes, (name, title, scale, reference) in zip(grid, curves, strict=True):
        if reference is not None:
            axes.axhline(reference, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
        for label, (colour, _) in colours.items():
            mine = _continued(records.log[records.log["label"] == label])
            if mine.empty or mine[name].isna().all():
                continue
            # Round by round: a new round begins from a new reference, so a line across the border
            # would mean nothing.
            for number_, (_, part) in enumerate(mine.groupby("round")):
                wide = scale * part.pivot_table(index="at", columns="seed", values=name)
                for seed in wide.columns:
                    axes.plot(wide.index, wide[seed], color=colour, linewidth=0.5, alpha=0.35)
                mean = (
                    wide.mean(axis=1)
                    .rolling(max(1, len(wide) // 10), min_periods=1, center=True)
                    .mean()
                )
                axes.plot(
                    mean.index,
                    mean,
                    color=colour,
                    linewidth=1.6,
                    label=None if number_ else short(label),
                )
                if number_:
                    axes.axvline(
                        float(part["at"].min()) - 0.5, color=GREY, linewidth=0.6, linestyle=":"
                    )
        axes.set_title(title, loc="left")
        axes.set_xlabel(
            "optimiser step"
            + (", dotted: a new round" if records.log["round"].nunique() > 1 else "")
        )
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
