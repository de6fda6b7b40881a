"""How well the statistics are calibrated: false alarms, coverage, family-wise errors and power, on
real trainings that differ in their seed alone, and by simulation.

    python -m tests.benches.bench_stats                    # from results/calibration/counts.parquet
    python -m tests.benches.bench_stats --draws 100        # a quick look
    python -m tests.benches.bench_stats --pack FOLDER      # write that file from a results folder

The folder is made by ``python -m harness run compare --only sena sima --seeds 24``. Groups of 2, 3
and 5 trainings of one method are drawn at random: two disjoint groups differ by chance alone, and a
group's interval should hold the mean of all trainings."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from harness.reporting.power import Spread, power, spread
from harness.reporting.stats import DifferenceEstimate, Floats, estimate, ratio
from tests.benches.packed_trainings import PACKED, Trainings, pack, unpack

SEEDS = (2, 3, 5)
POWER_SEEDS = (3, 5, 8)


def outside(found: DifferenceEstimate, level: float = 0.95, truth: float = 0.0) -> bool:
    """Whether the interval excludes the truth."""
    return bool(abs(found.difference - truth) > found.half_width(level))


def images_alone(other: Floats, base: Floats, scale: float) -> DifferenceEstimate:
    """The estimate that takes the trained weights as given, seeds averaged: "this training"."""
    return estimate(
        other.mean(axis=0, keepdims=True), base.mean(axis=0, keepdims=True), scale=scale
    )


def groups(
    rng: np.random.Generator, trainings: int, size: int, draws: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Two disjoint groups of trainings, drawn at random."""
    for _ in range(draws):
        order = rng.permutation(trainings)
        yield order[:size], order[size : 2 * size]


def false_alarms(counts: Floats, scale: float, size: int, draws: int) -> tuple[float, float]:
    """Shares of pairs of groups of one method that are told to differ at 0.05: with trainings
    counted, and by images alone."""
    rng = np.random.default_rng(1)
    found = []
    for one, two in groups(rng, len(counts), size, draws):
        first, second = counts[one], counts[two]
        whole = estimate(first, second, scale=scale, design="independent")
        found.append((outside(whole), outside(images_alone(first, second, scale))))
    both, alone = np.mean(found, axis=0)
    return float(both), float(alone)


def coverage(counts: Floats, base: Floats, scale: float, size: int, draws: int) -> float:
    """Share of groups whose interval holds the mean of all trainings. Images are drawn anew with
    each group, since the interval is about other images too. A group is drawn without replacement,
    so its distance from the mean is stretched as if there were endless trainings."""
    rng = np.random.default_rng(2)
    trainings, images = counts.shape[:2]
    finite = math.sqrt(1 - size / trainings)
    truth = estimate(counts, base, scale=scale).difference
    held = 0
    for group, _ in groups(rng, trainings, size, draws):
        drawn = rng.integers(images, size=images)
        found = estimate(counts[group][:, drawn], base[:, drawn], scale=scale)
        here = estimate(counts[group], base, scale=scale).difference
        error = (here - truth) / finite + (found.difference - here)
        held += abs(error) <= found.half_width()
    return held / draws


def family_errors(metrics: list[Trainings], size: int, draws: int) -> float:
    """Share of families (every row x primary metric, two disjoint groups of one method each) with
    at least one false alarm after Holm: the smallest p is below 0.05 / tests."""
    rng = np.random.default_rng(3)
    family = [(part, label) for part in metrics if part.primary for label in part.rows]
    trainings = min(len(part.rows[label]) for part, label in family)
    level = 1 - 0.05 / len(family)
    errors = 0
    for one, two in groups(rng, trainings, size, draws):
        errors += any(
            outside(
                estimate(
                    part.rows[label][one],
                    part.rows[label][two],
                    scale=part.scale,
                    design="independent",
                ),
                level,
            )
            for part, label in family
        )
    return errors / draws


