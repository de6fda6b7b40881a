"""What a planned study can show, from the spreads of earlier studies beside it or of the shipped
reference."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.interface import Metric
from harness.pipeline.shipped_spreads import ORIGIN, MethodSpread, pooled, shipped_spreads
from harness.reporting.display_names import display_name
from harness.reporting.power import Spread, detectable_difference, seeds_needed
from harness.study.study import Study

LITTLE = 0.05
"""A study that finds no smaller difference, as a share of the metric's scale, shows little."""
TWO_POINTS = 0.02
"""As a share of the metric's scale."""
MORE_IMAGES = "more images, not only seeds"
"""Where even 100 seeds do not find it."""


def lines(study: Study, root: Path, images: Callable[[str], int]) -> list[str]:
    """What the study can show, a line a primary metric.

    ``root``: the folder that holds results folders. ``images``: counts a benchmark's images."""
    trained = [run for run in study.runs if run.last and study.role(run) == "method"]
    if not trained:
        return []
    seeds = min(Counter(run.label for run in trained).values())
    last = max(run.last for run in trained)
    sentences, smallest, unknown = list[str](), list[float](), list[str]()
    origins: dict[str, None] = {}
    bases = tuple(dict.fromkeys(run.base for run in trained))
    spreads = {base: [*stored_spreads(root, base), *shipped_spreads()] for base in bases}
    for base, (benchmark, metric) in product(bases, _primary(study)):
        name = f"{display_name(benchmark)} / {display_name(metric.name)}"
        name += f" on {base}" if len(bases) > 1 else ""
        nearest_spreads = nearest(spreads[base], (base, benchmark, metric.name), last)
        if not nearest_spreads:
            unknown.append(name)
            continue
        origins |= dict.fromkeys(spread.origin for spread in nearest_spreads)
        count = images(benchmark)
        pooled_spread = pooled([spread.at(count) for spread in nearest_spreads])
        difference = detectable_difference(pooled_spread, seeds=seeds, images=count)
        smallest.append(difference / metric.scale)
        text = _text(metric, difference, seeds_needed(_two(metric), pooled_spread, images=count))
        sentences.append(f"  {name}, {count:,} images: {text}")
    if origins:
        sentences.append(
            f"Spreads over seeds and images: from {', '.join(origins)}. Other training images or"
            " steps change them."
        )
    if unknown:
        sentences.append(
            f"What it can show in {', '.join(dict.fromkeys(unknown))} is not known: no earlier"
            " study with two seeds or more on this base."
        )
    return [*_head(seeds, smallest), *sentences]


def _primary(study: Study) -> Iterator[tuple[str, Metric]]:
    """The metrics that the study tests, with their benchmarks."""
    for benchmark in study.benchmarks:
        for metric in benchmark.metrics:
            marked = study.is_primary(benchmark.name, metric.name, metric.primary)
            if marked and metric.better != "none":
                yield benchmark.name, metric


def nearest(
    spreads: Sequence[MethodSpread], key: tuple[str, str, str], round: int
) -> list[MethodSpread]:
    """The spreads of this base, benchmark and metric after the nearest round that was measured:
    those of your own studies, else the shipped ones."""
    alike = [spread for spread in spreads if (spread.base, spread.benchmark, spread.metric) == key]
    alike = [spread for spread in alike if spread.origin != ORIGIN] or alike
    distance = min((abs(spread.round - round) for spread in alike), default=0)
    return [spread for spread in alike if abs(spread.round - round) == distance]


def stored_spreads(root: Path, base: str) -> Iterator[MethodSpread]:
    """The spreads in the tables of the results folders in ``root``: methods on this base with two
    seeds or more. Packed folders are copies, so they are left out, as are tables that cannot be
    read. A table does not tell trainings from their interaction with images."""
    for path in sorted(root.glob("*/table.csv")):
        if (path.parent / "packed.json").exists():
            continue
        try:
            stored = json.loads((path.parent / "study.json").read_text(encoding="utf-8"))
            bases = {run["label"]: run["base"] for run in stored["runs"]}
            with path.open(encoding="utf-8", newline="") as file:
                cells = list(csv.DictReader(file))
            for cell in cells:
                if bases.get(cell["label"]) == base:
                    yield from _of_cell(cell, base, str(path.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of an earlier version, or broken; a plan can do without


def _of_cell(cell: Mapping[str, Any], base: str, origin: str) -> Iterator[MethodSpread]:
    if cell["role"] != "method" or cell["about"] != "method":
        return
    seeds, images = len(cell["seeds"].split()), int(cell["images"])
    training = float(cell["se_training"]) * math.sqrt(seeds)
    of_images = float(cell["se_images"]) * math.sqrt(images)
    count = float(cell.get("se_one_count") or 0.0) / math.sqrt(2) * images  # new in November 2026
    yield MethodSpread(
        base=base,
        benchmark=cell["benchmark"],
        metric=cell["metric"],
        round=int(cell["round"]),
        spread=Spread(training=training, images=of_images, interaction=0.0, count=count),
        origin=origin,
        measured=images,
    )


def _two(metric: Metric) -> float:
    return TWO_POINTS * metric.scale


def _unit(metric: Metric) -> str:
    return "points" if metric.scale == 100 else metric.unit


def _text(metric: Metric, difference: float, needed: int | None) -> str:
    """What is found of one metric, and what two points need."""
    needs = f"{_two(metric):g} {_unit(metric)} need {f'{needed} seeds' if needed else MORE_IMAGES}"
    shown = "" if math.isinf(difference) else f"{difference:.1f} {_unit(metric)}; "
    return shown + needs


def _head(seeds: int, smallest: Sequence[float]) -> list[str]:
    """``smallest``: the smallest differences that are found, as shares of their scales."""
    if seeds < 2:
        return [
            "With one seed this study speaks of single trainings: one training cannot speak of the"
            f" method.{' To find two points with 80 % power:' if smallest else ''}"
        ]
    if not smallest:
        return []
    little = (
        "This study can show little: it finds no difference below 5 points in any primary metric."
        " Take more seeds or more images."
    )
    return [
        *([little] if min(smallest) > LITTLE else []),
        f"With {seeds} seeds the study finds these differences from the untrained model with 80 %"
        " power (a single test at 0.05; several methods or metrics need more):",
    ]
