"""The spreads of the shipped reference (results/reference/rounds), so that a fresh clone can plan.

    python -m harness.pipeline.shipped_spreads results/reference/rounds     writes them again

They are of the synthetic base alone; the tables of your own studies replace them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.artifacts.results_folder import write_json
from harness.reporting.power import Spread, spread
from harness.reporting.results import StudyResults, load_results

PATH = Path(__file__).with_suffix(".json")
ORIGIN = "the shipped reference"


@dataclass(frozen=True, kw_only=True)
class MethodSpread:
    """How methods' differences from the untrained model vary in one metric after one round."""

    base: str
    benchmark: str
    metric: str
    round: int
    spread: Spread
    origin: str
    """Where it was measured: a results folder, or the shipped reference."""
    measured: int = 0
    """The number of images where ``spread.training`` holds the interaction too; 0: it does not."""

    def at(self, images: int) -> Spread:
        """The spread on this many images. With fewer than measured, all of ``training`` is taken
        for interaction, else none: a plan never promises too much."""
        more = math.sqrt(max(1.0, self.measured / max(images, 1)))
        return replace(self.spread, training=self.spread.training * more)


@cache
def shipped_spreads() -> tuple[MethodSpread, ...]:
    return tuple(
        MethodSpread(**{**row, "spread": Spread(**row["spread"])}, origin=ORIGIN)
        for row in json.loads(PATH.read_text(encoding="utf-8"))
    )


def pooled(spreads: Sequence[Spread]) -> Spread:
    """One spread for several rows: the root of the mean variance."""

    def root(values: Iterable[float]) -> float:
        return math.sqrt(sum(value**2 for value in values) / len(spreads))

    return Spread(
        training=root(one.training for one in spreads),
        images=root(one.images for one in spreads),
        interaction=root(one.interaction for one in spreads),
        count=root(one.count for one in spreads),
    )


def summarize(study: StudyResults) -> list[dict[str, Any]]:
    """The content of the JSON file: of each primary metric, after the first and the last round, the
    pooled spread of the methods that were trained with two seeds or more."""
    rows = []
    methods = [row for row in study.rows if row.role == "method" and row.rounds]
    base = study.base_row
    for benchmark in study.benchmarks:
        before = study.counts[base.label, 0, benchmark.name]
        for metric in (metric for metric in benchmark.metrics if metric.primary):
            for number in sorted({1, *(row.rounds for row in methods)}):
                graded = [study.counts.get((row.label, number, benchmark.name)) for row in methods]
                found = [
                    spread(counts.terms(metric), before.terms(metric), metric.scale)
                    for counts in graded
                    if counts is not None and len(counts.seeds) > 1
                ]
                whole = {name: round(value, 4) for name, value in asdict(pooled(found)).items()}
                place = {"base": base.base, "benchmark": benchmark.name, "metric": metric.name}
                rows.append({**place, "round": number, "spread": whole})
    return rows


if __name__ == "__main__":
    write_json(PATH, summarize(load_results(Path(sys.argv[1]))))