def found_share(
    counts: Floats, base: Floats, scale: float, size: int, draws: int, alpha: float
) -> float:
    """Share of groups of a method that are told to differ from the baseline."""
    rng = np.random.default_rng(4)
    return float(
        np.mean(
            [
                outside(estimate(counts[group], base, scale=scale), 1 - alpha)
                for group, _ in groups(rng, len(counts), size, draws)
            ]
        )
    )


def error_of_rates(trainings: int, size: int, worlds: int = 300, draws: int = 300) -> float:
    """The standard error of a share of false alarms that comes from having these few trainings:
    normal trainings, the same groups. The draws of one set of trainings are not independent."""
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(worlds):
        values = rng.normal(size=trainings)
        order = rng.permuted(np.tile(np.arange(trainings), (draws, 1)), axis=1)
        one, two = values[order[:, :size]], values[order[:, size : 2 * size]]
        found = stats.ttest_ind(one, two, axis=1, equal_var=False)
        rates.append(float(np.mean(found.pvalue < 0.05)))
    return float(np.std(rates))


def print_real(metrics: list[Trainings], draws: int) -> None:
    sizes = {label: len(rows) for part in metrics for label, rows in part.rows.items()}
    most = min(sizes.values())
    print(f"Real trainings: {sizes}; {draws} draws a number, in %")
    usable = [size for size in SEEDS if 2 * size <= most]
    if not usable:
        print("  too few trainings for two disjoint groups")
        return
    for size in usable:
        error = 196 * error_of_rates(most, size)
        print(
            f"  {size} seeds: a true 5 % reads up to {5 + error:.1f} with {most} trainings of one"
            " metric"
        )
    heading = "".join(f"{f'{size} seeds':>22}" for size in usable)
    print(f"\n  {'false alarms (images alone) / coverage':40}{heading}")
    for part in metrics:
        for label, counts in part.rows.items():
            if np.ptp(ratio(counts.sum(axis=1), 1.0)) == 0:
                continue  # the metric does not vary, such as unreadable answers
            texts = []
            for size in usable:
                both, alone = false_alarms(counts, part.scale, size, draws)
                held = coverage(counts, part.base, part.scale, size, draws)
                texts.append(f"{100 * both:6.1f} ({100 * alone:4.0f}) / {100 * held:5.1f}")
            star = "*" if part.primary else " "
            print(f"  {star}{label + ', ' + part.name:39}{''.join(f'{t:>22}' for t in texts)}")
    print("\n  any false alarm in the family of primary metrics (*), after Holm")
    for size in usable:
        print(f"    {size} seeds {100 * family_errors(metrics, size, draws):5.1f}")
    print("\n  power against the baseline, at 0.05 and at 0.05 / 12: found (promised by power.py)")
    for part in (part for part in metrics if part.primary):
        for label, counts in part.rows.items():
            truth = estimate(counts, part.base, scale=part.scale).difference
            known = spread(counts, part.base, part.scale)
            print(f"    {label}, {part.name}: {truth:+.2f}; {spread_text(known)}")
            for size in (size for size in POWER_SEEDS if size <= most):
                texts = []
                for alpha in (0.05, 0.05 / 12):
                    found = found_share(counts, part.base, part.scale, size, draws, alpha)
                    images = counts.shape[1]
                    promised = power(truth, known, seeds=size, images=images, alpha=alpha)
                    texts.append(f"{100 * found:.0f} ({100 * promised:.0f})")
                print(f"      {size} seeds: {' / '.join(texts)}")


def spread_text(known: Spread) -> str:
    return (
        f"s.d. over trainings {known.training:.2f}, images {known.images:.1f}, both"
        f" {known.interaction:.1f}"
    )


# --- Simulation ------------------------------------------------------------------------------


