"""Paired statistics over images, as pure functions of per-image counts.

Every metric is ``scale * sum(numerator) / sum(denominator)`` (benchmarks/interface.py). So a system
in a metric is an array ``(C, 2)``: numerator and denominator of each of C images (clusters). Two
systems answer the same images. All questions of an image move together. The ratio is recomputed on
each resample, never averaged over images.

Sources: BCa bootstrap and its acceleration - Efron, "Better bootstrap confidence intervals", JASA
82 (1987), eqs. 6.4-6.6; sign-flip permutation with the +1 correction - Phipson and Smyth, SAGMB 9
(2010), art. 39; step-down family correction - Holm, Scand. J. Statist. 6 (1979); exact paired test
of two yes/no systems - McNemar, Psychometrika 12 (1947)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
How = Literal["bca", "percentile", "degenerate", "none"]
RESAMPLES, FLIPS, EXACT_CLUSTERS = 10_000, 20_000, 14
CHUNK = 512
"""Resamples multiplied at a time, so that memory stays small."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A paired difference (other - base) in the metric's unit, its interval [``lo``, ``hi``], its
    jackknife standard error ``se``, and ``how`` the interval was computed.

    "bca": the usual case. "percentile": BCa's corrections are undefined, because all resamples are
    on one side of the difference, or one image has the whole denominator. "degenerate": no image
    differs; the interval is [0, 0]. "none": fewer than two images, or a denominator of zero; the
    bounds are nan.
    """

    difference: float
    lo: float
    hi: float
    se: float
    how: How


def ratio(sums: Floats, scale: float) -> Floats:
    """``scale * numerator / denominator`` along the last axis ``(..., 2)``; nan where the
    denominator is zero."""
    denominator = sums[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator != 0, scale * sums[..., 0] / denominator, np.nan)


def _checked(base: npt.ArrayLike, other: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both systems as float arrays ``(C, 2)``."""
    first, second = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.ndim != 2 or first.shape[1] != 2 or first.shape != second.shape:
        raise ValueError(
            f"paired counts have shapes {first.shape} and {second.shape}; both must be (images, 2)"
            " with the same images in the same order."
        )
    return first, second


@lru_cache(maxsize=2)
def resampling_weights(clusters: int, resamples: int, seed: int) -> npt.NDArray[np.uint8]:
    """How often each image is drawn in each bootstrap resample: ``(B, C)``; each row sums to C.
    Cached for the next metric."""
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, clusters), dtype=np.uint8)  # no image is drawn 255 times
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        weights[start : start + rows] = np.bincount(
            drawn.ravel(), minlength=rows * clusters
        ).reshape(rows, clusters)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=2)
def random_swaps(clusters: int, flips: int, seed: int) -> npt.NDArray[np.uint8]:
    """The images whose two systems are swapped in each random flip: ``(B, C)`` of 0 and 1."""
    swaps = np.random.default_rng(seed).integers(0, 2, size=(flips, clusters), dtype=np.uint8)
    swaps.flags.writeable = False
    return swaps


def _weighted_sums(weights: npt.NDArray[np.uint8], columns: Floats) -> Floats:
    """``weights (B, C) @ columns (C, K)`` in chunks: ``(B, K)``."""
    return np.concatenate(
        [
            weights[start : start + CHUNK].astype(np.float64) @ columns
            for start in range(0, len(weights), CHUNK)
        ]
    )


def jackknife(base: Floats, other: Floats, scale: float) -> Floats:
    """The difference with each image left out in turn ``(C,)``."""
    return ratio(other.sum(axis=0) - other, scale) - ratio(base.sum(axis=0) - base, scale)


