"""One setting at a time: small multiples of an ablation, and the noise step with images at each
step.

A study's labels say what was changed (``sena noise_step=200``, harness/study/study.py): a panel a
field, a point a value with its paired interval laid around it, the method's own value marked."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from harness.artifacts.results_folder import Results, read_jsonl
from harness.errors import UserError
from harness.reporting.comparison import Cell
from harness.reporting.figures.style import BLACK, COLOURS, GREY, MARKERS, canvas, short
from harness.reporting.results import Records

COLUMNS = 3
NOISE = "noise_step"
WIDEST = 16
"""Characters of a value below its point; more than five values stand upright."""

Points = list[tuple[str, Cell, bool]]
"""(value, cell, whether it is the row's own value), in the order they are drawn."""


def ablations(records: Records, cells: Sequence[Cell]) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each primary metric of a study that holds settings."""
    if not any(row.setting for row in records.rows):
        return
    for benchmark in records.benchmarks:
        for metric in benchmark.metrics:
            mine = {
                cell.label: cell
                for cell in cells
                if (cell.benchmark, cell.metric) == (benchmark.name, metric.name) and cell.last
            }
            if metric.primary and any(np.isfinite(cell.difference) for cell in mine.values()):
                yield f"ablation-{benchmark.name}-{metric.name}", _multiples(records, mine)


def _multiples(records: Records, cells: Mapping[str, Cell]) -> Figure:
    fields = list(dict.fromkeys(row.setting[1] for row in records.rows if row.setting))
    columns = min(COLUMNS, len(fields))
    lines = -(-len(fields) // columns)
    figure = canvas(0.7 + 1.75 * lines)
    base = cells[records.baseline]
    figure.suptitle(
        f"{short(base.full_name, 60)} ({short(base.heading, 40)}), one setting changed at a time",
        fontsize=9,
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    owners = list(dict.fromkeys(row.setting[0] for row in records.rows if row.setting))
    for axes, field in zip(grid, fields, strict=False):
        _field(axes, records, cells, field, owners)
    for axes in grid[len(fields) :]:
        axes.set_axis_off()
    handles = [
        Line2D(
            [],
            [],
            color=GREY,
            linewidth=0.8,
            linestyle=(0, (4, 3)),
            label=f"{short(records.baseline, 30)} (baseline)",
        )
    ]
    handles += [
        Line2D(
            [],
            [],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            label=short(owner, 50),
        )
        for index, owner in enumerate(owners)
    ]
    handles.append(
        Line2D(
            [],
            [],
            color=GREY,
            marker="o",
            markersize=7,
            markerfacecolor="none",
            linestyle="none",
            label="the row's own value",
        )
    )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(handles)), numpoints=1
    )
    return figure


def _points(records: Records, cells: Mapping[str, Cell], field: str, owner: str) -> Points:
    """The values of one field of one row, numbers in their order, words in the study's."""
    found: Points = []
    for row in records.rows:
        if row.setting and row.setting[:2] == (owner, field) and row.label in cells:
            found.append((row.setting[2], cells[row.label], False))
    own = next((row for row in records.rows if row.label == owner), None)
    if own is not None and found and owner in cells and (value := own.value_of(field)) is not None:
        found.insert(0, (value, cells[owner], True))
    if all(_is_number(value) for value, _, _ in found):
        found.sort(key=lambda point: float(point[0]))
    return found


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _field(
    axes: Axes, records: Records, cells: Mapping[str, Cell], field: str, owners: Sequence[str]
) -> None:
    base = cells[records.baseline]
    by_owner = {
        owner: points for owner in owners if (points := _points(records, cells, field, owner))
    }
    values = list(dict.fromkeys(value for points in by_owner.values() for value, _, _ in points))
    if all(map(_is_number, values)):
        values.sort(key=float)
    if np.isfinite(base.value):
        axes.axhline(base.value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    for number, (owner, points) in enumerate(by_owner.items()):
        place = owners.index(owner)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        apart = 0.12 * (number - (len(by_owner) - 1) / 2)
        at = [values.index(value) + apart for value, _, _ in points]
        if all(_is_number(value) for value, _, _ in points):
            axes.plot(
                at, [cell.value for _, cell, _ in points], color=colour, linewidth=0.8, alpha=0.7
            )
        for x, (_, cell, own) in zip(at, points, strict=True):
            if not np.isfinite(cell.value):
                continue
            if np.isfinite(cell.lo):
                axes.plot(
                    [x, x],
                    [cell.baseline_value + cell.lo, cell.baseline_value + cell.hi],
                    color=colour,
                    linewidth=1.0,
                )
            axes.plot([x], [cell.value], marker=marker, markersize=4, color=colour)
            if own:
                axes.plot(
                    [x],
                    [cell.value],
                    marker="o",
                    markersize=9,
                    color=GREY,
                    markerfacecolor="none",
                    markeredgewidth=1.0,
                )
    upright = len(values) > 5 or max(map(len, values)) * len(values) > 44
    axes.set_xticks(
        range(len(values)),
        [short(value, WIDEST) for value in values],
        rotation=40 if upright else 0,
    )
    if upright:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_title(short(field, 36), loc="left")
    axes.tick_params(axis="x", length=2)


def noise(records: Records, cells: Sequence[Cell], results: Results) -> Figure | None:
    """The first primary lower-is-better metric against the noise step, above one image corrupted
    at each step. None where the study varies no noise step or the image cannot be had."""
    rows = [
        row
        for row in records.rows
        if row.setting and row.setting[1] == NOISE and _is_number(row.setting[2])
    ]
    metric = next(
        (
            (one.name, part.name)
            for one in records.benchmarks
            for part in one.metrics
            if part.primary and part.better == "lower"
        ),
        None,
    )
    if not rows or metric is None:
        return None
    owner = rows[0].setting[0] if rows[0].setting else ""
    mine = {
        cell.label: cell for cell in cells if (cell.benchmark, cell.metric) == metric and cell.last
    }
    points = [
        point for point in _points(records, mine, NOISE, owner) if np.isfinite(point[1].value)
    ]
    picture = _picture(results, metric[0])
    if (
        len(points) < 2
        or picture is None
        or (shots := _corrupted(picture, rows[0].base, [int(float(one[0])) for one in points]))
        is None
    ):
        return None
    figure = canvas(3.2)
    base = mine[records.baseline]
    grid = figure.add_gridspec(2, len(points), height_ratios=(2.0, 1.0))
    axes = figure.add_subplot(grid[0, :])
    axes.axhline(base.value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(
        range(len(points)), [cell.value for _, cell, _ in points], color=COLOURS[0], linewidth=0.9
    )
    for x, (_, cell, own) in enumerate(points):
        if np.isfinite(cell.lo):
            axes.plot(
                [x, x],
                [cell.baseline_value + cell.lo, cell.baseline_value + cell.hi],
                color=COLOURS[0],
            )
        axes.plot(
            [x],
            [cell.value],
            marker="o",
            markersize=5,
            color=COLOURS[0],
            markerfacecolor=BLACK if own else COLOURS[0],
        )
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_xticks([])
    axes.set_ylabel(short(base.heading, 30))
    axes.set_title(
        short(
            f"{owner}: {base.full_name} by noise step (dashed: {records.baseline}; black: the row's"
            " own step)",
            112,
        ),
        loc="left",
    )
    for place, (shot, (value, _, _)) in enumerate(zip(shots, points, strict=True)):
        axes = figure.add_subplot(grid[1, place])
        axes.imshow(np.asarray(shot), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"step {value}", fontsize=7, loc="center")
    return figure


def _picture(results: Results, benchmark: str) -> Image.Image | None:
    """The first exported image of the benchmark that is still there."""
    path = results.questions(benchmark) / "questions.jsonl"
    for row in read_jsonl(path)[:1] if path.exists() else []:
        image = (
            results.questions(benchmark) / "images" / row["images"][0]
            if row.get("images")
            else None
        )
        if image is not None and image.exists():
            with Image.open(io.BytesIO(image.read_bytes())) as opened:
                return opened.convert("RGB")
    return None


def _corrupted(picture: Image.Image, base: str, steps: Sequence[int]) -> list[Image.Image] | None:
    from harness.models.base_cards import find_base
    from harness.reporting.page.images import corrupted_picture

    try:
        card = find_base(base)
        return [
            corrupted_picture(picture, card, "diffusion", step, "figure") if step else picture
            for step in steps
        ]
    except (UserError, ValueError):
        return None
