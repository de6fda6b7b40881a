"""What a study can show: the smallest difference that S trainings on C images detect.

The power is that of the test in harness/reporting/stats.py, at a single test's level; give a
smaller ``alpha`` for a family of tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from harness.reporting.stats import Floats, influences, mean_squares, one_count

STEPS = 400
"""Points of the distribution of the trainings' mean square over which the power is averaged."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a difference varies, as standard deviations in the metric's unit."""

    training: float
    """Between trainings that differ in their seed alone, on very many images."""
    images: float
    """Between images, of the mean over very many trainings."""
    interaction: float
    """Between images of one training, beyond that."""
    count: float = 0.0
    """What one count changes in the value, times the number of images: the test takes one more and
    one fewer for part of the images' variance."""

    def training_variance(self, seeds: int, images: int) -> float:
        """The part of the variance that the trainings' mean square estimates."""
        return (self.training**2 + self.interaction**2 / images) / seeds

    def count_variance(self, images: int) -> float:
        """What the test adds to the images' variance."""
        return 2 * (self.count / images) ** 2


def spread(other: Floats, base: Floats, scale: float) -> Spread:
    """The spread of a row's difference from a fixed base, from counts ``(S, C, 2)`` and
    ``(1, C, 2)`` of two trainings or more.

    Raises:
        ValueError: fewer than two trainings or images.
    """
    if min(other.shape[:2]) < 2:
        raise ValueError("a spread needs two trainings and two images or more.")
    mine = influences(other, scale)
    between, rest, trainings = mean_squares(mine)
    images = mine.shape[1]
    change = mine.mean(axis=0) - influences(base, scale).mean(axis=0)
    return Spread(
        training=math.sqrt(max(between - rest / images, 0.0)),
        images=math.sqrt(max(float(change.var(ddof=1)) - rest / trainings, 0.0)),
        interaction=math.sqrt(rest),
        count=one_count(other, base, scale) * images,
    )


def power(
    difference: float, spread: Spread, *, seeds: int, images: int, alpha: float = 0.05
) -> float:
    """The chance that S trainings on C images find a true difference from the baseline; 0 for one
    training, which says nothing about a method."""
    if seeds < 2 or images < 2:
        return 0.0
    training = spread.training_variance(seeds, images)
    over_images = spread.images**2 / images
    whole = math.sqrt(training + over_images)
    tail = alpha / 2
    quantiles = (np.arange(STEPS) + 0.5) / STEPS
    estimated = training * stats.chi2.ppf(quantiles, seeds - 1) / (seeds - 1)
    half = np.sqrt(
        stats.t.isf(tail, seeds - 1) ** 2 * estimated
        + stats.t.isf(tail, images - 1) ** 2 * (over_images + spread.count_variance(images))
    )
    if whole == 0:
        return float(abs(difference) > half[0])
    found = stats.norm.sf((half - difference) / whole) + stats.norm.cdf(
        (-half - difference) / whole
    )
    return float(found.mean())


def detectable_difference(
    spread: Spread, *, seeds: int, images: int, alpha: float = 0.05, power_wanted: float = 0.8
) -> float:
    """The smallest true difference (in the metric's unit) that S trainings on C images find with
    this power; infinite for one training or one image."""
    if seeds < 2 or images < 2:
        return math.inf
    high = math.sqrt(
        spread.training_variance(seeds, images)
        + spread.images**2 / images
        + spread.count_variance(images)
    )
    if high == 0:
        return 0.0

    def lacking(difference: float) -> float:
        return power(difference, spread, seeds=seeds, images=images, alpha=alpha) - power_wanted

    while lacking(high) < 0:
        high *= 2
    return float(optimize.brentq(lacking, 0.0, high, xtol=1e-6 * high))


def seeds_needed(
    difference: float,
    spread: Spread,
    *,
    images: int,
    alpha: float = 0.05,
    power_wanted: float = 0.8,
    most: int = 100,
) -> int | None:
    """The fewest trainings that find this difference; None: not even ``most``, because the images
    are too few."""
    for seeds in range(2, most + 1):
        if power(difference, spread, seeds=seeds, images=images, alpha=alpha) >= power_wanted:
            return seeds
    return None
