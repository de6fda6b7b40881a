"""What does each part of a method do? One setting changed at a time, beside the untrained model and
the method as it is.

    python -m harness run ablate --only sena     all ablations of SENA; the plan command says how
                                                 long they take
    python -m harness run ablate --vary sena.noise_step=200,400,600
                                                 these values of one setting

It uses the development split: an ablation explains a method, it does not choose between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from harness.errors import UserError, unknown
from harness.study import compare
from harness.study.study import Run, Study, read_vary
from harness.study.study import vary as vary_run
from methods.interface import Method

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
        "keep": ("best_and_worst", "best"),
        "temperature": (0.0, 0.2, 1.0),
        "repeats": (True,),
        "rounds": (5,),
    },
}

RELEASED = "as released"
"""End of the label of the row that does all that a method's released code does differently from its
paper."""


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
) -> Study:
    """The ablations of the methods in ``only`` (empty: all that have ablations). ``vary``:
    ``ROW.SETTING=VALUE,VALUE`` texts; only these settings are varied, of any trained row."""
    asked = [varied_setting(text) for text in vary]
    known = [*ABLATIONS] if not vary else trained_rows()
    for label in (*only, *(row for row, _, _ in asked)):
        if label not in known:
            raise unknown("row to vary" if vary else "method with ablations", label, known)
    only = [*dict.fromkeys((*only, *(row for row, _, _ in asked)))]
    names = dict.fromkeys(f"{row}.{field}" for row, field, _ in asked)
    comparison = compare.study(
        base=base,
        pool=pool,
        images=images,
        only=tuple(only) or tuple(ABLATIONS),
        seeds=seeds,
        rounds=rounds,
        limit=IMAGES if limit is None else limit,
        benchmarks=benchmarks,
        local_data=local_data,
        split="dev",
        name=compare.folder_name("-".join(("ablate", *names)), base, limit, pool),
    )
    runs: list[Run] = []
    for run in comparison.runs:
        whole = compare.at_images(run, images) if limit is None else run
        runs.append(whole)
        if vary or run.label not in ABLATIONS:
            for row, field, texts in asked:
                runs += read_vary(whole, field, texts) if row == run.label else ()
            continue
        for setting, values in ABLATIONS[run.label].items():
            current = _setting(whole, setting)
            runs += vary_run(whole, setting, [value for value in values if value != current])
        label = f"{run.label} {RELEASED}"
        runs.append(replace(whole, label=label, method=as_released(run.method)))
    return replace(comparison, question="What does each part of a method do?", runs=tuple(runs))


def trained_rows() -> list[str]:
    """The methods and reference rows of the comparison."""
    return [*compare.trained_rows("method"), *compare.trained_rows("reference")]


def varied_setting(text: str) -> tuple[str, str, list[str]]:
    """The row, the setting and the values of a ``ROW.SETTING=VALUE,VALUE`` text.

    Raises:
        UserError: the text has another form.
    """
    path, _, listed = text.partition("=")
    row, _, field = path.strip().partition(".")
    values = [value.strip() for value in listed.split(",") if value.strip()]
    if not row or not field or not values:
        raise UserError(
            f"--vary {text!r} must be ROW.SETTING=VALUE,VALUE, such as"
            " sena.noise_step=200,400,600 or sena.recipe.lr=1e-5."
        )
    return row, field, values


def as_released(method: Any) -> Method:
    """This row's settings with all that the released code does differently from the method's
    defaults. Of the recipe only the objective changes, so that the row shows the cost of the
    released code's flaws, not of another learning rate."""
    default, released = type(method)(), type(method).as_released()
    changed = [
        field.name
        for field in fields(method)
        if getattr(released, field.name) != getattr(default, field.name)
    ]
    changes = {name: getattr(released, name) for name in changed if name != "recipe"}
    changes["recipe"] = replace(method.recipe, objective=released.recipe.objective)
    result: Method = replace(method, **changes)
    return result


def _setting(run: Run, path: str) -> object:
    """The present value of a setting: of the method, of its recipe, or of the run."""
    part: object = run if path in ("images", "rounds") else run.method
    for name in path.split("."):
        part = getattr(part, name)
    return part