def simulated(
    rng: np.random.Generator, seeds: int, images: int, training: float, interaction: float
) -> tuple[Floats, Floats]:
    """Counts like CHAIR-i's of S trainings and a base, which do not differ on the average: an
    image's rate is scaled by each training (log-normal, sd ``training``) and by each training on
    each image (``interaction``)."""
    hard = rng.beta(0.6, 4.4, size=images)
    mentions = 1 + rng.poisson(2.2, size=images)

    def drawn(count: int, one: float, both: float) -> Floats:
        strength = one * rng.normal(size=(count, 1)) + both * rng.normal(size=(count, images))
        # The mean of a log-normal factor is exp(sd^2 / 2): divided out, so that nothing differs.
        factor = np.exp(strength - (one**2 + both**2) / 2)
        objects = np.broadcast_to(mentions, (count, images))
        found = rng.binomial(objects, np.clip(hard * factor, 0, 1))
        return np.stack([found, objects], axis=-1).astype(float)

    return drawn(seeds, training, interaction), drawn(1, 0.0, 0.0)


def simulated_alarms(
    seeds: int, images: int, training: float, interaction: float, draws: int
) -> float:
    rng = np.random.default_rng([6, seeds, images])
    return float(
        np.mean(
            [
                outside(estimate(other, base))
                for other, base in (
                    simulated(rng, seeds, images, training, interaction) for _ in range(draws)
                )
            ]
        )
    )


def normal_alarms(
    seeds: int, share: float, alpha: float, draws: int, images: int = 300
) -> tuple[float, float]:
    """False alarms for normal parts, where ``share`` of the variance is the trainings': of
    Banerjee's interval, which is used, and of Satterthwaite's."""
    rng = np.random.default_rng(7)
    z = rng.standard_normal(draws)
    training = share * rng.chisquare(seeds - 1, draws) / (seeds - 1)
    over_images = (1 - share) * rng.chisquare(images - 1, draws) / (images - 1)
    banerjee = np.sqrt(
        stats.t.isf(alpha / 2, seeds - 1) ** 2 * training
        + stats.t.isf(alpha / 2, images - 1) ** 2 * over_images
    )
    whole = training + over_images
    freedom = whole**2 / (training**2 / (seeds - 1) + over_images**2 / (images - 1))
    satterthwaite = stats.t.isf(alpha / 2, freedom) * np.sqrt(whole)
    return float(np.mean(abs(z) > banerjee)), float(np.mean(abs(z) > satterthwaite))


def moderated_alarms(spreads: Floats, seeds: int, draws: int) -> Floats:
    """False alarms of each row where the rows' true spreads over trainings differ, with Smyth's
    moderated t (prior degrees of freedom and scale estimated over the rows, SAGMB 2004, section
    6.2), and with each row's own t: ``(2, rows)``."""
    rng = np.random.default_rng(8)
    freedom = seeds - 1
    means = rng.standard_normal((draws, len(spreads))) * spreads / math.sqrt(seeds)
    own = spreads**2 * rng.chisquare(freedom, (draws, len(spreads))) / freedom
    logs = np.log(own) - special.digamma(freedom / 2) + math.log(freedom / 2)
    excess = logs.var(axis=1, ddof=1) - special.polygamma(1, freedom / 2)
    prior = np.array([_prior_freedom(value) for value in excess])
    scale = np.exp(logs.mean(axis=1) + special.digamma(prior / 2) - np.log(prior / 2))
    pooled = (prior[:, None] * scale[:, None] + freedom * own) / (prior[:, None] + freedom)
    quantile = np.asarray(stats.t.isf(0.025, prior + freedom))
    half = quantile[:, None] * np.sqrt(pooled / seeds)
    alone = stats.t.isf(0.025, freedom) * np.sqrt(own / seeds)
    return np.stack([np.mean(abs(means) > bound, axis=0) for bound in (half, alone)])


def _prior_freedom(excess: float, most: float = 1e4) -> float:
    """d with trigamma(d / 2) = excess, by bisection; ``most`` where the spreads do not differ."""
    if float(special.polygamma(1, most / 2)) >= excess:
        return most
    low, high = 1e-3, most
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (
            (middle, high) if float(special.polygamma(1, middle / 2)) > excess else (low, middle)
        )
    return low


