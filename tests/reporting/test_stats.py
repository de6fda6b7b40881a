"""The statistics against scipy, full enumeration, hand examples and a small calibration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.reporting.stats import (
    Floats,
    holm,
    jackknife,
    mcnemar,
    paired_interval,
    ratio,
    seed_interval,
    sign_flip,
    smallest_detectable,
)
from tests.benches import bench_stats


def systems(images: int, seed: int = 0) -> tuple[Floats, Floats]:
    return bench_stats.better_ratio(np.random.default_rng(seed), images)


def mean_counts(values: Floats) -> Floats:
    return np.stack([values, np.ones_like(values)], axis=1)


def test_bca_equals_scipys_on_a_paired_mean() -> None:
    rng = np.random.default_rng(5)
    base, other = rng.exponential(size=60), rng.exponential(size=60) + 0.2 * rng.normal(size=60)
    ours = paired_interval(mean_counts(base), mean_counts(other), scale=1.0, resamples=40_000)
    theirs = scipy_stats.bootstrap(
        (base, other),
        lambda a, b, axis: (b - a).mean(axis=axis),
        paired=True,
        method="BCa",
        n_resamples=40_000,
        batch=2_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    # Two independent sets of 40,000 resamples: a 2.5 % quantile moves by about 1 % of the
    # interval's width.
    width = theirs.high - theirs.low
    assert abs(ours.lo - theirs.low) < 0.03 * width
    assert abs(ours.hi - theirs.high) < 0.03 * width
    assert ours.how == "bca"
    assert ours.difference == pytest.approx(float((other - base).mean()))


def test_bca_equals_scipys_on_a_corpus_ratio() -> None:
    base, other = systems(80)

    def difference(index: np.ndarray, axis: int = -1) -> np.ndarray:
        return ratio(other[index].sum(axis=axis - 1), 100.0) - ratio(
            base[index].sum(axis=axis - 1), 100.0
        )

    theirs = scipy_stats.bootstrap(
        (np.arange(80),),
        lambda index, axis: difference(index.astype(int), axis),
        method="BCa",
        n_resamples=20_000,
        batch=2_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = paired_interval(base, other, resamples=20_000)
    width = theirs.high - theirs.low
    assert abs(ours.lo - theirs.low) < 0.04 * width
    assert abs(ours.hi - theirs.high) < 0.04 * width


def test_the_closed_form_jackknife_leaves_each_image_out() -> None:
    base, other = systems(15)
    for left_out, value in enumerate(jackknife(base, other, 100.0)):
        kept = np.arange(15) != left_out
        assert value == pytest.approx(
            float(ratio(other[kept].sum(0), 100.0) - ratio(base[kept].sum(0), 100.0))
        )


def test_intervals_fall_back_as_stated() -> None:
    base, other = systems(30)
    same = paired_interval(base, base)
    assert (same.difference, same.lo, same.hi, same.how) == (0.0, 0.0, 0.0, "degenerate")
    assert paired_interval(base[:1], other[:1]).how == "none"
    empty = paired_interval(base, np.zeros_like(other))
    assert empty.how == "none"
    assert np.isnan(empty.difference)
    lonely = np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    alone = paired_interval(lonely, lonely * [2.0, 1.0])
    assert alone.how == "percentile"
    assert np.isfinite([alone.lo, alone.hi, alone.se]).sum() >= 2
    with pytest.raises(ValueError, match="same images in the same order"):
        paired_interval(base, other[:-1])


def test_sign_flip_equals_full_enumeration() -> None:
    base, other = systems(9, seed=3)
    observed = abs(float(ratio(other.sum(0), 100.0) - ratio(base.sum(0), 100.0)))
    hits = 0
    for swaps in product([False, True], repeat=9):
        swap = np.array(swaps)[:, None]
        first, second = np.where(swap, other, base), np.where(swap, base, other)
        hits += (
            abs(float(ratio(second.sum(0), 100.0) - ratio(first.sum(0), 100.0))) >= observed - 1e-9
        )
    assert sign_flip(base, other) == pytest.approx(hits / 2**9)
    assert 0.01 < hits / 2**9 < 1  # the example says something


def test_sign_flip_equals_scipys_permutation_test() -> None:
    rng = np.random.default_rng(8)
    base = rng.normal(size=40)
    other = base + rng.normal(0.3, 1.0, size=40)
    theirs = scipy_stats.permutation_test(
        (base, other),
        lambda a, b, axis: (b - a).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        batch=2_000,
        rng=np.random.default_rng(0),
    ).pvalue
    ours = sign_flip(mean_counts(base), mean_counts(other), scale=1.0)
    assert abs(ours - theirs) < 4 * np.sqrt(2 * theirs * (1 - theirs) / 20_000)


def test_sign_flip_without_a_difference_or_a_denominator() -> None:
    base, other = systems(20)
    assert sign_flip(base, base) == 1.0
    assert np.isnan(sign_flip(base, np.zeros_like(other)))
    assert sign_flip(base, other, flips=99) >= 0.01  # the +1 correction: never 0


def test_holm_by_hand() -> None:
    # Holm (1979): sorted .005 .01 .03 .04 -> 4 * .005, 3 * .01, 2 * .03, then 1 * .04 is lifted to
    # .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    missing = holm([0.01, float("nan"), 0.02])
    assert missing[0] == pytest.approx(0.03)
    assert np.isnan(missing[1])
    assert missing[2] == pytest.approx(0.04)


@pytest.mark.parametrize(("gained", "lost"), [(3, 12), (12, 3), (0, 5), (7, 7), (40, 61)])
def test_mcnemar_equals_scipys_binomtest(gained: int, lost: int) -> None:
    base = np.array([0] * gained + [1] * lost + [1] * 20 + [0] * 4)
    other = np.array([1] * gained + [0] * lost + [1] * 20 + [0] * 4)
    found = mcnemar(base, other)
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(scipy_stats.binomtest(gained, gained + lost).pvalue)


def test_mcnemar_without_discordant_answers() -> None:
    assert mcnemar([1, 0, 1], [1, 0, 1]).p == 1.0


def test_seed_interval_is_students() -> None:
    values = [1.0, 2.5, 2.2]
    mean, lo, hi = seed_interval(values)
    theirs = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean, lo, hi) == pytest.approx((np.mean(values), theirs.low, theirs.high))
    assert np.isnan(seed_interval([1.0])[1:]).all()
    assert np.isnan(seed_interval([])[0])


def test_smallest_detectable_is_the_textbook_one() -> None:
    assert smallest_detectable(1.0) == pytest.approx(2.8016, abs=1e-4)


def test_false_alarms_stay_near_five_per_cent() -> None:
    # 400 simulated nulls: 5 % has a standard error of 1.1 points, so 9 % is beyond three of them.
    assert bench_stats.false_alarms(bench_stats.null_ratio, 60, 400, flips=499) < 0.09
    assert bench_stats.false_alarms(bench_stats.null_mean, 60, 400, flips=499) < 0.09


def test_the_interval_holds_the_truth_and_the_test_finds_an_effect() -> None:
    held, _, _ = bench_stats.coverage(bench_stats.better_ratio, 150, 300, resamples=800)
    assert 0.90 < held < 0.99
    assert bench_stats.false_alarms(bench_stats.better_ratio, 1000, 60, flips=499) > 0.75
