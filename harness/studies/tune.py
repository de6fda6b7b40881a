"""Which settings on the embedded base? The same number of trials for each method, on the development split only.

    python -m harness run tune --only sena          six trials of SENA; about 6 minutes on two cores

A trial is a method's row of the comparison with some of its settings changed. What was chosen, from which numbers, is in
results/LOG.md; harness/studies/compare.py holds the choice. The test split is never asked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.errors import unknown
from harness.studies import compare
from harness.study import Run, Study, vary

PICTURES = 400
"""Development pictures a trial is answered on."""

# What a method leaves open: the learning rate, and the strength of the corruption (published for far larger pictures).
TRIALS: Mapping[str, tuple[Mapping[str, object], ...]] = {
    "sena": (
        {"noise_step": 420, "recipe.lr": 5e-5},
        {"noise_step": 420, "recipe.lr": 1e-4},
        {"noise_step": 420, "recipe.lr": 2e-4},
        {"noise_step": 500, "recipe.lr": 5e-5},
        {"noise_step": 500, "recipe.lr": 1e-4},
        {"noise_step": 500, "recipe.lr": 2e-4},
    ),
    "sima": (
        {"least_margin": 0.3, "recipe.lr": 5e-5},
        {"least_margin": 0.3, "recipe.lr": 1e-4},
        {"least_margin": 0.3, "recipe.lr": 2e-4},
        {"least_margin": 1.0, "recipe.lr": 5e-5},
        {"least_margin": 1.0, "recipe.lr": 1e-4},
        {"least_margin": 1.0, "recipe.lr": 2e-4},
    ),
    "csr": (
        {"lam": 0.9, "recipe.lr": 5e-5},
        {"lam": 0.9, "recipe.lr": 1e-4},
        {"lam": 0.9, "recipe.lr": 2e-4},
        {"lam": 0.5, "recipe.lr": 5e-5},
        {"lam": 0.5, "recipe.lr": 1e-4},
        {"lam": 0.5, "recipe.lr": 2e-4},
    ),
}


def study(
    *,
    only: Sequence[str] = (),
    base: str = "embedded",
    pool: str = "world",
    images: int = compare.IMAGES,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
) -> Study:
    """The trials of the methods in ``only`` (all that have some, if empty) beside the untrained model; one seed, one round."""
    for label in only:
        if label not in TRIALS:
            raise unknown("method with trials", label, TRIALS)
    methods = tuple(only) or tuple(TRIALS)
    made = compare.study(
        base=base,
        pool=pool,
        images=images,
        only=methods,
        limit=PICTURES if limit is None else limit,
        benchmarks=benchmarks,
        split="dev",
        name="tune",
    )
    runs: list[Run] = [run for run in made.runs if run.label == compare.BASELINE]
    for run in made.runs:
        for changes in TRIALS.get(run.label, ()):
            trial = compare.at_images(run, images)
            for field, value in changes.items():
                (trial,) = vary(trial, field, (value,))
            runs.append(trial)
    return replace(made, name="tune", question="Which settings on the embedded base?", runs=tuple(runs))