def paired_interval(
    base: npt.ArrayLike,
    other: npt.ArrayLike,
    *,
    scale: float = 100.0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Paired BCa bootstrap over images of ``metric(other) - metric(base)``, from counts
    ``(C, 2)``."""
    return paired_intervals([(base, other, scale)], level=level, resamples=resamples, seed=seed)[0]


def paired_intervals(
    systems: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, float]],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """:func:`paired_interval` of several (base, other, scale) on the same images. They share the
    resamples, so one pass is enough for all."""
    checked = [(*_checked(base, other), scale) for base, other, scale in systems]
    resampled = [
        place
        for place, (first, second, scale) in enumerate(checked)
        if len(first) > 1
        and not np.array_equal(first, second)
        and np.isfinite(_difference(first, second, scale))
    ]
    sums: dict[int, Floats] = {}
    if resampled:
        weights = resampling_weights(len(checked[resampled[0]][0]), resamples, seed)
        columns = np.hstack([np.hstack(checked[place][:2]) for place in resampled])
        drawn = _weighted_sums(weights, columns)
        sums = {place: drawn[:, 4 * n : 4 * n + 4] for n, place in enumerate(resampled)}
    return [
        _interval(first, second, scale, level, sums.get(place))
        for place, (first, second, scale) in enumerate(checked)
    ]


def _difference(first: Floats, second: Floats, scale: float) -> float:
    return float(ratio(second.sum(axis=0), scale) - ratio(first.sum(axis=0), scale))


def _interval(
    first: Floats, second: Floats, scale: float, level: float, sums: Floats | None
) -> Interval:
    """One interval. ``sums``: both systems' counts in each resample ``(B, 4)``; None: no image
    differs, or the difference is undefined."""
    clusters = len(first)
    difference = _difference(first, second, scale)
    if clusters < 2 or not np.isfinite(difference):
        return Interval(difference=difference, lo=np.nan, hi=np.nan, se=np.nan, how="none")
    if sums is None:
        return Interval(difference=0.0, lo=0.0, hi=0.0, se=0.0, how="degenerate")
    left_out = jackknife(first, second, scale)
    spread = left_out.mean() - left_out  # nan where one image has the whole denominator
    # Rounded, so that printed bounds do not depend on the order in which threads add up.
    drawn = np.round(ratio(sums[:, 2:], scale) - ratio(sums[:, :2], scale), 9)
    drawn = drawn[np.isfinite(drawn)]  # not the resamples with a denominator of 0
    se = float(np.sqrt((clusters - 1) / clusters * np.sum(spread**2)))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    # Ties count half: counts are small integers, so many resamples equal the difference.
    near = 1e-9 * max(1.0, abs(difference))
    below = (np.mean(drawn < difference - near) + np.mean(drawn <= difference + near)) / 2
    cubes = np.sum(spread**2) ** 1.5
    how: How = "bca"
    if not 0 < below < 1 or not np.isfinite(se) or not cubes > 0:
        how = "percentile"
        se = se if np.isfinite(se) else float(drawn.std(ddof=1))
    else:
        z0 = stats.norm.ppf(below)
        acceleration = np.sum(spread**3) / (6 * cubes)
        z = z0 + stats.norm.ppf(tails)
        tails = np.asarray(stats.norm.cdf(z0 + z / (1 - acceleration * z)))
    lo, hi = (float(bound) for bound in np.round(np.quantile(drawn, tails), 9))
    return Interval(difference=difference, lo=lo, hi=hi, se=se, how=how)


def sign_flip(
    base: npt.ArrayLike,
    other: npt.ArrayLike,
    *,
    scale: float = 100.0,
    flips: int = FLIPS,
    seed: int = 0,
) -> float:
    """Two-sided p of the null hypothesis that the two systems are exchangeable on every image.

    Each flip swaps the two systems' counts on a random half of the images and recomputes both
    ratios. All flips are enumerated if at most ``EXACT_CLUSTERS`` images differ; otherwise p is
    (hits + 1) / (flips + 1) of random flips. nan: a denominator is zero."""
    first, second = _checked(base, other)
    totals = np.hstack([first.sum(axis=0), second.sum(axis=0)])
    observed = abs(float(ratio(totals[2:], scale) - ratio(totals[:2], scale)))
    if not np.isfinite(observed):
        return float("nan")
    change = second - first
    differing = change.any(axis=1)
    moved = int(differing.sum())
    if moved == 0:
        return 1.0
    exact = moved <= EXACT_CLUSTERS
    if exact:
        change = change[differing]
        swaps = ((np.arange(2**moved)[:, None] >> np.arange(moved)) & 1).astype(np.uint8)
    else:
        swaps = random_swaps(len(first), flips, seed)
    shift = _weighted_sums(swaps, change)
    drawn = np.abs(ratio(totals[2:] - shift, scale) - ratio(totals[:2] + shift, scale))
    # Undefined flips and ties (up to rounding) count as hits, which can only make p larger.
    hits = int(np.sum(~(drawn < observed - 1e-9 * max(1.0, observed))))
    return hits / len(swaps) if exact else (hits + 1) / (len(swaps) + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p of each test of a family, in the given order.

    A missing test (nan) stays nan but counts in the family's size, because the family was declared
    before the run."""
    adjusted = [float("nan")] * len(ps)
    running = 0.0
    known = sorted((p, index) for index, p in enumerate(ps) if not np.isnan(p))
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(ps) - rank) * p))
        adjusted[index] = running
    return adjusted


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


def seed_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """``(mean, lo, hi)``: Student's t-interval over training seeds; the bounds are nan for fewer
    than two seeds."""
    finite = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    if len(finite) == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(finite.mean())
    if len(finite) < 2:
        return mean, float("nan"), float("nan")
    half = float(
        stats.t.ppf((1 + level) / 2, len(finite) - 1) * finite.std(ddof=1) / np.sqrt(len(finite))
    )
    return mean, mean - half, mean + half


def smallest_detectable(se: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test at ``alpha`` finds with this ``power``; ``se`` is
    the paired standard error."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * se)
