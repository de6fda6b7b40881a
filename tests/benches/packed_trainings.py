"""The counts of real trainings that differ in their seed alone, kept small: what
tests/benches/bench_stats.py measures on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.reporting.results import load_results
from harness.reporting.stats import Floats

PACKED = Path("results/calibration/counts.parquet")
BASELINE = "untrained"


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """One metric's counts: each row's ``(S, C, 2)``, the baseline's ``(1, C, 2)``."""

    benchmark: str
    metric: str
    primary: bool
    scale: float
    rows: Mapping[str, Floats]
    base: Floats

    @property
    def name(self) -> str:
        return f"{self.benchmark.removeprefix('synthetic_')} {self.metric}"


def pack(folder: Path, out: Path = PACKED) -> None:
    """Write the counts of every directed metric, training and image of a results folder."""
    study = load_results(folder)
    parts = []
    for benchmark in study.benchmarks:
        if (BASELINE, 0, benchmark.name) not in study.counts:
            print(f"{benchmark.name} is left out: {BASELINE} is not graded on it yet.")
            continue
        for row in study.rows:
            counts = study.counts.get((row.label, min(row.rounds, 1), benchmark.name))
            if row.role not in ("baseline", "method") or counts is None:
                continue
            for metric in (metric for metric in benchmark.metrics if metric.better != "none"):
                terms = counts.terms(metric)
                seeds, images = terms.shape[:2]
                parts.append(
                    pd.DataFrame(
                        {
                            "benchmark": benchmark.name,
                            "metric": metric.name,
                            "primary": metric.primary,
                            "scale": metric.scale,
                            "image": np.tile(np.arange(images, dtype=np.int32), seeds),
                            "label": row.label,
                            "seed": np.repeat(np.array(counts.seeds, dtype=np.int16), images),
                            "numerator": terms[..., 0].ravel(),
                            "denominator": terms[..., 1].ravel(),
                        }
                    )
                )
    if not parts:
        raise SystemExit(f"{folder} has no graded training yet.")
    frame = pd.concat(parts, ignore_index=True)
    for name in ("numerator", "denominator"):
        if not (frame[name] == frame[name].round()).all():
            raise SystemExit(f"{name} holds fractions; they would be lost.")
        frame[name] = frame[name].astype("int32")
    order = ["benchmark", "metric", "image", "label", "seed"]
    frame = frame.sort_values(order, kind="stable", ignore_index=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out, index=False, compression="zstd", compression_level=19)
    seeds = frame.groupby("label")["seed"].nunique().to_dict()
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB; trainings by row: {seeds}")


def unpack(path: Path = PACKED) -> list[Trainings]:
    frame = pd.read_parquet(path)
    made = []
    for (benchmark, metric), part in frame.groupby(["benchmark", "metric"], sort=False):
        rows = {
            str(label): np.stack(
                [
                    mine.sort_values("image")[["numerator", "denominator"]].to_numpy(float)
                    for _, mine in mine_by_label.groupby("seed")
                ]
            )
            for label, mine_by_label in part.groupby("label")
        }
        made.append(
            Trainings(
                benchmark=str(benchmark),
                metric=str(metric),
                primary=bool(part["primary"].iloc[0]),
                scale=float(part["scale"].iloc[0]),
                base=rows.pop(BASELINE),
                rows=rows,
            )
        )
    return made
