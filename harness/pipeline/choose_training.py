"""Full training or LoRA where the user asks for neither: what fits the GPUs, said in a sentence.

The choice is made once, by the command that begins a results folder, for the profile "equal" on a
real base. It becomes an option of the study like one that was typed, so it is part of every
training's identity, of the table's notes and (LoRA) of the folder's name, and other processes and
machines get it from there. A folder that was begun keeps its training on any other machine."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import torch

from harness.artifacts.results_folder import Results, read_json
from harness.errors import UserError
from harness.models.base_cards import BaseCard, find_base
from harness.models.load_base import MAX_CPU_PARAMETERS
from harness.study import ablate, compare, cost_model
from harness.study.reference import STUDIES, StudyReference
from harness.study.study import Study
from harness.training.memory import GIB
from harness.training.placement import Placement
from harness.training.ranks import ranks

KINDS = ("lora", "full")
DECIDE = "Give --lora or --full to decide yourself."


def by_memory(
    reference: StudyReference, placement: Placement, memory: int | None = None
) -> tuple[StudyReference, str]:
    """The reference with the option ``lora`` or ``full``, and why; the reference itself and ""
    where there is nothing to choose. ``memory``: of each GPU, in bytes; None: of this machine's."""
    card = _chooses(reference)
    if card is None:
        return reference, ""
    memory = gpu_memory() if memory is None else memory
    if memory is None:
        reason = (
            "Training: full. No GPU is seen here; on one that cannot hold it, run takes LoRA."
            f" {DECIDE}"
        )
        return reference, reason if (card.parameters or 0) > MAX_CPU_PARAMETERS else ""
    gpus, eight_bit = ranks().size, placement.optimizer == "adamw8bit"
    needed = cost_model.training_memory(
        card, compare.EQUAL, rows=1, processes=gpus, eight_bit=eight_bit
    )
    lora = needed > memory / GIB
    where = "one GPU, which has" if gpus == 1 else f"each of {gpus} GPUs, which have"
    reason = (
        f"Training: {'LoRA' if lora else 'full'}, because full training needs about"
        f" {needed:.0f} GiB on {where} {memory / GIB:.0f}. {DECIDE}"
    )
    return _with(reference, lora=lora), reason


def as_begun(
    reference: StudyReference, study: Study, out: Path | None, root: Path
) -> tuple[StudyReference, str]:
    """The reference with the training of the results that are there, where that is another one, and
    a sentence; else the reference and "". ``out``: the folder that the user named; None: the
    study's own below ``root``."""
    lora = bool(reference.options.get("lora"))
    folder = out or root / study.name
    if out is None and not Results(folder).study.is_file():
        stem = study.name.removesuffix(compare.LORA_SUFFIX)
        folder = root / (stem if lora else stem + compare.LORA_SUFFIX)
    stored = _trains_lora(folder)
    if stored is None or stored == lora:
        return reference, ""
    reason = f"Training: {'LoRA' if stored else 'full'}, as {folder} was begun. {DECIDE}"
    return _with(reference, lora=stored), reason


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU of all processes; None: there is none."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    memories = [each for each in ranks().gather(memory) if each is not None]
    return min(memories, default=None)


def _chooses(reference: StudyReference) -> BaseCard | None:
    """The base of a study whose training is to be chosen; None: nothing is to be chosen."""
    build, options = STUDIES.get(reference.name), reference.options
    if build is None or "lora" not in (parameters := inspect.signature(build).parameters):
        return None
    default = parameters["profile"].default if "profile" in parameters else "equal"
    if (
        options.get("lora")
        or options.get("full")
        or ablate.RECIPE in options.get("only", ())  # it compares the two
        or options.get("profile", default) != "equal"
    ):
        return None
    try:
        card = find_base(options.get("base", parameters["base"].default))
    except UserError:  # the check of the options says it
        return None
    return None if card.prompts == "synthetic" else card


def _with(reference: StudyReference, *, lora: bool) -> StudyReference:
    options = {name: value for name, value in reference.options.items() if name not in KINDS}
    return replace(reference, options={**options, "lora" if lora else "full": True})


def _trains_lora(folder: Path) -> bool | None:
    """Whether the results there train with LoRA; None: there are none, or none that train."""
    path = Results(folder).study
    if not path.is_file():
        return None
    recipes = [
        run["recipe"]
        for run in read_json(path)["runs"]
        if run.get("recipe") and not run["label"].endswith(compare.RELEASED)
    ]
    return any(recipe.get("lora") for recipe in recipes) if recipes else None
