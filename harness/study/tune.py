"""Which settings are best on the synthetic base? The same number of trials for each method, on the
development split alone.

    python -m harness run tune --only sena     twelve trials of SENA; about 10 minutes on two cores

A trial is a method's row of the comparison with some settings changed. results/LOG.md has the
numbers and the choice; the methods' catalogue entries hold the chosen settings. The test split is
never used here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.errors import unknown
from harness.study import compare
from harness.study.study import Run, Study, vary

IMAGES = 400
"""Development images of a trial's evaluation."""


def _grid(
    setting: str,
    values: Sequence[object],
    rates: Sequence[float],
    fixed: Mapping[str, object] | None = None,
) -> list[Mapping[str, object]]:
    """Each value with each learning rate; all share the settings ``fixed``."""
    return [
        {**(fixed or {}), setting: value, "recipe.lr": rate} for value in values for rate in rates
    ]


# What a method leaves open at this size: the learning rate; for SENA the strength of the corruption
# (published for much larger images), for SIMA how sure the critic must be, for CSR how its
# sentences are searched. Each method has two grids of six; the second surrounds the best of the
# first, where that lay at an edge.
TRIALS: Mapping[str, tuple[Mapping[str, object], ...]] = {
    "sena": (
        *_grid("noise_step", (420, 500), (5e-5, 1e-4, 2e-4)),
        *_grid("noise_step", (380, 460), (7e-5, 1e-4)),
        *_grid("noise_step", (420,), (7e-5, 1.4e-4)),
    ),
    "sima": (
        *_grid("least_margin", (0.3, 1.0), (5e-5, 1e-4, 2e-4)),
        *_grid("least_margin", (0.3, 1.0), (1e-5, 2e-5, 3e-5)),
    ),
    "csr": (
        *_grid("lam", (0.9, 0.5), (5e-5, 1e-4, 2e-4), {"temperature": 0.0, "penalty": 2.0}),
        *_grid("keep", ("best",), (2e-5, 5e-5), {"temperature": 0.0, "penalty": 0.5}),
        *_grid("penalty_in_score", (False,), (2e-5, 5e-5), {"temperature": 0.0, "penalty": 0.5}),
        *_grid("temperature", (0.5,), (2e-5, 5e-5), {"penalty": 2.0}),
    ),
}


def study(
    *,
    only: Sequence[str] = (),
    base: str = "synthetic",
    pool: str = "synthetic",
    images: int = compare.IMAGES,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
) -> Study:
    """The trials of the methods in ``only`` (empty: all that have trials) beside the untrained
    model; one seed, one round."""
    for label in only:
        if label not in TRIALS:
            raise unknown("method with trials", label, TRIALS)
    comparison = compare.study(
        base=base,
        pool=pool,
        images=images,
        only=tuple(only) or tuple(TRIALS),
        limit=IMAGES if limit is None else limit,
        benchmarks=benchmarks,
        split="dev",
        name="tune",
    )
    runs: list[Run] = [run for run in comparison.runs if run.label == compare.BASELINE]
    for run in comparison.runs:
        for changes in TRIALS.get(run.label, ()):
            trial = compare.with_images(run, images)
            for field, value in changes.items():
                (trial,) = vary(trial, field, (value,))
            runs.append(trial)
    question = "Which settings are best on the synthetic base?"
    return replace(comparison, question=question, runs=tuple(runs))
