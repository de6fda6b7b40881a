"""Do self-improving models hallucinate less than the model they began as, and what does it cost
elsewhere?

    python -m harness run compare                 13 minutes on two cores: three training
                                                  seeds, with the synthetic base
    python -m harness run compare --seeds 1       one training of each method: it speaks of these
                                                  trainings, not of the methods
    python -m harness run compare --limit 100     a quick try: 100 test images, and 100 pool images
                                                  per round
    python -m harness run compare --controls      with references and controls
    python -m harness run compare --profile published    each paper's own recipe instead of equal
                                                  batches, steps and trials
    python -m harness run compare --released      with a row per method that does all that the
                                                  authors' released code does

The first row is the untrained model. Every other row is compared with it, image by image."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.catalogue import open_benchmarks
from harness.artifacts.results_folder import ANSWERS_PREFIX
from harness.data.open_pool import open_pool
from harness.data.pool import Pool
from harness.errors import UserError, unknown, user_errors
from harness.models.base_cards import find_base
from harness.study import training_kind
from harness.study.study import Run, Study
from methods.catalogue import METHODS
from methods.controls import Control, Kind
from methods.entry import as_released
from methods.interface import Method, Recipe
from methods.untrained import Untrained

BASELINE = "untrained"
POOL = "synthetic"
IMAGES = 600
"""Pool images per round."""
SEEDS = 3
"""Trainings of each trained row: one cannot tell a method from the chance of its training."""

Profile = Literal["equal", "published", "released"]
"""``equal``: every row has the same images, batch size and number of optimizer steps, and each
method's learning rate was chosen among the same number of trials. ``published``: each paper's own
recipe; where the paper is silent, what the released scripts execute when they run. ``released``:
the released code throughout, also where it differs from its paper or has a defect: search, prompts,
objective and recipe. PAPERS.md lists what still differs."""

RELEASED = "as released"
"""End of the label of a row that does all that a method's released code does differently from its
paper."""

EQUAL = Recipe(lr=2e-6, epochs=1, global_batch=128)
"""The recipe of all rows on real bases in the profile "equal": SENA's rate, epochs and batch, with
cosine decay and DPO alone. Its learning rate was tuned for no row; on the synthetic base each
method had its trials."""

TUNED = (
    "twelve trials per method on the development split chose its settings (results/LOG.md);"
    " references and controls had none"
)

DEFAULT_BENCHMARKS = ("synthetic_chair", "synthetic_chair_short", "synthetic_pope", "synthetic_vqa")


def trained_rows(role: Literal["method", "reference"]) -> list[str]:
    """The trained rows of the catalogue with this role."""
    entries = METHODS.items()
    return [
        name for name, entry in entries if entry.published.role == role and entry.published.recipe
    ]


def settings(
    base: str, profile: Profile, *, lora: bool = False, full: bool = False
) -> dict[str, Method]:
    """Each row's method, controls aside. The profile decides how a row is trained. Only
    ``released`` changes how its pairs are made, too. ``lora``, ``full``: for all rows.

    Raises:
        UserError: the profile does not train so.
    """
    card = find_base(base)
    synthetic = card.prompts == "synthetic"
    rows: dict[str, Method] = {}
    for name, entry in METHODS.items():
        method: Any = entry.synthetic if synthetic else entry.published
        if published := entry.recipe(card.parameters or 0):
            if profile == "equal" and not synthetic:
                published = replace(EQUAL, alignment_weight=published.alignment_weight)
            if profile != "equal" or not synthetic:
                method = replace(method, recipe=published)
            if profile == "released":
                method = as_released(method, published)
        rows[name] = method
    return training_kind.with_training_kind(
        rows, profile, lora=lora, full=full, synthetic=synthetic
    )


def released_run(run: Run) -> Run | None:
    """The row of the method's released code, beside ``run``; None for a method without one.

    On a real base it has the released recipe whole, whatever ``--lora`` says. On the synthetic base
    it keeps the row's rates, batch and steps, because the published rates hardly move so small a
    model."""
    if not hasattr(type(run.method), "as_released"):
        return None
    card, entry = find_base(run.base), METHODS[run.method.name]
    tuned = card.prompts == "synthetic"
    recipe = run.method.recipe if tuned else entry.recipe(card.parameters or 0)
    return replace(
        run,
        label=f"{run.label} {RELEASED}",
        method=as_released(run.method, recipe),
        same_images=entry.same_images,
        steps=run.steps if tuned else None,
    )


def controls_of(rows: Mapping[str, Method]) -> dict[str, Control]:
    """The controls of each method: without its preference, its own rejected answers, its
    contrast."""
    controls = (
        Control(inner=rows[name], kind=kind)
        for name in trained_rows("method")
        for kind in get_args(Kind)
    )
    return {control.name: control for control in controls}


def runs_all_rounds(method: Method) -> bool:
    """Whether a row goes through all rounds: methods do, and the control whose rejected answers are
    random, which tells what the rounds alone do."""
    if isinstance(method, Control):
        return method.kind == "random_rejected"
    return method.role != "reference"


def _same_images(method: Method) -> bool:
    """Whether each published round has the same images; a control's as its method's."""
    name = method.inner.name if isinstance(method, Control) else method.name
    return name in METHODS and METHODS[name].same_images


def study(
    *,
    base: str = "synthetic",
    pool: str = POOL,
    images: int = IMAGES,
    only: Sequence[str] = (),
    seeds: int = SEEDS,
    rounds: int = 1,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    controls: bool = False,
    profile: Profile = "equal",
    released: bool = False,
    lora: bool = False,
    full: bool = False,
    rows: Sequence[str] = (),
    name: str | None = None,
    split: Literal["dev", "test"] = "test",
    local_data: Sequence[str] = (),
) -> Study:
    """The comparison.

    Args:
        base: the base model's name, folder or hub id.
        pool: where the images for training come from.
        images: pool images per round.
        only: rows beside the untrained one; references and controls may be named, too. A row that
            needs what the pool does not have is left out unless it is named here.
        seeds: training seeds of each trained row.
        rounds: rounds of each method and of its random-rejected control; references and the
            other controls have one.
        limit: most test images, and most pool images per round.
        benchmarks: names; empty: the synthetic ones.
        controls: add the references, and the controls of the methods.
        profile: how rows are trained.
        released: add a row for each method's released code.
        lora: train all rows with LoRA.
        full: train all rows in full, which is also the default.
        rows: ``LABEL=CHECKPOINT`` texts; checkpoints (a folder, a LoRA adapter, a hub id) that
            answer beside the others. ``LABEL=answers:FOLDER``: another program's answers.
        name: the study's name; None: from the options.
        split: of the benchmarks.
        local_data: ``NAME=FOLDER`` texts; the folders of benchmarks' official files.

    Raises:
        UserError: an unknown base, pool, row or benchmark (with the nearest name), or a number out
            of range.
    """
    synthetic = find_base(base).prompts == "synthetic"
    check_profile(profile)
    methods = settings(base, profile, lora=lora, full=full)
    control_methods = controls_of(methods)
    methods |= control_methods
    for label in only:
        if label not in methods:
            raise unknown("row", label, methods)
    check_at_least_one(seeds=seeds, images=images, rounds=rounds, limit=limit)
    requested = {BASELINE, *(only or trained_rows("method"))}
    if controls:
        requested |= {
            label for label, control in control_methods.items() if control.inner.name in requested
        }
        requested |= set(trained_rows("reference"))
    opened_pool = open_pool(pool)
    labels = [
        label
        for label, method in methods.items()
        if label in only or (label in requested and method.needs <= opened_pool.fields | {"scorer"})
    ]
    default_methods = settings(base, profile)
    default_methods |= controls_of(default_methods)
    lora_note = training_kind.note(default_methods, {label: methods[label] for label in labels})
    count = images if limit is None else min(images, limit)
    benchmark_names = list(benchmarks or DEFAULT_BENCHMARKS)
    with user_errors():
        opened_benchmarks = open_benchmarks(
            benchmark_names, split, limit, local_data, synthetic=synthetic
        )
    runs: list[Run] = []
    for label in labels:
        method = methods[label]
        run = Run(
            label=label,
            base=base,
            method=method,
            pool=pool,
            images=count,
            rounds=rounds if runs_all_rounds(method) else 1,
            same_images=profile != "equal" and _same_images(method),
            steps=equal_steps(method.recipe, count) if profile == "equal" else None,
        )
        runs += seed_runs(run, seeds, released=released)
    left_out = {label: methods[label].needs for label in requested.difference(labels)}
    notes = _notes(synthetic, opened_pool, benchmark_names, left_out, lora_note)
    stem = "compare" if profile == "equal" else f"compare-{profile}"
    return Study(
        name=name or folder_name(stem, base, limit, pool, lora),
        question=(
            "Do self-improving vision-language models hallucinate less than the model they"
            " began as?"
        ),
        runs=(*runs, *(run_from_text(text) for text in rows)),
        benchmarks=opened_benchmarks,
        baseline=BASELINE,
        split=split,
        limit=limit,
        tuning=TUNED if synthetic and profile == "equal" and split == "test" and not lora else "",
        notes=tuple(notes),
    )


def seed_runs(run: Run, seeds: int, *, released: bool) -> list[Run]:
    """The run once for each seed where it trains; ``released``: and the row of its method's
    released code likewise."""
    rows = [run, released_run(run) if released else None]
    numbers = range(seeds if run.method.recipe else 1)
    return [replace(row, seed=seed) for row in rows if row is not None for seed in numbers]


def _notes(
    synthetic: bool,
    pool: Pool,
    benchmarks: Sequence[str],
    left_out: Mapping[str, Set[str]],
    lora_note: str,
) -> Iterator[str]:
    """What the reader may not expect: rows that the pool cannot serve, LoRA in place of full
    training (``lora_note``), and a real base on synthetic images."""
    if lora_note:
        yield lora_note
    if left_out:
        unmet_needs = "; ".join(
            f"{label} needs {' and '.join(sorted(needs - pool.fields - {'scorer'}))}"
            for label, needs in sorted(left_out.items())
        )
        yield (
            f"Left out, because the pool {pool.spec} does not have what they need: {unmet_needs}."
            " A .jsonl manifest and llava:<json>:<folder> have questions and references."
        )
    if not synthetic and pool.ground_truth is not None:
        yield (
            "The pool is synthetic, made for the synthetic base; give this base real images with"
            " --pool."
        )
    if not synthetic and all(name.startswith("synthetic_") for name in benchmarks):
        yield (
            "The benchmarks are synthetic, made for the synthetic base; give others with"
            " --benchmarks, such as --benchmarks pope,coco_chair --local-data coco=FOLDER."
        )


def check_at_least_one(**numbers: int | None) -> None:
    """Check the numbers of options; None is allowed.

    Raises:
        UserError: a number is below 1.
    """
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"--{option} is {number}; it must be at least 1.")


def check_profile(profile: str) -> None:
    """
    Raises:
        UserError: there is no such profile.
    """
    if profile not in get_args(Profile):
        raise unknown("profile", profile, get_args(Profile))


def run_from_text(text: str) -> Run:
    """The row of a ``LABEL=CHECKPOINT`` text: other weights, evaluated without training; or of
    ``LABEL=answers:FOLDER``: another program's answers. A hub id is pinned to its commit.

    Raises:
        UserError: the text has another form, the checkpoint is missing or of no supported family,
            or there is no such folder.
    """
    label, equals, checkpoint = text.partition("=")
    if not equals or not label.strip() or not checkpoint.strip():
        raise UserError(
            f'--row {text!r} must be LABEL=CHECKPOINT, such as "SIMA released=path/to/model" or'
            ' "mine=org/name", or LABEL=answers:FOLDER.'
        )
    base = checkpoint.strip()
    if base.startswith(ANSWERS_PREFIX):
        folder = base.removeprefix(ANSWERS_PREFIX)
        if not folder or not Path(folder).is_dir():
            raise UserError(
                f"--row {label.strip()}: there is no folder {folder!r}; give one"
                " with a file of answers to each benchmark (benchmarks/README.md)."
            )
        return Run(label=label.strip(), base=base, method=Untrained())
    card = find_base(base)
    if base != card.name and isinstance(card.source, str) and not card.adapters:
        base = f"{card.source}@{card.revision}"
    return Run(label=label.strip(), base=base, method=Untrained())


def equal_steps(recipe: Recipe | None, images: int) -> int | None:
    """Optimizer steps per round in the profile "equal": as if each image gave one pair, whatever
    number a method makes. Pairs are subsampled or repeated to fit; the table states how many were
    made and used. None: nothing is trained."""
    if recipe is None:
        return None
    return math.ceil(recipe.epochs * images / recipe.global_batch)


def with_images(run: Run, images: int) -> Run:
    """The run with this number of images per round, and its steps scaled in the profile "equal".
    For studies whose limit is on questions alone."""
    steps = equal_steps(run.method.recipe, images) if run.steps else None
    return replace(run, images=images, steps=steps)


LORA_SUFFIX = "-lora"
"""End of the name of a study whose rows all train with LoRA."""


def folder_name(
    name: str, base: str, limit: int | None, pool: str = POOL, lora: bool = False
) -> str:
    """The study's name, which is its folder's. Another base, another pool, a limit and LoRA get a
    folder of their own."""
    suffix = "" if base == "synthetic" else f"-{find_base(base).name}"
    suffix += "" if pool == POOL else f"-{pool_name(pool)}"
    suffix += "" if limit is None else f"-limit{limit}"
    return name + suffix + (LORA_SUFFIX if lora else "")


def pool_name(pool: str) -> str:
    """A pool as a part of a folder's name: ``llava:data/mix.json:data/coco`` is
    ``llava-mix-coco``."""
    names = [Path(part).name or Path(part).resolve().name for part in pool.split(":")]
    text = "-".join(name.removesuffix(".jsonl").removesuffix(".json") for name in names)
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip("-.")[:48]
