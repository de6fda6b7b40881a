"""Do self-improving models hallucinate less than the model they began as, and at what cost to everything else?

    python -m harness run compare                 about 3 minutes on two cores with the embedded base, one seed
    python -m harness run compare --seeds 3       three training seeds: about a minute for each row and seed
    python -m harness run compare --limit 100     a fast, honest try: 100 test pictures and 100 pool pictures a round
    python -m harness run compare --controls      with upper bounds and controls beside the methods

The first row is the untrained model; every other row is compared with it, picture by picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from benchmarks.catalogue import BENCHMARKS
from benchmarks.interface import Benchmark
from harness.bases import find_base
from harness.errors import Problem, unknown
from harness.pool import open_pool
from harness.study import Run, Study
from methods.controls import Control, Kind
from methods.csr.method import Csr
from methods.interface import Method, Recipe
from methods.oracle import Oracle
from methods.sena import prompts as sena_prompts
from methods.sena.method import Sena
from methods.sima import prompts as sima_prompts
from methods.sima.method import Sima
from methods.truth_dpo import TruthDpo
from methods.untrained import Untrained

BASELINE = "untrained"
IMAGES = 600
"""Pool pictures a round."""

PLAIN = Recipe(lr=1e-4, epochs=2, global_batch=32)
"""On the embedded base, for rows without trials of their own: the rate chosen for SENA, DPO alone."""

# The settings on the embedded base: SENA's and SIMA's chosen among six trials each on the world's development split (tune.py,
# results/LOG.md), never on the test split. What is not named here is the method's published default.
EMBEDDED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(
        prompts=sena_prompts.WORLD,
        noise_step=420,
        question_tokens=24,
        check_tokens=32,
        answer_tokens=72,
        recipe=Recipe(lr=1e-4, epochs=2, global_batch=32, anchor_weight=1.0),
    ),
    "sima": Sima(
        prompts=sima_prompts.WORLD,
        order="both",
        verdict="margin",
        least_margin=1.0,
        response_tokens=96,
        critic_tokens=8,
        recipe=Recipe(lr=5e-5, epochs=2, global_batch=32),
    ),
    # No equal trials yet, so it is no default row: --only csr.
    "csr": Csr(candidates=4, groups=4, penalty=2.0, repeats=False, sentence_tokens=20, max_chars=200, recipe=PLAIN),
}

UNTRIED = frozenset({"csr"})
"""Rows on the embedded base that are made only when named."""

# The settings on real bases: each paper's own.
PUBLISHED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(prompts=sena_prompts.REAL),
    "sima": Sima(prompts=sima_prompts.REAL),
    # No equal trials yet, so it is no default row: --only csr.
    "csr": Csr(),
}


def bounds_and_controls(rows: Mapping[str, Method], embedded: bool) -> dict[str, Method]:
    """The rows that are not methods: what supervision and exact truth buy, and SENA with one thing taken from it."""
    found: dict[str, Method] = {
        "truth_dpo": TruthDpo(answer_tokens=96, recipe=PLAIN) if embedded else TruthDpo(),
        "oracle": Oracle(response_tokens=96, recipe=PLAIN) if embedded else Oracle(),
    }
    spoilt = (Control(inner=rows["sena"], kind=kind) for kind in get_args(Kind))
    return found | {one.name: one for one in spoilt}


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
    controls: bool = False,
    name: str | None = None,
    split: Literal["dev", "test"] = "test",
) -> Study:
    """The comparison. ``only`` names rows beside the untrained one; ``limit`` caps test pictures and pool pictures a round;
    ``controls`` adds the upper bounds and controls (an ``only`` may name one of them without it). A row that needs what the pool
    has not, such as SIMA a question with each picture, is left out unless it is named.

    Raises:
        Problem: an unknown base, pool, row or benchmark (with the nearest name), or a number that is out of range.
    """
    embedded = find_base(base).prompts == "world"
    rows = EMBEDDED if embedded else PUBLISHED
    beside = bounds_and_controls(rows, embedded)
    for label in only:
        if label not in {**rows, **beside}:
            raise unknown("row", label, [*rows, *beside])
    for what, number in (("seeds", seeds), ("images", images), ("rounds", rounds), ("limit", 1 if limit is None else limit)):
        if number < 1:
            raise Problem(f"--{what} is {number}; it must be at least 1.")
    wanted = {BASELINE, *(only or set(rows) - (UNTRIED if embedded else set())), *(beside if controls else ())}
    offered = open_pool(pool).fields | {"scorer"}
    chosen = {
        label: method
        for label, method in {**rows, **beside}.items()
        if label in only or (label in wanted and method.needs <= offered)
    }
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
