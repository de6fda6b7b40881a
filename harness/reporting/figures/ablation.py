"""Figures of an ablation: a panel a setting, and the noise step with an image at each step.

A row's field ``varied`` in study.json says which setting was changed. Each value is a point with
its paired interval; the method's own value is ringed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.artifacts.results_folder import read_jsonl
from harness.artifacts.stored_files import read_bytes
from harness.errors import UserError
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import metric_name, row_name
from harness.reporting.figures.style import (
    BLACK,
    COLOURS,
    DASHED,
    GREY,
    MARKERS,
    Style,
    canvas,
    dot,
    interval,
    least_points,
    least_span,
    legend_entry,
    panel_lines,
    panels,
    shorten,
    wrap_label,
)
from harness.reporting.results import StudyResults
from harness.reporting.stored import image_file

NOISE = "noise_step"
WIDEST = 16
"""Characters of a line of a value below its point."""


class Point(NamedTuple):
    """A value of a setting, its result, and whether it is the row's own value."""

    value: str
    cell: MetricResult
    own: bool


def ablations(study: StudyResults, cells: Sequence[MetricResult]) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each primary metric, if the study varies settings."""
    if not any(row.varied for row in study.rows):
        return
    for benchmark in study.benchmarks:
        for metric in benchmark.metrics:
            by_label = _last_results(cells, benchmark.name, metric.name)
            if metric.primary and any(np.isfinite(cell.difference) for cell in by_label.values()):
                yield f"ablation-{benchmark.name}-{metric.name}", _figure(study, by_label)


def _last_results(
    cells: Sequence[MetricResult], benchmark: str, metric: str
) -> dict[str, MetricResult]:
    """The results of all rows in one metric, last rounds, by label."""
    return {cell.label: cell for cell in cells if cell.column == (benchmark, metric) and cell.last}


def _figure(study: StudyResults, cells: Mapping[str, MetricResult]) -> Figure:
    varied = [row.varied for row in study.rows if row.varied]
    fields = list(dict.fromkeys(setting.field for setting in varied))
    owners = list(dict.fromkeys(setting.row for setting in varied))
    figure = canvas(0.7 + 1.75 * panel_lines(len(fields)))
    base = cells[study.baseline]
    measured = shorten(metric_name(base.benchmark, base.heading), 80)
    figure.suptitle(f"{measured}, one setting changed at a time", fontsize=9)
    grid = list(chain.from_iterable(panels(figure, len(fields), sharey=True)))
    for axes, field in zip(grid, fields, strict=True):
        _panel(axes, study, cells, field, owners)
    grid[0].set_ylim(least_span(grid[0].get_ylim(), least_points(base.decimals)))
    baseline = f"{shorten(row_name(study.baseline), 30)} (baseline)"
    ring: Style = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "linestyle": "none"}
    handles = [
        legend_entry(baseline, color=GREY, linewidth=0.8, linestyle=DASHED),
        *(
            legend_entry(shorten(row_name(owner), 50), **_mark(index), markersize=4.5)
            for index, owner in enumerate(owners)
        ),
        legend_entry("the method's own value", color=GREY, **ring),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(handles)), numpoints=1
    )
    return figure


def _mark(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _setting_points(
    study: StudyResults, cells: Mapping[str, MetricResult], field: str, owner: str
) -> list[Point]:
    """The values of one field of one row: numbers sorted, words in the study's order."""
    points = [
        Point(row.varied.value, cells[row.label], False)
        for row in study.rows
        if row.varied and row.varied[:2] == (owner, field) and row.label in cells
    ]
    row = next((row for row in study.rows if row.label == owner), None)
    if (
        row is not None
        and points
        and owner in cells
        and (own_value := row.value_of(field)) is not None
    ):
        points.insert(0, Point(own_value, cells[owner], True))
    if all(_is_number(point.value) for point in points):
        points.sort(key=lambda point: float(point.value))
    return points


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _panel(
    axes: Axes,
    study: StudyResults,
    cells: Mapping[str, MetricResult],
    field: str,
    owners: Sequence[str],
) -> None:
    base = cells[study.baseline]
    all_points = {owner: _setting_points(study, cells, field, owner) for owner in owners}
    by_owner = {owner: points for owner, points in all_points.items() if points}
    values = list(dict.fromkeys(point.value for points in by_owner.values() for point in points))
    if all(map(_is_number, values)):
        values.sort(key=float)
    if np.isfinite(base.value):
        axes.axhline(base.value, color=GREY, linewidth=0.8, linestyle=DASHED)
    for number, (owner, points) in enumerate(by_owner.items()):
        mark = _mark(owners.index(owner))
        shift = 0.12 * (number - (len(by_owner) - 1) / 2)
        xs = [values.index(point.value) + shift for point in points]
        if all(_is_number(point.value) for point in points):
            heights = [point.cell.value for point in points]
            axes.plot(xs, heights, color=mark["color"], linewidth=0.8, alpha=0.7)
        for x, point in zip(xs, points, strict=True):
            if not np.isfinite(point.cell.value):
                continue
            interval(axes, x, point.cell, mark["color"], 1.0)
            dot(axes, x, point.cell.value, markersize=4, **mark)
            if point.own:
                ring: Style = {"markerfacecolor": "none", "markeredgewidth": 1.0}
                dot(axes, x, point.cell.value, marker="o", markersize=9, color=GREY, **ring)
    names = [wrap_label(value, WIDEST) for value in values]
    longest = max(len(line) for name in names for line in name.split("\n"))
    upright = len(values) > 5 or longest * len(values) > 44
    axes.set_xticks(range(len(values)), names, rotation=40 if upright else 0)
    if upright:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_title(shorten(field, 36), loc="left")
    axes.tick_params(axis="x", length=2)


