"""Do self-improving models hallucinate less than the model they began as, and at what cost to everything else?

    python -m harness run compare                 about 3 minutes on two cores with the embedded base, one seed
    python -m harness run compare --seeds 3       three training seeds: about 6 minutes
    python -m harness run compare --limit 100     a fast, honest try: 100 test pictures and 100 pool pictures a round

The first row is the untrained model; every other row is compared with it, picture by picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from benchmarks.catalogue import BENCHMARKS
from benchmarks.interface import Benchmark
from harness.bases import find_base
from harness.errors import Problem, unknown
from harness.study import Run, Study
from methods.interface import Method, Recipe
from methods.sena.method import Sena
from methods.sena.prompts import REAL, WORLD
from methods.untrained import Untrained

BASELINE = "untrained"
IMAGES = 600
"""Pool pictures a round."""

# The settings on the embedded base: chosen on the world's development split, never on the test split. What is not named here is
# the method's published default.
EMBEDDED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(
        prompts=WORLD,
        noise_step=420,
        question_tokens=24,
        check_tokens=32,
        answer_tokens=72,
        recipe=Recipe(lr=5e-5, epochs=2, global_batch=32, anchor_weight=1.0),
    ),
}

# The settings on real bases: each paper's own.
PUBLISHED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(prompts=REAL),
}


def study(
    *,
    base: str = "embedded",
    pool: str = "world",
    images: int = IMAGES,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int = 1,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    name: str | None = None,
    split: Literal["dev", "test"] = "test",
) -> Study:
    """The comparison. ``only`` names rows beside the untrained one; ``limit`` caps test pictures and pool pictures a round.

    Raises:
        Problem: an unknown base, row or benchmark (with the nearest name), or a number that is out of range.
    """
    rows = EMBEDDED if find_base(base).prompts == "world" else PUBLISHED
    for label in only:
        if label not in rows:
            raise unknown("row", label, rows)
    for what, number in (("seeds", seeds), ("images", images), ("rounds", rounds), ("limit", 1 if limit is None else limit)):
        if number < 1:
            raise Problem(f"--{what} is {number}; it must be at least 1.")
    chosen = {label: method for label, method in rows.items() if label == BASELINE or not only or label in only}
    runs = []
    for label, method in chosen.items():
        for seed in range(seeds if method.recipe else 1):
            count = images if limit is None else min(images, limit)
            runs.append(Run(label=label, base=base, method=method, pool=pool, images=count, rounds=rounds, seed=seed))
    return Study(
        name=name or folder_name("compare", base, limit),
        question="Do self-improving vision-language models hallucinate less than the model they began as?",
        runs=tuple(runs),
        benchmarks=open_benchmarks(benchmarks or DEFAULT_BENCHMARKS, split, limit),
        baseline=BASELINE,
        split=split,
        limit=limit,
    )


DEFAULT_BENCHMARKS = ("world_chair", "world_chair_short", "world_pope", "world_vqa")


def open_benchmarks(names: Sequence[str], split: Literal["dev", "test"], limit: int | None) -> tuple[Benchmark, ...]:
    """These benchmarks of the catalogue, in order.

    Raises:
        Problem: there is no such benchmark (with the nearest name).
    """
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    return tuple(BENCHMARKS[name].factory(split, limit) for name in dict.fromkeys(names))


def folder_name(name: str, base: str, limit: int | None) -> str:
    """The study's name, which is its folder's: another base or a limit gets a folder of its own beside the full study."""
    return name + ("" if base == "embedded" else f"-{base}") + ("" if limit is None else f"-limit{limit}")
