"""Do self-improving models hallucinate less than the model they began as, and at what cost to
everything else?

    python -m harness run compare                 about 6 minutes on two cores with the synthetic
    base, one seed
    python -m harness run compare --seeds 3       three training seeds: about a minute for each row
    and seed
    python -m harness run compare --limit 100     a fast, honest try: 100 test images and 100 pool
    images a round
    python -m harness run compare --controls      with upper bounds and controls beside the methods
    python -m harness run compare --profile published    each paper's own recipe instead of equal
    batch, steps and trials

The first row is the untrained model; every other row is compared with it, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Literal, get_args

from harness.data.open_pool import open_pool
from harness.data.pool import Pool
from harness.errors import UserError, unknown
from harness.models.base_cards import find_base
from harness.study.opening import open_benchmarks
from harness.study.study import Run, Study
from methods.controls import Control, Kind
from methods.csr.method import Csr
from methods.gt_dpo import GtDpo
from methods.interface import Method, Recipe
from methods.oracle import Oracle
from methods.sena import prompts as sena_prompts
from methods.sena.method import Sena
from methods.sima import prompts as sima_prompts
from methods.sima.method import Sima
from methods.untrained import Untrained

BASELINE = "untrained"
IMAGES = 600
"""Pool images a round."""

Profile = Literal["equal", "published"]
"""``equal``: the same images, batch and number of optimiser steps for every row, each method's
learning rate chosen among the same number of trials. ``published``: each paper's own recipe."""

PLAIN = Recipe(lr=2e-5, epochs=2, global_batch=32)
"""On the synthetic base: what the trials chose for SIMA and for CSR; the bounds had none, and are
SIMA with truth."""

# The settings on the synthetic base: chosen among twelve trials each on the world's development
# split (tune.py, results/LOG.md), never on the test split. What is not named here is the method's
# published default.
EMBEDDED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(
        prompts=sena_prompts.WORLD,
        noise_step=420,
        question_tokens=24,
        check_tokens=32,
        answer_tokens=72,
        recipe=Recipe(lr=1.4e-4, epochs=2, global_batch=32, alignment_weight=1.0),
    ),
    "sima": Sima(
        prompts=sima_prompts.WORLD,
        order="both",
        verdict="margin",
        least_margin=1.0,
        response_tokens=96,
        critic_tokens=8,
        recipe=PLAIN,
    ),
    # Sampled sentences: diverse beams make rejected texts a third longer than chosen ones here,
    # which teaches brevity.
    "csr": Csr(
        candidates=4,
        groups=4,
        penalty=2.0,
        temperature=0.5,
        repeats=False,
        sentence_tokens=20,
        max_chars=200,
        recipe=PLAIN,
    ),
    "gt_dpo": GtDpo(answer_tokens=96, recipe=PLAIN),
    "oracle": Oracle(response_tokens=96, recipe=PLAIN),
}

# The settings on real bases: each paper's own.
PUBLISHED: Mapping[str, Method] = {
    BASELINE: Untrained(),
    "sena": Sena(prompts=sena_prompts.REAL),
    "sima": Sima(prompts=sima_prompts.REAL),
    "csr": Csr(),
    "gt_dpo": GtDpo(),
    "oracle": Oracle(),
}

TUNED = (
    "twelve trials a method on the development split chose its settings (results/LOG.md); bounds"
    " and controls had none"
)

METHODS, BOUNDS = ("sena", "sima", "csr"), ("gt_dpo", "oracle")

EQUAL = Recipe(lr=2e-6, epochs=1, global_batch=128)
"""What all rows share on real bases in the profile "equal": SENA's published recipe, DPO alone. Its
rate is no row's own optimum there; on the synthetic base each row's was chosen among as many
trials."""


def settings(embedded: bool, profile: Profile) -> dict[str, Method]:
    """Every row's method but the controls'; the profile decides how it is trained, never how its
    pairs are made."""
    if embedded:
        rows = dict(EMBEDDED)
        recipes = (
            {label: PUBLISHED[label].recipe for label in rows} if profile == "published" else {}
        )
    else:
        rows = dict(PUBLISHED)
        anchors = {
            label: method.recipe.alignment_weight for label, method in rows.items() if method.recipe
        }
        recipes = (
            {label: replace(EQUAL, alignment_weight=anchor) for label, anchor in anchors.items()}
            if profile == "equal"
            else {}
        )
    return rows | {
        label: _trained_by(rows[label], recipe) for label, recipe in recipes.items() if recipe
    }


def _trained_by(method: Any, recipe: Recipe) -> Method:
    trained: Method = replace(method, recipe=recipe)
    return trained


def controls_of(rows: Mapping[str, Method]) -> dict[str, Control]:
    """Each method with one thing taken from it: the preference, its own rejected answers, the
    contrast."""
    spoilt = (Control(inner=rows[label], kind=kind) for label in METHODS for kind in get_args(Kind))
    return {one.name: one for one in spoilt}