def noise(study: StudyResults, cells: Sequence[MetricResult]) -> Figure | None:
    """The first primary lower-is-better metric against the noise step, above one image corrupted
    at each step. None: the study varies no noise step, or the image is not available."""
    rows = [
        row
        for row in study.rows
        if row.varied and row.varied.field == NOISE and _is_number(row.varied.value)
    ]
    metrics = [
        (benchmark.name, metric.name)
        for benchmark in study.benchmarks
        for metric in benchmark.metrics
        if metric.primary and metric.better == "lower"
    ]
    if not rows or not metrics:
        return None
    owner = rows[0].varied.row if rows[0].varied else ""
    by_label = _last_results(cells, *metrics[0])
    points = [
        point
        for point in _setting_points(study, by_label, NOISE, owner)
        if np.isfinite(point.cell.value)
    ]
    image = _first_image(study, metrics[0][0])
    if len(points) < 2 or image is None:
        return None
    corrupted = _corrupted(image, rows[0].base, [int(float(point.value)) for point in points])
    if corrupted is None:
        return None
    figure = canvas(3.2)
    base = by_label[study.baseline]
    grid = figure.add_gridspec(2, len(points), height_ratios=(2.0, 1.0))
    axes = figure.add_subplot(grid[0, :])
    axes.axhline(base.value, color=GREY, linewidth=0.8, linestyle=DASHED)
    heights = [point.cell.value for point in points]
    axes.plot(range(len(points)), heights, color=COLOURS[0], linewidth=0.9)
    for x, point in enumerate(points):
        interval(axes, x, point.cell, COLOURS[0], 1.3)
        face = BLACK if point.own else COLOURS[0]
        mark: Style = {"marker": "o", "markersize": 5, "markerfacecolor": face}
        dot(axes, x, point.cell.value, color=COLOURS[0], **mark)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_xticks([])
    axes.set_ylabel(shorten(base.heading, 30))
    title = f"{row_name(owner)}: {base.full_name} by noise step"
    axes.set_title(
        shorten(f"{title} (dashed: {study.baseline}; black: its own step)", 112), loc="left"
    )
    for index, (corrupted_image, point) in enumerate(zip(corrupted, points, strict=True)):
        axes = figure.add_subplot(grid[1, index])
        axes.imshow(np.asarray(corrupted_image), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"step {point.value}", fontsize=7, loc="center")
    return figure


def _first_image(study: StudyResults, benchmark: str) -> Image.Image | None:
    """The benchmark's first exported image; None: it is not on this machine."""
    folder = study.stored.folder(study.stored.results.questions(benchmark))
    path = folder / "questions.jsonl"
    for row in read_jsonl(path)[:1] if path.exists() else []:
        image = image_file(folder / "images", row["images"][0]) if row.get("images") else None
        if image is not None and image.exists():
            with Image.open(io.BytesIO(read_bytes(image))) as opened:
                return opened.convert("RGB")
    return None


def _corrupted(image: Image.Image, base: str, steps: Sequence[int]) -> list[Image.Image] | None:
    # Imported here because they import torch, which no other figure needs.
    from harness.models.base_cards import BASES
    from harness.reporting.page.images import corrupted_image

    if base not in BASES:  # a folder or hub id of study.json is not opened
        return None
    try:
        return [
            corrupted_image(image, BASES[base], "diffusion", step, "figure") if step else image
            for step in steps
        ]
    except (UserError, ValueError):
        return None
