"""What a caption's silence buys: hallucination against recall, and both against length.

A model that says less hallucinates less. The first figure shows what each row paid in recall; the
second lets every row be cut at the same lengths (``caps.parquet``,
harness/pipeline/matched_baselines.py), so that rows can be compared at equal length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results
from harness.reporting.comparison import Cell
from harness.reporting.figures.style import BLACK, canvas, row_colours, short
from harness.reporting.results import BenchmarkColumns, Records, Row, shown
from harness.reporting.stats import ratio
from harness.reporting.stored import Stored, opened

RECALLS = ("recall", "cover")
"""What a caption benchmark calls the share of the true objects that are named."""


def _metrics(benchmark: BenchmarkColumns) -> tuple[Metric, Metric] | None:
    """(hallucination, recall) of a caption benchmark: CHAIR-i, else its first lower-is-better
    metric; None for another one."""
    lower = sorted(
        (one for one in benchmark.metrics if one.better == "lower"),
        key=lambda one: one.name not in ("chair_i", "chair"),
    )
    recall = [one for one in benchmark.metrics if one.name in RECALLS and one.better == "higher"]
    return (lower[0], recall[0]) if lower and recall else None


def against_recall(records: Records, cells: Sequence[Cell]) -> Figure | None:
    """A panel a caption benchmark: recall to the right, hallucination upwards, a line from the
    untrained model to each row, with both paired intervals. Down and right is better; down and left
    is caution. Settings of an ablation are left out."""
    benchmarks = [
        (one, found) for one in records.benchmarks if (found := _metrics(one)) is not None
    ]
    by_key = {(cell.benchmark, cell.metric, cell.label): cell for cell in cells if cell.last}
    rows = [row for row in records.methods if row.setting is None]
    usable = []
    for benchmark, found in benchmarks:
        pairs = {
            row.label: tuple(
                by_key.get((benchmark.name, metric.name, row.label)) for metric in found
            )
            for row in rows
        }
        kept = {
            label: (y, x)
            for label, (y, x) in pairs.items()
            if y and x and np.isfinite(y.difference) and np.isfinite(x.difference)
        }
        if kept:
            usable.append((benchmark, found, kept))
    if not usable:
        return None
    colours = row_colours(records)
    figure = canvas(3.1 + 0.12 * len(rows))
    grid = figure.subplots(1, max(2, len(usable)), squeeze=False)[0]
    for axes, (benchmark, (hallucination, recall), kept) in zip(grid, usable, strict=False):
        base = [
            by_key[benchmark.name, metric.name, records.baseline]
            for metric in (hallucination, recall)
        ]
        for label, (y, x) in kept.items():
            colour, marker = colours[label]
            derived = y.role == "derived"
            if not derived:
                axes.annotate(
                    "", (x.value, y.value), (base[1].value, base[0].value),
                    arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 0.8, "alpha": 0.6},
                )  # fmt: skip
            if np.isfinite(x.lo) and np.isfinite(y.lo):
                thin = {"color": colour, "linewidth": 0.9, "alpha": 0.9}
                axes.plot([base[1].value + x.lo, base[1].value + x.hi], [y.value] * 2, **thin)
                axes.plot([x.value] * 2, [base[0].value + y.lo, base[0].value + y.hi], **thin)
            axes.plot(
                [x.value], [y.value], marker=marker, markersize=5, color=colour, linestyle="none",
                markerfacecolor="white" if derived else colour, label=short(label, 40),
            )  # fmt: skip
        name = short(f"{records.baseline} (baseline)")
        axes.plot(
            [base[1].value],
            [base[0].value],
            marker="o",
            markersize=6,
            color=BLACK,
            linestyle="none",
            label=name,
        )
        axes.set_xlabel(base[1].heading.replace("↑", "→ better,"))
        axes.set_ylabel(base[0].heading.replace("↓", "↓ better,"))
        axes.set_title(short(shown(benchmark.name), 40), loc="left")
        axes.grid(color="#E6E6E6", linewidth=0.5)
        axes.set_axisbelow(True)
    for axes in grid[len(usable) :]:
        axes.set_axis_off()
    named = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=3, numpoints=1
    )
    return figure


def lengths(results: Results, records: Records) -> pd.DataFrame:
    """The captions' metrics, cut at each cap and as they were written (cap 0): a line a row,
    benchmark and cap with
    ``words``, ``hallucination``, ``recall``, their metrics' names and jackknife standard errors
    over images."""
    lines = []
    stored = opened(results.out)
    for benchmark in records.benchmarks:
        found = _metrics(benchmark)
        if found is None:
            continue
        pictures = set(records.grades.loc[records.grades["benchmark"] == benchmark.name, "cluster"])
        for row in records.rows:
            frame = _caps(results, stored, row, benchmark)
            if frame is None:
                continue
            for cap, part in frame[frame["cluster"].isin(pictures)].groupby("cap"):
                hallucination, recall, words = (
                    _value(part, above, below, scale) for above, below, scale in _asked(found)
                )
                lines.append(
                    {
                        "label": row.label,
                        "benchmark": benchmark.name,
                        "cap": int(str(cap)),
                        "words": words[0],
                    }
                    | {
                        "hallucination_metric": found[0].name,
                        "hallucination": hallucination[0],
                        "hallucination_se": hallucination[1],
                    }
                    | {"recall_metric": found[1].name, "recall": recall[0], "recall_se": recall[1]}
                )
    return pd.DataFrame(lines)


def _asked(found: tuple[Metric, Metric]) -> list[tuple[str, str, float]]:
    return [
        *((one.numerator, one.denominator, one.scale) for one in found),
        ("words", "captions", 1.0),
    ]


def _caps(
    results: Results, stored: Stored, row: Row, benchmark: BenchmarkColumns
) -> pd.DataFrame | None:
    """The row's grades at every cap, all seeds; None where a seed has none of this version."""
    parts = []
    for seed in row.seeds:
        folder = results.caps(row.label, seed, row.rounds, benchmark.name)
        if not stored.done(folder):
            return None
        parts.append(stored.caps(folder))
    return pd.concat(parts, ignore_index=True)