def study(
    *,
    base: str = "synthetic",
    pool: str = "synthetic",
    images: int = IMAGES,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int = 1,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    controls: bool = False,
    profile: Profile = "equal",
    rows: Sequence[str] = (),
    name: str | None = None,
    split: Literal["dev", "test"] = "test",
    local_data: Sequence[str] = (),
) -> Study:
    """The comparison. ``only`` names rows beside the untrained one; ``limit`` caps test images
    and pool images a round;
    ``controls`` adds the upper bounds and the controls of the methods that are there (an ``only``
    may name one without it); they take one round, and a control is held against its method's first.
    A row that needs what the pool has not, such as SIMA a question with each image, is left out
    unless it is named. ``rows``:
    ``LABEL=CHECKPOINT`` texts, ready-made models (a folder, a LoRA adapter, a hub id) that are
    answered beside the others.
    ``local_data``: ``NAME=FOLDER`` texts, the folder of a benchmark's (or several benchmarks'
    common) official files.

    Raises:
        UserError: an unknown base, pool, row or benchmark (with the nearest name), or a number that
            is out of range.
    """
    embedded = find_base(base).prompts == "synthetic"
    check_profile(profile)
    known = settings(embedded, profile)
    spoilt = controls_of(known)
    known |= spoilt
    for label in only:
        if label not in known:
            raise unknown("row", label, known)
    at_least_one(seeds=seeds, images=images, rounds=rounds, limit=limit)
    wanted = {BASELINE, *(only or METHODS)}
    if controls:
        wanted |= {*BOUNDS, *(label for label, one in spoilt.items() if one.inner.name in wanted)}
    opened = open_pool(pool)
    offered = opened.fields | {"scorer"}
    chosen = {
        label: one
        for label, one in known.items()
        if label in only or (label in wanted and one.needs <= offered)
    }
    count = images if limit is None else min(images, limit)
    names = list(benchmarks or DEFAULT_BENCHMARKS)
    runs = []
    for label, method in chosen.items():
        steps = equal_steps(method.recipe, count) if profile == "equal" and method.recipe else None
        last = 1 if label in BOUNDS or label in spoilt else rounds
        for seed in range(seeds if method.recipe else 1):
            runs.append(
                Run(
                    label=label,
                    base=base,
                    method=method,
                    pool=pool,
                    images=count,
                    rounds=last,
                    seed=seed,
                    steps=steps,
                )
            )
    return Study(
        name=name
        or folder_name("compare" if profile == "equal" else f"compare-{profile}", base, limit),
        question=(
            "Do self-improving vision-language models hallucinate less than the model they"
            " began as?"
        ),
        runs=(*runs, *(ready_made(text) for text in rows)),
        benchmarks=open_benchmarks(names, split, limit, local_data, embedded=embedded),
        baseline=BASELINE,
        split=split,
        limit=limit,
        tuning=TUNED if embedded and profile == "equal" and split == "test" else "",
        notes=tuple(
            _notes(
                embedded,
                opened,
                names,
                {label: known[label].needs for label in wanted if label not in chosen},
            )
        ),
    )


def _notes(
    embedded: bool, pool: Pool, benchmarks: Sequence[str], left: Mapping[str, Set[str]]
) -> Iterator[str]:
    """What is not as the command may seem to say: rows that the pool cannot serve, and a real base
    on the world's images."""
    if left:
        lacking = {
            label: sorted(needs - pool.fields - {"scorer"}) for label, needs in sorted(left.items())
        }
        told = "; ".join(
            f"{label} needs {' and '.join(fields)}" for label, fields in lacking.items()
        )
        yield (
            f"Left out, for the pool {pool.spec} has not what they need with each image: {told}."
            " A .jsonl manifest and llava:<json>:<folder> have questions and references."
        )
    if not embedded and pool.judge is not None:
        yield (
            "The pool is the synthetic world's, drawn for its own base; give this one images of"
            " yours with --pool."
        )
    if not embedded and all(name.startswith("synthetic_") for name in benchmarks):
        yield (
            "The benchmarks are the synthetic world's, drawn for its own base; give others with"
            " --benchmarks, such as --benchmarks pope,coco_chair --local-data coco=FOLDER."
        )


def at_least_one(**numbers: int | None) -> None:
    """
    Raises:
        UserError: an option's number is below 1.
    """
    for what, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"--{what} is {number}; it must be at least 1.")


def check_profile(profile: str) -> None:
    """
    Raises:
        UserError: there is no such profile.
    """
    if profile not in get_args(Profile):
        raise unknown("profile", profile, get_args(Profile))


def ready_made(text: str) -> Run:
    """The row of a ``LABEL=CHECKPOINT`` text: other weights, answered as they are; a hub id is
    pinned to its commit.

    Raises:
        UserError: the text has another form, or the checkpoint is not there or of no supported
            family.
    """
    label, equals, checkpoint = text.partition("=")
    if not equals or not label.strip() or not checkpoint.strip():
        raise UserError(
            f'--row {text!r} must be LABEL=CHECKPOINT, such as "SIMA released=path/to/model" or'
            ' "mine=org/name".'
        )
    base, card = checkpoint.strip(), find_base(checkpoint.strip())
    if base != card.name and isinstance(card.source, str) and not card.adapters:
        base = f"{card.source}@{card.revision}"
    return Run(label=label.strip(), base=base, method=Untrained())


def equal_steps(recipe: Recipe, images: int) -> int:
    """A round's optimiser steps in the profile "equal": as many visits as ``epochs`` pairs a
    image would make, whatever number of pairs a method gets out of its images (they are
    subsampled or cycled; the table says how many were made and used)."""
    return math.ceil(recipe.epochs * images / recipe.global_batch)


def at_images(run: Run, images: int) -> Run:
    """The run on so many images a round, with the steps that "equal" gives it there: for studies
    whose limit is on questions alone."""
    recipe = run.method.recipe
    return replace(
        run, images=images, steps=equal_steps(recipe, images) if recipe and run.steps else None
    )


DEFAULT_BENCHMARKS = ("synthetic_chair", "synthetic_chair_short", "synthetic_pope", "synthetic_vqa")


def folder_name(name: str, base: str, limit: int | None) -> str:
    """The study's name, which is its folder's: another base or a limit gets a folder of its own
    beside the full study."""
    return (
        name
        + ("" if base == "synthetic" else f"-{find_base(base).name}")
        + ("" if limit is None else f"-limit{limit}")
    )
