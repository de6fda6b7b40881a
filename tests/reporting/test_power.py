"""What a study can show, against simulated trainings and the textbook."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.reporting.power import Spread, detectable_difference, power, seeds_needed, spread
from harness.reporting.stats import Floats, estimate


def world(seeds: int, images: int, known: Spread, shift: float, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    values = (
        shift
        + known.training * rng.normal(size=(seeds, 1))
        + known.images * rng.normal(size=(1, images))
        + known.interaction * rng.normal(size=(seeds, images))
    )
    counts = np.stack([values, np.ones_like(values)], axis=-1)
    return counts, np.stack([np.zeros((1, images)), np.ones((1, images))], axis=-1)


def test_the_spread_is_found_again() -> None:
    known = Spread(training=0.7, images=8.0, interaction=3.0)
    other, base = world(400, 400, known, 2.0, 0)
    found = spread(other, base, 1.0)
    # 400 trainings and images: a standard deviation is known to about 3.5 %.
    assert found.training == pytest.approx(known.training, rel=0.12)
    assert found.images == pytest.approx(known.images, rel=0.12)
    assert found.interaction == pytest.approx(known.interaction, rel=0.02)
    with pytest.raises(ValueError, match="two trainings"):
        spread(other[:1], base, 1.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_promised_difference_is_found_in_80_per_cent(seeds: int) -> None:
    known = Spread(training=0.6, images=6.0, interaction=2.0)
    difference = detectable_difference(known, seeds=seeds, images=50)
    found = [
        estimate(*world(seeds, 50, known, difference, draw), scale=1.0).interval()
        for draw in range(600)
    ]
    share = float(np.mean([not lo <= 0 <= hi for lo, hi in found]))
    # 600 draws: 80 % has a standard error of 1.6 points.
    assert 0.74 < share < 0.86


def test_with_few_images_the_promise_counts_one_answer_more_and_fewer() -> None:
    """Trainings answer 30 % of the wrong questions right. Without the count, 54 % were promised."""
    rng, seeds, images = np.random.default_rng(0), 5, 100

    def drawn(seeds: int, images: int) -> list[Floats]:
        wrong = rng.random((1, images)) < 0.1
        changed = rng.random((seeds, images)) < np.where(wrong, rng.beta(0.6, 1.4, wrong.shape), 0)
        return [
            np.stack([right, np.ones(right.shape)], axis=-1).astype(float)
            for right in (changed | ~wrong, ~wrong)
        ]

    other, base = drawn(200, 20_000)
    known = spread(other, base, 100.0)
    assert known.count == pytest.approx(100.0)
    found = [estimate(*drawn(seeds, images)).interval() for _ in range(300)]
    share = float(np.mean([not lo <= 0 <= hi for lo, hi in found]))
    promised = power(estimate(other, base).difference, known, seeds=seeds, images=images)
    assert share < promised + 0.06
    assert promised < share + 0.2
    no_change = Spread(training=0.0, images=0.0, interaction=0.0, count=100.0)
    bound = detectable_difference(no_change, seeds=3, images=1000)
    assert bound == pytest.approx(stats.t.isf(0.025, 999) * math.sqrt(2) / 10, rel=1e-4)


def test_with_many_trainings_it_is_the_textbooks() -> None:
    known = Spread(training=1.0, images=0.0, interaction=0.0)
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(400)
    found = detectable_difference(known, seeds=400, images=10**6)
    assert found == pytest.approx(normal, rel=0.01)


def test_more_seeds_show_less_and_images_set_the_limit() -> None:
    known = Spread(training=1.0, images=10.0, interaction=3.0)
    shown = [detectable_difference(known, seeds=seeds, images=1000) for seeds in (2, 3, 5, 8)]
    assert shown == sorted(shown, reverse=True)
    needed = seeds_needed(2.0, known, images=1000)
    assert needed is not None
    assert power(2.0, known, seeds=needed, images=1000) >= 0.8
    assert power(2.0, known, seeds=needed - 1, images=1000) < 0.8
    assert seeds_needed(0.1, known, images=1000) is None  # the images vary too much
    # Holm's level needs more.
    assert detectable_difference(known, seeds=3, images=1000, alpha=0.01) > shown[1]


def test_one_training_shows_nothing_about_a_method() -> None:
    known = Spread(training=1.0, images=10.0, interaction=3.0)
    assert detectable_difference(known, seeds=1, images=1000) == math.inf
    assert detectable_difference(known, seeds=3, images=1) == math.inf
    assert power(50.0, known, seeds=1, images=1000) == 0.0
    still = Spread(training=0.0, images=0.0, interaction=0.0)
    assert detectable_difference(still, seeds=3, images=10) == 0.0