REFERENCE_SPREADS: Floats = np.array(
    [0.28, 0.36, 0.24, 0.12, 0.35, 1.02, 0.58, 0.84, 0.11, 0.08, 0.10, 0.12, 0.08, 0.21]
)
"""POPE accuracy's standard deviations over three trainings of the 14 rows of results/reference,
after round 1."""


def sparse_coverage(seeds: int, share: float, images: int, draws: int) -> tuple[float, float]:
    """Coverage where each training changes this share of the answers: of the interval used, and
    without the count more and the count fewer that it adds."""
    rng = np.random.default_rng([9, seeds, images])
    base = np.stack([np.zeros((1, images)), np.ones((1, images))], axis=-1)
    truth = 100 * (share - share**2 * 2 / 9)
    held = np.zeros(2)
    for _ in range(draws):
        always = rng.random((1, images)) < share / 3  # by every training
        own = rng.random((seeds, images)) < share * 2 / 3
        right = always | own
        found = estimate(np.stack([right, np.ones_like(right)], axis=-1), base)
        for place, part in enumerate((found, replace(found, one_count=0.0))):
            held[place] += not outside(part, truth=truth)
    used, without = held / draws
    return float(used), float(without)


def print_simulated(draws: int) -> None:
    print("\nFew changed answers: coverage in % of the interval used (without the added counts)")
    for share in (0.0002, 0.001, 0.005, 0.02):
        for images in (100, 1000):
            texts = []
            for seeds in SEEDS:
                used, without = sparse_coverage(seeds, share, images, draws)
                texts.append(f"{100 * used:5.1f} ({100 * without:5.1f})")
            print(f"    {share:6} of {images:4}: {'  '.join(texts)}  (2, 3, 5 seeds)")
    print("\nSimulated CHAIR-i, nothing differs: false alarms in %, at 0.05")
    print("  (s.d. of the log rate over trainings, and over trainings x images)")
    for training, both in ((0.0, 0.0), (0.0, 0.5), (0.05, 0.3), (0.2, 0.3), (0.5, 0.5)):
        for images in (25, 100, 400):
            texts = [
                f"{100 * simulated_alarms(size, images, training, both, draws):5.1f}"
                for size in SEEDS
            ]
            print(
                f"    {training:4} {both:4} {images:4} images: {' '.join(texts)}  (2, 3, 5 seeds)"
            )
    many = 100 * draws
    print("\nNormal parts: false alarms in % of the interval used (of Satterthwaite's)")
    for alpha, name in ((0.05, "at 0.05"), (0.05 / 18, "at 0.05 / 18, nominal 0.28 %")):
        print(f"  {name}; share of the trainings in the variance, 2 / 3 / 5 / 8 seeds")
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
            texts = []
            for seeds in (2, 3, 5, 8):
                used, other = normal_alarms(seeds, share, alpha, many)
                texts.append(f"{100 * used:5.2f} ({100 * other:5.2f})")
            print(f"    {share:4}: {'  '.join(texts)}")
    print("\nPooling the spread over rows (Smyth), rows with POPE's spreads: false alarms in %")
    for seeds in SEEDS:
        moderated, alone = moderated_alarms(REFERENCE_SPREADS, seeds, 3 * draws)
        widest = int(np.argmax(REFERENCE_SPREADS))
        print(
            f"  {seeds} seeds: the widest row {100 * moderated[widest]:.1f}, the worst"
            f" {100 * moderated.max():.1f}, the mean {100 * moderated.mean():.1f}; each row's own"
            f" spread: at most {100 * alone.max():.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--pack", type=Path, metavar="FOLDER")
    parser.add_argument("--counts", type=Path, default=PACKED)
    asked = parser.parse_args()
    if asked.pack:
        pack(asked.pack, asked.counts)
        return
    start = time.monotonic()
    if asked.counts.is_file():
        print_real(unpack(asked.counts), asked.draws)
    else:
        print(f"No real trainings: {asked.counts} is missing (see --pack).")
    print_simulated(asked.draws)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
