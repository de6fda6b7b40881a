"""How well the statistics are calibrated, on simulated images: false alarms, coverage, power,
family-wise errors.

Run: ``python -m tests.benches.bench_stats`` (about two minutes on one core; ``--simulations 200``
for a quick look). tests/reporting/test_stats.py runs a small version of the same functions.

The simulated world: an image has a difficulty h; a system's caption mentions 1 + Poisson(2.2)
objects, each hallucinated with probability h, and answers four yes/no questions, each wrongly with
probability h. Two systems share the image's h, so their counts are correlated as two checkpoints'
are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from harness.reporting.stats import Floats, holm, paired_interval, sign_flip, smallest_detectable

Pair = tuple[Floats, Floats]
MEAN_H = 0.12
MENTIONS = 2.2


def difficulty(rng: np.random.Generator, pictures: int) -> Floats:
    return rng.beta(0.6, 0.6 * (1 - MEAN_H) / MEAN_H, size=pictures)


def captions(
    rng: np.random.Generator, h: Floats, *, mentions: float = MENTIONS, factor: float = 1.0
) -> Floats:
    """CHAIR-i's counts ``(C, 2)``: hallucinated and all mentions."""
    all_mentions = 1 + rng.poisson(mentions, size=len(h))
    return np.stack([rng.binomial(all_mentions, factor * h), all_mentions], axis=1).astype(
        np.float64
    )


def answers(
    rng: np.random.Generator, h: Floats, *, factor: float = 1.0, questions: int = 4
) -> Floats:
    """A mean's counts ``(C, 2)``: wrong answers and questions."""
    return np.stack(
        [rng.binomial(questions, factor * h), np.full(len(h), questions)], axis=1
    ).astype(np.float64)


def swapped(rng: np.random.Generator, first: Floats, second: Floats) -> Pair:
    """Labels swapped at random by image: the null hypothesis made true."""
    swap = rng.random(len(first))[:, None] < 0.5
    return np.where(swap, second, first), np.where(swap, first, second)


def null_mean(rng: np.random.Generator, pictures: int) -> Pair:
    h = difficulty(rng, pictures)
    return swapped(rng, answers(rng, h), answers(rng, h, factor=0.5))


def null_ratio(rng: np.random.Generator, pictures: int) -> Pair:
    h = difficulty(rng, pictures)
    return swapped(rng, captions(rng, h), captions(rng, h, factor=0.5, mentions=1.0))


def null_shorter(rng: np.random.Generator, pictures: int) -> Pair:
    """The weak null: captions a third shorter, the same rate; systems are not exchangeable, yet the
    ratio does not differ."""
    h = difficulty(rng, pictures)
    return captions(rng, h), captions(rng, h, mentions=1.1)


def null_seeds(rng: np.random.Generator, pictures: int) -> Pair:
    """Three training seeds averaged by image against one base: exchangeable only in
    expectation."""
    h = difficulty(rng, pictures)
    return captions(rng, h), np.mean([captions(rng, h) for _ in range(3)], axis=0)


def better_mean(rng: np.random.Generator, pictures: int) -> Pair:
    h = difficulty(rng, pictures)
    return answers(rng, h), answers(rng, h, factor=0.75)


def better_ratio(rng: np.random.Generator, pictures: int) -> Pair:
    h = difficulty(rng, pictures)
    return captions(rng, h), captions(rng, h, factor=0.75, mentions=1.8)


TRUE_DIFFERENCE = -0.25 * MEAN_H * 100  # of better_mean and better_ratio, in points


def false_alarms(
    make: Callable[[np.random.Generator, int], Pair],
    pictures: int,
    simulations: int,
    flips: int = 1999,
) -> float:
    """Share of simulated nulls with a sign-flip p of at most 0.05; with a ``better_`` maker, the
    power."""
    rng = np.random.default_rng(1)
    return float(
        np.mean([sign_flip(*make(rng, pictures), flips=flips) <= 0.05 for _ in range(simulations)])
    )


def coverage(
    make: Callable[[np.random.Generator, int], Pair],
    pictures: int,
    simulations: int,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Share of 95 % intervals that hold the true difference, and the shares that lie above and
    below it."""
    rng = np.random.default_rng(2)
    found = [paired_interval(*make(rng, pictures), resamples=resamples) for _ in range(simulations)]
    above = float(np.mean([interval.lo > TRUE_DIFFERENCE for interval in found]))
    below = float(np.mean([interval.hi < TRUE_DIFFERENCE for interval in found]))
    return 1 - above - below, above, below


def family_errors(pictures: int, simulations: int, flips: int = 1999) -> float:
    """Share of families of 3 methods x 2 metrics (one shared base, no true difference) with at
    least one star after Holm."""
    rng = np.random.default_rng(3)
    errors = 0
    makers: tuple[Callable[[np.random.Generator, Floats], Floats], ...] = (captions, answers)
    for _ in range(simulations):
        h = difficulty(rng, pictures)
        bases = [make(rng, h) for make in makers]
        ps = [
            sign_flip(base, make(rng, h), flips=flips)
            for _ in range(3)
            for base, make in zip(bases, makers, strict=True)
        ]
        errors += min(holm(ps)) <= 0.05
    return errors / simulations


def predicted_power_sample(simulations: int) -> int:
    """Images for which ``smallest_detectable`` equals the true difference of ``better_ratio``
    (the median of trial runs)."""
    rng = np.random.default_rng(4)
    at = 400
    found = [
        smallest_detectable(paired_interval(*better_ratio(rng, at), resamples=200).se)
        for _ in range(simulations)
    ]
    return round(at * (float(np.median(found)) / abs(TRUE_DIFFERENCE)) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--simulations", type=int, default=10_000)
    size = parser.parse_args().simulations
    start = time.monotonic()
    error = 1.96 * (0.05 * 0.95 / size) ** 0.5
    print(
        f"{size} simulations a line; a true 5 % reads {100 * (0.05 - error):.1f} to"
        f" {100 * (0.05 + error):.1f} %\n"
    )
    print("sign-flip: share of p <= 0.05 where nothing differs (should be at most 5 %)")
    for null in (null_mean, null_ratio, null_shorter, null_seeds):
        for pictures in (12, 50, 300):
            print(
                f"  {null.__name__:13} {pictures:4} images "
                f" {100 * false_alarms(null, pictures, size):5.1f} %",
                flush=True,
            )
    print(
        "Holm over 3 methods x 2 metrics: share of families with any star (should be at most 5 %)"
    )
    print(
        f"  300 images  {100 * family_errors(300, size // 2):5.1f} %  ({size // 2} families)",
        flush=True,
    )
    print("BCa 95 % interval: share that holds the true difference (too high / too low)")
    for better in (better_mean, better_ratio):
        for pictures in (25, 100, 300):
            held, above, below = coverage(better, pictures, size)
            print(
                f"  {better.__name__:13} {pictures:4} images  {100 * held:5.1f} % "
                f" ({100 * above:.1f} / {100 * below:.1f})",
                flush=True,
            )
    print(f"power of the sign-flip for a true difference of {TRUE_DIFFERENCE:.1f} points")
    for pictures in (100, 300, 1000):
        print(
            f"  better_ratio  {pictures:4} images "
            f" {100 * false_alarms(better_ratio, pictures, size // 2):5.1f} %",
            flush=True,
        )
    enough = predicted_power_sample(200)
    power = 100 * false_alarms(better_ratio, enough, size // 2)
    print(f"  {enough} images, where smallest_detectable promises 80 %: {power:.1f} %")
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
