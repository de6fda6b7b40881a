"""The sums behind every metric: a row's grades on one benchmark, by training seed and image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.interface import Metric
from harness.reporting.stats import Floats, ratio

PREFIX = "count_"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One row's grades on one benchmark: S seeds, C images (sorted), Q questions (sorted)."""

    seeds: tuple[int, ...]
    images: tuple[str, ...]
    questions: tuple[str, ...]
    sums: dict[str, Floats]
    """Each count summed over an image's questions: ``(S, C)`` by the count's name."""
    values: Floats
    """Each question's own score: ``(S, Q)``, nan where unscored."""
    left_out: tuple[int, ...] = ()
    """Seeds that answered other questions than most, so their grades are not used."""

    def terms(self, metric: Metric) -> Floats:
        """The metric's numerator and denominator ``(S, C, 2)``; a count that no grade has is zero,
        as in ``metric_value``."""
        zeros = np.zeros((len(self.seeds), len(self.images)))
        names = (metric.numerator, metric.denominator)
        return np.stack([self.sums.get(name, zeros) for name in names], axis=-1)

    def pooled(self, metric: Metric) -> float:
        """The metric's value over all seeds together; nan: the denominator is zero."""
        return float(ratio(self.terms(metric).sum(axis=(0, 1)), metric.scale))

    def seed_values(self, metric: Metric) -> Floats:
        """The metric's value of each seed ``(S,)``."""
        return ratio(self.terms(metric).sum(axis=1), metric.scale)

    @property
    def unscored(self) -> int:
        return int(np.isnan(self.values).sum())


def all_counts(grades: pd.DataFrame) -> dict[tuple[str, int, str], Counts]:
    """The counts of every row, by label, round and benchmark."""
    groups = grades.groupby(["label", "round", "benchmark"], sort=False)
    return {
        (str(label), int(str(round)), str(benchmark)): _counts(part)
        for (label, round, benchmark), part in groups
    }


def _counts(grades: pd.DataFrame) -> Counts:
    """Seeds that were asked other questions, or about other images, than most seeds (if equal: than
    the first) are left out, and named so."""
    # Another benchmark's counts are 0 here, and an absent count is taken as 0.
    names = [name for name in grades.columns if name.startswith(PREFIX) and grades[name].any()]
    by_seed = {
        int(str(seed)): part.sort_values("question") for seed, part in grades.groupby("seed")
    }
    asked = {
        seed: tuple(zip(part["question"], part["cluster"], strict=True))
        for seed, part in by_seed.items()
    }
    ((most, _),) = Counter(asked.values()).most_common(1)
    left_out = tuple(seed for seed in by_seed if asked[seed] != most)
    by_seed = {seed: part for seed, part in by_seed.items() if seed not in left_out}
    summed = [part.groupby("cluster", sort=True)[names].sum() for part in by_seed.values()]
    return Counts(
        seeds=tuple(by_seed),
        images=tuple(str(image) for image in summed[0].index),
        questions=tuple(question for question, _ in most),
        sums={
            name.removeprefix(PREFIX): np.stack(
                [part[name].to_numpy(dtype=np.float64) for part in summed]
            )
            for name in names
        },
        values=np.stack([part["value"].to_numpy(dtype=np.float64) for part in by_seed.values()]),
        left_out=left_out,
    )
