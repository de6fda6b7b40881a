"""Figures of captions: hallucination against recall, and both against caption length.

A model that says less hallucinates less. The first figure shows each row's loss of recall. The
second cuts every row's captions at the same lengths (``caps.parquet``,
harness/pipeline/matched_baselines.py), so that rows can be compared at equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.interface import Metric
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name, row_name
from harness.reporting.figures.style import (
    BLACK,
    RowMark,
    Style,
    canvas,
    dot,
    grid_lines,
    least_points,
    least_span,
    row_marks,
    shorten,
)
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.stats import ratio
from harness.reporting.study_row import Row

RECALLS = ("recall", "cover")
"""Names of the share of the true objects that a caption mentions."""


class CaptionMetrics(NamedTuple):
    hallucination: Metric
    recall: Metric


class CaptionResults(NamedTuple):
    """A row's results in both metrics."""

    hallucination: MetricResult
    recall: MetricResult


def _metrics(benchmark: BenchmarkColumns) -> CaptionMetrics | None:
    """The metrics of a caption benchmark; None for another benchmark. Hallucination is CHAIR-i,
    else the first lower-is-better metric."""
    lower = [metric for metric in benchmark.metrics if metric.better == "lower"]
    lower.sort(key=lambda metric: metric.name not in ("chair_i", "chair"))
    higher = (metric for metric in benchmark.metrics if metric.better == "higher")
    recall = [metric for metric in higher if metric.name in RECALLS]
    return CaptionMetrics(lower[0], recall[0]) if lower and recall else None


def against_recall(study: StudyResults, cells: Sequence[MetricResult]) -> Figure | None:
    """A panel a caption benchmark: recall to the right, hallucination upwards. An arrow leads from
    the baseline to each row, which has both paired intervals. Down and right is better; down and
    left is a more cautious model. Rows with a varied setting are left out."""
    by_key = {cell.key: cell for cell in cells if cell.last}
    marks = row_marks(study)
    row_of = {row.label: row for row in study.compared}
    panels = []
    for benchmark in study.benchmarks:
        metrics = _metrics(benchmark)
        if metrics is None:
            continue
        rows = {}
        for row in map(row_of.__getitem__, marks):
            pair = [by_key.get((row.label, benchmark.name, metric.name)) for metric in metrics]
            compared = [cell for cell in pair if cell and np.isfinite(cell.difference)]
            if row.varied is None and len(compared) == 2:
                rows[row.label] = CaptionResults(*compared)
        base = [by_key.get((study.baseline, benchmark.name, metric.name)) for metric in metrics]
        if rows and base[0] and base[1]:
            panels.append((benchmark, CaptionResults(base[0], base[1]), rows))
    if not panels:
        return None
    unvaried = sum(row.varied is None for row in study.compared)
    figure = canvas(3.1 + 0.12 * unvaried)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (benchmark, base_results, rows) in zip(grid, panels, strict=True):
        for label, results in rows.items():
            _recall_point(axes, base_results, results, marks[label])
        hallucination, recall = base_results
        mark: Style = {"marker": "o", "markersize": 6, "color": BLACK}
        name = shorten(f"{row_name(study.baseline)} (baseline)")
        dot(axes, recall.value, hallucination.value, label=name, **mark)
        axes.set_xlabel(recall.heading.replace("↑", "→ better,"))
        axes.set_ylabel(hallucination.heading.replace("↓", "↓ better,"))
        axes.set_title(shorten(display_name(benchmark.name), 40), loc="left")
        axes.set_xlim(least_span(axes.get_xlim(), least_points(recall.decimals)))
        axes.set_ylim(least_span(axes.get_ylim(), least_points(hallucination.decimals)))
        grid_lines(axes)
    named = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
    # One panel leaves room beside it.
    handles, names = list(named.values()), list(named)
    if len(panels) == 1:
        figure.legend(handles, names, loc="outside right upper", numpoints=1)
    else:
        figure.legend(handles, names, loc="outside lower center", ncols=3, numpoints=1)
    return figure


def _recall_point(axes: Axes, base: CaptionResults, row: CaptionResults, row_mark: RowMark) -> None:
    y, x = row
    colour, marker, _ = row_mark
    matched = y.role == "matched"
    if not matched:
        arrow: Style = {"arrowstyle": "->", "color": colour, "linewidth": 0.8, "alpha": 0.6}
        start = (base.recall.value, base.hallucination.value)
        axes.annotate("", (x.value, y.value), start, arrowprops=arrow)
    if np.isfinite(x.lo) and np.isfinite(y.lo):
        thin: Style = {"color": colour, "linewidth": 0.9, "alpha": 0.9}
        xs = [base.recall.value + bound for bound in (x.lo, x.hi)]
        ys = [base.hallucination.value + bound for bound in (y.lo, y.hi)]
        axes.plot(xs, [y.value] * 2, **thin)
        axes.plot([x.value] * 2, ys, **thin)
    face = "white" if matched else colour
    mark: Style = {"marker": marker, "markersize": 5, "color": colour, "markerfacecolor": face}
    dot(axes, x.value, y.value, label=shorten(row_name(y.label), 40), **mark)


