"""What does each part of a method do? One setting changed at a time, beside the untrained model and
the method as it is.

    python -m harness run ablate --only sena     all ablations of SENA; the plan command says how
                                                 long they take
    python -m harness run ablate --only recipe --seeds 3     SIMA and CSR with LoRA as their
                                                 released trainers execute it, and with what their
                                                 scripts ask for: a trained projector, dropout,
                                                 clipping
    python -m harness run ablate --vary sena.noise_step=200,400,600
                                                 these values of one setting

It uses the development split: an ablation explains a method, it does not choose between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from harness.errors import UserError, unknown
from harness.models.base_cards import find_base
from harness.study import compare
from harness.study.study import Run, Study, read_vary
from harness.study.study import vary as vary_run
from harness.study.training_kind import with_lora
from methods.entry import as_released

IMAGES = 500
"""Development images of a row's evaluation."""

# Method -> setting -> its other values: the papers' ablations that the synthetic pool, with one
# image-text model and one base, can serve. All other settings are the comparison's. "images" and
# "rounds" are the run's.
ABLATIONS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "sena": {
        "check": ("blind", "none"),
        "enhance": (False,),
        "noise_step": (100, 300, 500, 600, 800),
        "corruption": ("blank", "crop", "blur", "another"),
        "recipe.alignment_weight": (0.0,),
        "pair_kinds": (("description",), ("question",)),
        "keep_yes_no": (True,),
        "images": (150, 300, 1200),
        "rounds": (3,),
    },
    "sima": {
        "criteria": (False,),
        "examples": (False,),
        "ground_truth": (False,),
        "order": ("random", "fixed"),
        "samples": (2, 4),
        "temperature": (0.2, 0.5),
        "rounds": (3,),
    },
    "csr": {
        "lam": (0.0, 0.1, 0.5, 0.9, 1.0),
        "reward": ("ranks", "scores"),
        "candidates": (8,),
        "keep": ("best_and_worst", "best", "best_and_worst_by_reward"),
        "temperature": (0.0, 0.2, 1.0),
        "repeats": (True,),
        "rounds": (5,),
    },
}


RECIPE = "recipe"
"""Not a method: the ablations of the training that the published recipes execute."""
LORA_METHODS = ("sima", "csr")
"""The methods whose papers train with LoRA."""
SCRIPT_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "recipe.projector_lr": (2e-4,),
    "recipe.lora.dropout": (0.05,),
    "recipe.max_grad_norm": (1.0,),
}
"""The settings that the released scripts ask for. They give the projector another rate than the
adapters; here both have the adapters' rate."""


def study(
    *,
    only: Sequence[str] = (),
    base: str = "synthetic",
    pool: str = "synthetic",
    images: int = compare.IMAGES,
    seeds: int = 1,
    rounds: int = 1,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    local_data: Sequence[str] = (),
    vary: Sequence[str] = (),
    lora: bool = False,
    full: bool = False,
) -> Study:
    """The ablations of the methods in ``only`` (empty: all that have ablations), or of the recipe
    (``only`` "recipe"). ``vary``: ``ROW.SETTING=VALUE,VALUE`` texts; only these settings are
    varied, of any trained row. ``lora``, ``full``: as in the comparison."""
    if lora and RECIPE in only:
        raise UserError("--only recipe compares LoRA with full training; leave --lora out.")
    varied = [varied_setting(text) for text in vary]
    allowed_rows = trained_rows() if vary else [*ABLATIONS, RECIPE]
    for label in (*only, *(row for row, _, _ in varied)):
        if label not in allowed_rows:
            raise unknown("row to vary" if vary else "method with ablations", label, allowed_rows)
    only = [*dict.fromkeys((*only, *(row for row, _, _ in varied)))]
    names = dict.fromkeys(f"{row}.{field}" for row, field, _ in varied)
    methods = [label for label in only if label != RECIPE]
    lora_rows = LORA_METHODS if RECIPE in only else ()
    comparison = compare.study(
        base=base,
        pool=pool,
        images=images,
        only=tuple(dict.fromkeys([*methods, *lora_rows])) or tuple(ABLATIONS),
        seeds=seeds,
        rounds=rounds,
        limit=IMAGES if limit is None else limit,
        benchmarks=benchmarks,
        local_data=local_data,
        lora=lora,
        full=full,
        split="dev",
        name=compare.folder_name("-".join(("ablate", *names)), base, limit, pool, lora),
    )
    runs: list[Run] = []
    for run in comparison.runs:
        full_run = compare.with_images(run, images) if limit is None else run
        if run.label in lora_rows:
            with_adapters = _with_lora(full_run)
            runs.append(with_adapters)
            for setting, values in SCRIPT_SETTINGS.items():
                runs += vary_run(with_adapters, setting, values)
        if run.label in lora_rows and run.label not in methods:
            continue
        runs.append(full_run)
        if vary or run.label not in ABLATIONS:
            for row, field, texts in varied:
                runs += read_vary(full_run, field, texts) if row == run.label else ()
            continue
        for setting, values in ABLATIONS[run.label].items():
            current = _current_value(full_run, setting)
            runs += vary_run(full_run, setting, [value for value in values if value != current])
        label = f"{run.label} {compare.RELEASED}"
        runs.append(
            replace(full_run, label=label, method=as_released(run.method, run.method.recipe))
        )
    return replace(comparison, question="What does each part of a method do?", runs=tuple(runs))


def _with_lora(run: Run) -> Run:
    """The row with LoRA, as the released trainers execute it: a frozen projector, no dropout, no
    clipping."""
    method: Any = run.method
    synthetic = find_base(run.base).prompts == "synthetic"
    recipe = replace(with_lora(method.recipe, synthetic=synthetic), max_grad_norm=0.0)
    return replace(run, label=f"{run.label} LoRA", method=replace(method, recipe=recipe))


def trained_rows() -> list[str]:
    """The methods and reference rows of the comparison."""
    return [*compare.trained_rows("method"), *compare.trained_rows("reference")]


def varied_setting(text: str) -> tuple[str, str, list[str]]:
    """The row, the setting and the values of a ``ROW.SETTING=VALUE,VALUE`` text.

    Raises:
        UserError: the text has another form.
    """
    path, _, values_text = text.partition("=")
    row, _, field = path.strip().partition(".")
    values = [value.strip() for value in values_text.split(",") if value.strip()]
    if not row or not field or not values:
        raise UserError(
            f"--vary {text!r} must be ROW.SETTING=VALUE,VALUE, such as"
            " sena.noise_step=200,400,600 or sena.recipe.lr=1e-5."
        )
    return row, field, values


def _current_value(run: Run, path: str) -> object:
    """The present value of a setting: of the method, of its recipe, or of the run."""
    owner: object = run if path in ("images", "rounds") else run.method
    value: object = attrgetter(path)(owner)
    return value
