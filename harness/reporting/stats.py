"""Differences between methods and between trained models, as pure functions of per-image counts.

A metric is ``scale * sum(numerator) / sum(denominator)`` (benchmarks/interface.py), so a row in a
metric is an array ``(S, C, 2)``: numerator and denominator of S trainings (seeds) on C images
(clusters); all questions of an image stay together. Trainings and images are crossed random
effects. The difference of two rows varies by the trainings' seeds, by the drawn images, and by
their interaction:

    var = training / S + image / C + interaction / (S C)

The mean square between the trainings' means estimates ``training + interaction / C``, with S - 1
degrees of freedom. The variance over images of the mean over trainings, less the interaction that
is already counted, estimates ``image``, with C - 1. A ratio enters by its linearisation (delta
method): the influence of each image on it.

With two to five trainings the usual combination of the two parts (Satterthwaite's) gives up to
12 % false alarms instead of 5 %, and 20 times too many at the levels that Holm's correction needs
(tests/benches/bench_stats.py). So the halves of the interval are added in quadrature, each with the
t-quantile of its own part (Banerjee): never too short for normal parts, whatever their sizes. p is
the level at which the interval ends at 0, so interval and test agree.

Where a training changes few answers or none, the images' variance is estimated too small, down to
0: "no answer of 1,000 changed" does not show that none ever will. So the images' variance is taken
as if one count more and one count fewer had been seen, as Bonett and Price do for paired
proportions: 2 (scale / sum(denominator))^2 is added. With no change on 1,000 questions the interval
is then +-0.28 points, near the exact "rule of three" (0.30). It does not matter elsewhere. Where a
question counts less than one, as in MME's sum over subtasks, one count is what an image counts.

Sources: why trainings must count - Bouthillier et al., "Accounting for variance in machine learning
benchmarks", MLSys 2021; crossed effects of trainings and test cases - Searle, Casella, McCulloch,
"Variance components", 1992, chapter 5; the interval - Banerjee, Sankhya 22 (1960), 357-358; the
added counts - Bonett, Price, J. Educ. Behav. Statist. 37 (2012), 479-488; degrees of freedom of two
groups of trainings - Welch, Biometrika 34 (1947); step-down family correction - Holm, Scand. J.
Statist. 6 (1979); exact paired test of yes/no answers - McNemar, Psychometrika 12 (1947)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.float64]
Design = Literal["fixed", "paired", "independent"]
About = Literal["method", "training", "none"]
NAN = float("nan")
LEVEL = 0.95
SMALLEST_P = 1e-100


@dataclass(frozen=True, kw_only=True)
class DifferenceEstimate:
    """A difference in the metric's unit with the two parts of its variance."""

    difference: float
    training: float
    """Variance of the difference from the trainings' seeds, interaction included; nan: unknown,
    because a row has one training only."""
    training_df: float
    images: float
    """Variance of the difference from the drawn images; nan: fewer than two images."""
    images_df: float
    one_count: float = 0.0
    """Variance of one count more and one count fewer, which the interval adds to the images'."""

    @property
    def about(self) -> About:
        """What the interval is about: the method, the one training that was measured, or nothing
        (no value, or one image)."""
        if not np.isfinite(self.difference) or not np.isfinite(self.images):
            return "none"
        return "method" if np.isfinite(self.training) else "training"

    @property
    def se(self) -> float:
        """The standard error; for one training: over images alone."""
        return float(np.sqrt(self.images + self.one_count + np.nan_to_num(self.training)))

    def half(self, level: float = LEVEL) -> float:
        """Half the width of the interval at this level."""
        return self._half((1 - level) / 2)

    def _half(self, tail: float) -> float:
        # The t-quantile, without the many checks of scipy.stats: this runs thousands of times.
        square = special.stdtrit(self.images_df, tail) ** 2 * (self.images + self.one_count)
        if self.about == "method":
            square += special.stdtrit(self.training_df, tail) ** 2 * self.training
        return float(np.sqrt(square))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two bounds; nan if there is no interval."""
        if self.about == "none":
            return NAN, NAN
        half = self.half(level)
        return self.difference - half, self.difference + half

    @property
    def p(self) -> float:
        """Two-sided p of no difference: 1 - the level of the interval that ends at 0. nan: no
        interval."""
        if self.about == "none":
            return NAN
        if self.difference == 0:
            return 1.0

        def outside(log_p: float) -> float:
            return self._half(np.exp(log_p) / 2) - abs(self.difference)

        least = float(np.log(SMALLEST_P))
        if outside(least) < 0:
            return SMALLEST_P
        return float(np.exp(optimize.brentq(outside, least, 0.0, xtol=1e-10)))


def ratio(sums: Floats, scale: float) -> Floats:
    """``scale * numerator / denominator`` along the last axis ``(..., 2)``; nan where the
    denominator is zero."""
    denominator = sums[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator != 0, scale * sums[..., 0] / denominator, np.nan)


def influences(counts: Floats, scale: float) -> Floats:
    """A row's value, spread over trainings and images ``(S, C)`` from counts ``(S, C, 2)``.

    The mean of all is the pooled value; the mean of a training is its own value (linearised)."""
    totals = counts.sum(axis=(0, 1))
    value = float(ratio(totals, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = (counts[..., 0] - value * counts[..., 1]) / (
            totals[1] / counts[..., 0].size  # the mean denominator
        )
    return np.asarray(scale * (value + residual))


def estimate(
    other: npt.ArrayLike, base: npt.ArrayLike, *, scale: float = 100.0, design: Design = "fixed"
) -> DifferenceEstimate:
    """``metric(other) - metric(base)`` from counts ``(S, C, 2)`` and ``(S', C, 2)`` on the same
    images.

    ``design``: "fixed": the base is one given model, such as the untrained one (S' = 1); "paired":
    training s of both shares its seed and its data (a method and its control); "independent": two
    rows trained apart. Trainings that agree in every count are one training."""
    first, second = np.asarray(other, dtype=np.float64), np.asarray(base, dtype=np.float64)
    for counts in (first, second):
        if counts.ndim != 3 or counts.shape[1:] != (first.shape[1], 2):
            raise ValueError(
                f"the counts have shapes {first.shape} and {second.shape}; both must be"
                " (trainings, images, 2) with the same images in the same order."
            )
    if (design == "paired" and len(first) != len(second)) or (
        design == "fixed" and len(second) != 1
    ):
        raise ValueError(f"{len(first)} and {len(second)} trainings do not fit design {design!r}.")
    mine, theirs = influences(first, scale), influences(second, scale)
    if design == "independent":
        groups = [mine, theirs]
    else:
        groups = [mine - theirs if design == "paired" else mine]
    change = mine.mean(axis=0) - theirs.mean(axis=0)
    images = len(change)
    result = DifferenceEstimate(
        difference=float(change.mean()),
        training=NAN,
        training_df=NAN,
        images=float(change.var(ddof=1)) / images if images > 1 else NAN,
        images_df=images - 1,
        one_count=2 * one_count(first, second, scale) ** 2,
    )
    if result.about == "none" or any(len(group) < 2 or alike(group) for group in groups):
        return result
    squares = [mean_squares(group) for group in groups]
    parts = [max(between, rest / images) / n for between, rest, n in squares]
    counted_twice = sum(rest / (n * images) for _, rest, n in squares)
    training = sum(parts)
    return replace(
        result,
        training=training,
        training_df=training**2
        / sum(part**2 / (n - 1) for part, (*_, n) in zip(parts, squares, strict=True)),
        images=max(result.images - counted_twice, 0.0),
    )


def one_count(first: Floats, second: Floats, scale: float) -> float:
    """What one count more in the numerator changes in a training's value: the larger denominator of
    the two rows counts. One count is 1, or the most that an image has (the root of the mean square
    over images with any) where that is less: weights of questions may be small shares."""
    most = np.maximum(*(np.abs(counts[..., 0]).max(axis=0) for counts in (first, second)))
    most = most[most > 0]
    count = min(1.0, float(np.sqrt(np.mean(most**2)))) if len(most) else 1.0
    denominator = max(abs(float(counts[..., 1].sum(axis=1).mean())) for counts in (first, second))
    return scale * count / denominator if denominator else NAN


def alike(trainings: Floats) -> bool:
    """Whether all trainings ``(S, ...)`` agree on every image: the seed changed nothing, or one
    model was stored several times."""
    return bool(
        np.all(np.ptp(trainings, axis=0) <= 1e-9 * max(1.0, float(np.abs(trainings).max())))
    )


def mean_squares(group: Floats) -> tuple[float, float, int]:
    """``(between, rest, S)`` of influences ``(S, C)``: the variance between the trainings' means,
    which estimates training + interaction / C, and the variance of what neither trainings nor
    images explain, the interaction. S counts the trainings."""
    trainings, images = group.shape
    by_training = group.mean(axis=1, keepdims=True)
    rest = group - by_training - group.mean(axis=0) + group.mean()
    freedom = (trainings - 1) * (images - 1)
    return float(by_training.var(ddof=1)), float((rest**2).sum() / freedom), trainings


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p of each test of a family, in the given order.

    A missing test (nan) stays nan but counts in the family's size, because the family was declared
    before the run."""
    adjusted = [NAN] * len(ps)
    running = 0.0
    known = sorted((p, index) for index, p in enumerate(ps) if not np.isnan(p))
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(ps) - rank) * p))
        adjusted[index] = running
    return adjusted


def rank_ranges(ahead: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The ranks that each of N rows may hold, 1 the best. ``ahead[i, j]``: i is truly ahead of j,
    at a level that holds for all pairs at once (Al Mohamad, Goeman, van Zwet, Biometrics 78,
    2022)."""
    behind_of, ahead_of = ahead.sum(axis=0), ahead.sum(axis=1)
    return [
        (1 + int(better), len(ahead) - int(worse))
        for better, worse in zip(behind_of, ahead_of, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """``gained``: questions that only the other system answered right; ``lost``: only the base;
    ``p``: exact, two-sided."""

    gained: int
    lost: int
    p: float


def mcnemar(base: npt.ArrayLike, other: npt.ArrayLike) -> McNemar:
    """Exact McNemar test of paired right/wrong answers ``(Q,)``. It treats questions of one image
    as independent, so the table gives it only in the notes."""
    first, second = np.asarray(base, dtype=bool), np.asarray(other, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(
            f"McNemar's test got {first.size} and {second.size} answers; give both systems' answers"
            " to the same questions."
        )
    gained, lost = int(np.sum(second & ~first)), int(np.sum(first & ~second))
    p = min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))
    return McNemar(gained=gained, lost=lost, p=p)
