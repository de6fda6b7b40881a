"""The statistics against scipy, restricted maximum likelihood, resampling and hand examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from harness.reporting.stats import Floats, estimate, holm, mcnemar, rank_ranges, ratio

FINE = 1e-6
"""The scale of ``means``."""


def means(values: Floats) -> Floats:
    """Counts whose ratio, times ``FINE``, is the mean of the values ``(S, C)``: one count is so
    little there that what the interval adds for it does not matter."""
    return np.stack([values / FINE, np.ones_like(values)], axis=-1)


def trainings(seeds: int, images: int, *, seed: int = 0, rate: float = 0.2) -> Floats:
    """Counts of a corpus ratio such as CHAIR-i: trainings and images vary."""
    rng = np.random.default_rng(seed)
    hard = rng.beta(2, 2 / rate - 2, size=images)
    strength = np.exp(0.1 * rng.normal(size=(seeds, 1)))
    mentions = 1 + rng.poisson(3, size=(seeds, images))
    found = rng.binomial(mentions, np.clip(hard * strength, 0, 1))
    return np.stack([found, mentions], axis=-1).astype(float)


def test_one_training_is_students_test_over_images() -> None:
    rng = np.random.default_rng(5)
    base, other = rng.normal(size=40), rng.normal(0.3, 1.0, size=40)
    found = estimate(means(other[None]), means(base[None]), scale=FINE)
    theirs = scipy_stats.ttest_rel(other, base)
    assert found.about == "training"
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(theirs.confidence_interval(0.95))


def test_where_images_agree_it_is_students_test_over_trainings() -> None:
    values = np.array([1.0, 2.5, 2.2, 1.4])
    found = estimate(means(np.repeat(values[:, None], 30, 1)), means(np.zeros((1, 30))), scale=FINE)
    theirs = scipy_stats.ttest_1samp(values, 0.0)
    assert found.about == "method"
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(theirs.confidence_interval(0.95))


def test_two_rows_of_trainings_are_welchs_test() -> None:
    first, second = np.array([1.0, 2.5, 2.2]), np.array([0.3, 0.2, 0.6, 0.4])
    sides = [means(np.repeat(values[:, None], 9, 1)) for values in (first, second)]
    found = estimate(*sides, scale=FINE, design="independent")
    theirs = scipy_stats.ttest_ind(first, second, equal_var=False)
    assert found.training_df == pytest.approx(theirs.df)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(theirs.confidence_interval(0.95))


def test_pairing_by_seed_is_the_test_of_the_differences() -> None:
    first, second = trainings(4, 60, seed=1), trainings(4, 60, seed=2)
    first[..., 1] = second[..., 1] = 4  # equal denominators: a ratio's difference is a mean
    change = (first[..., 0] - second[..., 0]) / 4
    paired = estimate(first, second, design="paired")
    alone = estimate(means(change), means(np.zeros((1, 60))), scale=100 * FINE)
    assert paired.difference == pytest.approx(alone.difference)
    assert (paired.training, paired.images) == pytest.approx((alone.training, alone.images))


def test_the_variance_is_that_of_crossed_random_effects() -> None:
    """Restricted maximum likelihood of trainings x images, written out; on balanced data with
    positive components it equals the mean squares."""
    seeds, images = 4, 9
    rng = np.random.default_rng(3)
    values = (rng.normal(0, 1.0, (seeds, 1)) + rng.normal(0, 2.0, (1, images))) + rng.normal(
        0, 0.8, (seeds, images)
    )
    by_training, by_image = np.eye(seeds), np.eye(images)
    blocks = [
        np.kron(by_training, np.ones((images, images))),
        np.kron(np.ones((seeds, seeds)), by_image),
        np.eye(seeds * images),
    ]
    y, one = values.ravel(), np.ones((seeds * images, 1))

    def minus_likelihood(logs: Floats) -> float:
        covariance = sum(np.exp(log) * block for log, block in zip(logs, blocks, strict=True))
        inverse = np.linalg.inv(covariance)
        precision = (one.T @ inverse @ one).item()
        residual = y - (one.T @ inverse @ y).item() / precision
        logdet = np.linalg.slogdet(covariance)[1]
        return float(logdet + np.log(precision) + residual @ inverse @ residual)

    fit = optimize.minimize(minus_likelihood, np.zeros(3), tol=1e-10)
    training, image, rest = np.exp(fit.x)
    whole = training / seeds + image / images + rest / (seeds * images)
    found = estimate(means(values), means(np.zeros((1, images))), scale=FINE)
    assert found.se**2 == pytest.approx(whole, rel=1e-3)
    assert found.training == pytest.approx(training / seeds + rest / (seeds * images), rel=1e-3)


def test_a_ratios_image_part_is_that_of_resampling_images() -> None:
    base, other = trainings(1, 300, seed=4), trainings(1, 300, seed=5, rate=0.15)
    rng = np.random.default_rng(0)
    drawn = rng.integers(300, size=(4000, 300))
    resampled = ratio(other[0][drawn].sum(1), 100.0) - ratio(base[0][drawn].sum(1), 100.0)
    found = estimate(other, base)
    assert found.difference == pytest.approx(
        float(ratio(other.sum((0, 1)), 100.0) - ratio(base.sum((0, 1)), 100.0))
    )
    # 4,000 resamples: a standard deviation is known to about 1.1 %.
    assert np.sqrt(found.images) == pytest.approx(resampled.std(ddof=1), rel=0.05)


def test_the_halves_are_added_in_quadrature_and_p_is_where_the_interval_ends_at_0() -> None:
    found = estimate(trainings(3, 80, seed=6), trainings(1, 80, seed=7, rate=0.28))
    lo, hi = found.interval()
    parts = scipy_stats.t.ppf(0.975, 2) ** 2 * found.training + scipy_stats.t.ppf(
        0.975, 79
    ) ** 2 * (found.images + found.one_count)
    assert (hi - lo) / 2 == pytest.approx(np.sqrt(parts))
    assert 1e-4 < found.p < 0.5
    ends = found.interval(1 - found.p)
    assert min(map(abs, ends)) == pytest.approx(0, abs=1e-6)


def test_a_difference_far_from_0_has_a_small_p_and_no_error() -> None:
    base = means(np.zeros((1, 500)))
    base[0, :3, 0] = 1
    assert 0 <= estimate(1000 + trainings(5, 500), base).p < 1e-6


def test_what_cannot_be_told() -> None:
    base, other = trainings(1, 30, seed=1), trainings(3, 30, seed=2)
    one_image = estimate(other[:, :1], base[:, :1])
    assert one_image.about == "none"
    assert np.isnan([*one_image.interval(), one_image.p]).all()
    assert np.isnan(estimate(other, np.zeros_like(base)).difference)
    with pytest.raises(ValueError, match="same images in the same order"):
        estimate(other, base[:, :-1])
    with pytest.raises(ValueError, match="do not fit"):
        estimate(other, base, design="paired")


def answers(right: npt.NDArray[np.bool_]) -> Floats:
    """Counts of yes/no answers ``(S, C)``, one question an image."""
    return np.stack([right, np.ones_like(right)], axis=-1).astype(float)


def test_no_changed_answer_does_not_show_that_none_ever_will() -> None:
    """The interval of 0 changes of C lies between the rule of three (one-sided 95 %) and the exact
    two-sided bound of Clopper and Pearson, or just below."""
    for images in (100, 1000, 5000):
        right = np.arange(images)[None] % 3 > 0
        for seeds in (1, 3):
            same = estimate(answers(np.repeat(right, seeds, axis=0)), answers(right))
            assert (same.difference, same.p) == (0.0, 1.0)
            exact = scipy_stats.binomtest(0, images).proportion_ci().high
            assert 0.75 * exact < same.interval()[1] / 100 < exact


def test_one_count_is_a_question_where_each_counts_a_small_share() -> None:
    """MME's sum over subtasks: all shares together are 1, so a numerator of 1 is all questions."""
    rng = np.random.default_rng(4)
    base, other = (answers(rng.random((seeds, 200)) < 0.8) for seeds in (1, 3))
    whole, shares = estimate(other, base), estimate(other / 200, base / 200)
    assert shares.interval() == pytest.approx(whole.interval())
    assert shares.one_count == pytest.approx(2 * 0.5**2)
    # A subtask of 20 images counts as much as one of 180.
    uneven = np.where(np.arange(200) < 20, 1 / 40, 1 / 360)[:, None]
    found = estimate(other * uneven, base * uneven)
    assert found.one_count < found.images < 10 * whole.images
    nothing = estimate(answers(np.zeros((3, 200), bool)), answers(np.zeros((1, 200), bool)))
    assert nothing.one_count == pytest.approx(whole.one_count)


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.01])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_holds_the_truth_where_few_answers_change(share: float, seeds: int) -> None:
    """Each training changes this share of 1,000 answers from wrong to right, and one in three of
    the questions is changed by every training."""
    rng, images, draws = np.random.default_rng(11), 1000, 400
    base = answers(np.zeros((1, images), dtype=bool))
    held = 0
    for _ in range(draws):
        always = rng.random((1, images)) < share / 3
        own = rng.random((seeds, images)) < share * 2 / 3
        lo, hi = estimate(answers(always | own), base).interval()
        held += lo <= 100 * (share - share**2 * 2 / 9) <= hi
    # Below 0.92 in less than one of 500 seeds where the truth is 0.95.
    assert held / draws >= 0.92


def test_equal_trainings_are_one_training() -> None:
    base, other = trainings(1, 30, seed=1), trainings(1, 30, seed=2)
    copied = estimate(np.repeat(other, 4, axis=0), base)
    single = estimate(other, base)
    assert copied.about == "training"
    assert copied.interval() == pytest.approx(single.interval())


def test_seeds_with_the_same_value_still_have_the_interactions_spread() -> None:
    """Two trainings may have the same accuracy by chance; their answers still differ."""
    values = np.zeros((2, 40))
    values[0, :10] = values[1, 10:20] = 1
    found = estimate(means(values), means(np.zeros((1, 40))), scale=FINE)
    assert found.training > 0
    assert found.about == "method"


def test_ranks_are_those_that_the_differences_leave_open() -> None:
    ahead = np.zeros((3, 3), dtype=bool)
    assert rank_ranges(ahead) == [(1, 3)] * 3
    ahead[0, 1] = ahead[0, 2] = True
    assert rank_ranges(ahead) == [(1, 1), (2, 3), (2, 3)]


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