def _value(part: pd.DataFrame, above: str, below: str, scale: float) -> tuple[float, float]:
    """A metric and its jackknife standard error over images."""
    names = [f"count_{above}", f"count_{below}"]
    sums = part.groupby("cluster")[names].sum().to_numpy(dtype=np.float64)
    left_out = ratio(sums.sum(axis=0) - sums, scale)
    spread = left_out - left_out.mean()
    error = (
        float(np.sqrt((len(sums) - 1) / len(sums) * np.sum(spread**2)))
        if len(sums) > 1
        else float("nan")
    )
    return float(ratio(sums.sum(axis=0), scale)), error


PANELS = (
    ("words", "hallucination", "words a caption", "{0} ↓ %"),
    ("words", "recall", "words a caption", "{1} ↑ %"),
    ("recall", "hallucination", "{1} → better, %", "{0} ↓ better, %"),
)


def at_lengths(records: Records, found: pd.DataFrame) -> Figure | None:
    """A line a caption benchmark: hallucination against length, recall against length, and
    hallucination against recall, each row's captions cut at the same numbers of words; the marker
    is the row as it wrote, the band one standard error."""
    if found.empty or found["label"].nunique() < 2:
        return None
    # A benchmark whose captions are all shorter than two caps shows no curve.
    counted = found.groupby("benchmark")["cap"].nunique()
    names = [one.name for one in records.benchmarks if counted.get(one.name, 0) > 2]
    if not names:
        return None
    colours = {records.baseline: (BLACK, "o"), **row_colours(records)}
    figure = canvas(0.5 + 2.3 * len(names) + 0.1 * found["label"].nunique())
    grid = figure.subplots(len(names), len(PANELS), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        here = found[found["benchmark"] == name]
        said = [shown(str(here[f"{kind}_metric"].iloc[0])) for kind in ("hallucination", "recall")]
        for axes, (x, y, below, beside) in zip(line, PANELS, strict=True):
            for label in dict.fromkeys(here["label"]):
                mine = here[here["label"] == label].sort_values("words")
                colour, marker = colours[label]
                axes.plot(mine[x], mine[y], color=colour, linewidth=1.0, marker=".", markersize=2.5)
                if x == "words":
                    low, high = mine[y] - mine[f"{y}_se"], mine[y] + mine[f"{y}_se"]
                    axes.fill_between(mine[x], low, high, color=colour, alpha=0.1, linewidth=0)
                whole = mine[mine["cap"] == 0]
                axes.plot(
                    whole[x],
                    whole[y],
                    marker=marker,
                    markersize=5,
                    color=colour,
                    linestyle="none",
                    label=short(label, 40),
                )
            axes.set_xlabel(below.format(*said))
            axes.set_ylabel(beside.format(*said))
            axes.grid(color="#E6E6E6", linewidth=0.5)
            axes.set_axisbelow(True)
        line[0].set_title(short(f"{shown(name)}: captions cut at the same lengths", 70), loc="left")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, numpoints=1)
    return figure