def lengths(study: StudyResults) -> pd.DataFrame:
    """The captions' metrics, cut at each length and uncut (cap 0): a line a row, benchmark and cap
    with ``words``, ``hallucination``, ``recall``, the metrics' names and jackknife standard errors
    over images."""
    lines = []
    for benchmark in study.benchmarks:
        metrics = _metrics(benchmark)
        if metrics is None:
            continue
        images = set(study.grades.loc[study.grades["benchmark"] == benchmark.name, "cluster"])
        for row in study.rows:
            frame = _capped_grades(study, row, benchmark)
            if frame is None:
                continue
            for cap, group in frame[frame["cluster"].isin(images)].groupby("cap"):
                line = {"label": row.label, "benchmark": benchmark.name, "cap": int(str(cap))}
                line["words"] = _ratio_with_error(group, "words", "captions", 1.0)[0]
                for name, metric in metrics._asdict().items():
                    value, error = _ratio_with_error(
                        group, metric.numerator, metric.denominator, metric.scale
                    )
                    line |= {f"{name}_metric": metric.name, name: value, f"{name}_se": error}
                lines.append(line)
    return pd.DataFrame(lines)


def _capped_grades(
    study: StudyResults, row: Row, benchmark: BenchmarkColumns
) -> pd.DataFrame | None:
    """The row's grades at every cap, all seeds; None: a seed has none."""
    stored = study.stored
    keys = ((row.label, seed, row.rounds, benchmark.name) for seed in row.seeds)
    stages = [stored.results.caps(*key) for key in keys]
    if not all(map(stored.done, stages)):
        return None
    return pd.concat([stored.caps(stage) for stage in stages], ignore_index=True)


def _ratio_with_error(
    frame: pd.DataFrame, numerator: str, denominator: str, scale: float
) -> tuple[float, float]:
    """A metric and its jackknife standard error over images."""
    names = [f"count_{numerator}", f"count_{denominator}"]
    sums = frame.groupby("cluster")[names].sum().to_numpy(dtype=np.float64)
    left_out = ratio(sums.sum(axis=0) - sums, scale)
    spread = left_out - left_out.mean()
    count = len(sums)
    error = float(np.sqrt((count - 1) / count * np.sum(spread**2))) if count > 1 else float("nan")
    return float(ratio(sums.sum(axis=0), scale)), error


PANELS = (
    ("words", "hallucination", "words per caption", "{0} ↓ %"),
    ("words", "recall", "words per caption", "{1} ↑ %"),
    ("recall", "hallucination", "{1} → better, %", "{0} ↓ better, %"),
)
"""Columns of ``lengths`` on the x and y axes, and the axes' labels."""


def at_lengths(study: StudyResults, table: pd.DataFrame) -> Figure | None:
    """A line of panels a caption benchmark: hallucination and recall against length, and
    hallucination against recall. Each row's captions are cut at the same numbers of words. The
    marker is the uncut row, the band one standard error. ``table``: see ``lengths``."""
    if table.empty or table["label"].nunique() < 2:
        return None
    # With one or two caps there is no curve: all captions are shorter.
    caps = table.groupby("benchmark")["cap"].nunique()
    names = [benchmark.name for benchmark in study.benchmarks if caps.get(benchmark.name, 0) > 2]
    if not names:
        return None
    marks = {study.baseline: RowMark(BLACK, "o", "-"), **row_marks(study)}
    figure = canvas(0.5 + 2.3 * len(names) + 0.1 * table["label"].nunique())
    grid = figure.subplots(len(names), len(PANELS), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        captions = table[table["benchmark"] == name]
        columns = captions[["hallucination_metric", "recall_metric"]]
        metrics = [display_name(str(name)) for name in columns.iloc[0]]
        for axes, (x, y, x_label, y_label) in zip(line, PANELS, strict=True):
            for label, mark in marks.items():
                group = captions[captions["label"] == label].sort_values("words")
                if not group.empty:
                    _curve(axes, group, x, y, label, mark)
            if x == "words":
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
                axes.set_xlim(least_span(axes.get_xlim(), 2.0))
            axes.set_ylim(least_span(axes.get_ylim(), least_points(1)))
            axes.set_xlabel(x_label.format(*metrics))
            axes.set_ylabel(y_label.format(*metrics))
            grid_lines(axes)
        title = f"{display_name(name)}: captions cut at the same lengths"
        line[0].set_title(shorten(title, 70), loc="left")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=4)
    return figure


def _curve(axes: Axes, group: pd.DataFrame, x: str, y: str, label: str, row_mark: RowMark) -> None:
    colour, marker, line = row_mark
    thin: Style = {"linewidth": 1.0, "linestyle": line, "marker": ".", "markersize": 2.5}
    axes.plot(group[x], group[y], color=colour, **thin)
    if x == "words":
        low, high = group[y] - group[f"{y}_se"], group[y] + group[f"{y}_se"]
        axes.fill_between(group[x], low, high, color=colour, alpha=0.1, linewidth=0)
    uncut = group[group["cap"] == 0]
    mark: Style = {"marker": marker, "markersize": 5, "color": colour, "linestyle": line}
    axes.plot(uncut[x], uncut[y], label=shorten(row_name(label), 40), **mark)
