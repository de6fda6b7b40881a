"""What trains: every parameter but the vision tower's, or low-rank adapters (and the projector);
saving and merging them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor
from torch.nn import Parameter

from harness.artifacts.results_folder import write_json
from harness.errors import UserError
from harness.models.adapters import RECORD, WEIGHTS, Parent
from harness.models.find_family import family_of
from harness.training import resume as checkpoint
from harness.training.schedule import derived_seed
from methods.interface import Lora, Recipe

MERGE_TOLERANCE = {torch.float32: 1e-4}
MERGE_TOLERANCE_HALF = 2e-2
"""How far merging may move a logit, as a share of the largest one; in half precision the merged
weight is rounded once more."""


def add_adapters(model: Any, lora: Lora, targets: str, seed: int) -> Any:
    """Put seeded adapters on the modules whose full name matches ``targets``, in place; returns
    peft's LoraModel for merging.

    Raises :class:`UserError` if the expression matches nothing or reaches into the vision tower.
    """
    torch.manual_seed(derived_seed(seed, "adapters"))
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    try:
        # LoraModel, not get_peft_model: the wrapper around it touches deprecated attributes of the
        # base and adds nothing here.
        wrapped = LoraModel(model, {"default": settings}, "default")
    except ValueError as error:
        raise UserError(
            f"The LoRA targets {targets!r} match no module ({error}); give a regular expression of"
            " full names."
        ) from error
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # Inputs in half precision would be made float32 for the adapters, and halved again by
            # autocast, a copy a map kept.
            module.cast_input_dtype_enabled = False
    outside = [
        name
        for name, _ in model.named_parameters()
        if "lora_" in name and "language_model" not in name
    ]
    if outside:
        raise UserError(
            f"The LoRA targets {targets!r} match {outside[0]}; match modules below"
            " model.language_model only."
        )
    return wrapped


def choose_trainable(model: Any, recipe: Recipe) -> dict[str, Parameter]:
    """Freeze what stays and return what trains, by name. Without LoRA: all but the vision tower.
    With it: the adapters, and the projector in full if the recipe gives it a learning rate."""
    chosen, family = {}, family_of(model)
    for name, parameter in model.named_parameters():
        if recipe.lora is None:
            trains = not re.match(family.tower, name)
        else:
            trains = "lora_" in name or (
                recipe.projector_lr is not None and bool(re.match(family.projector, name))
            )
        parameter.requires_grad_(trains)
        if trains:
            chosen[name] = parameter
    return chosen


def parameter_groups(
    model: Any, parameters: dict[str, Parameter], recipe: Recipe
) -> list[dict[str, Any]]:
    """Optimiser groups with their peak learning rates; the projector has its own where the recipe
    says so."""
    apart = family_of(model).projector if recipe.projector_lr is not None else None
    projector = [p for name, p in parameters.items() if apart and re.match(apart, name)]
    taken = {id(p) for p in projector}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters.values() if id(p) not in taken], "peak": recipe.lr},
        {"params": projector, "peak": recipe.projector_lr},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained adapters, and the projector where it trained, as files in peft's published layout;
    what they sit on is told there (``parent``) and, by its weights, in a record beside."""

    tensors: Mapping[str, Tensor]
    config: LoraConfig
    parent: Parent

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        checkpoint.save_tensors(self.tensors, folder / WEIGHTS)
        self.config.save_pretrained(str(folder))
        write_json(
            folder / RECORD,
            {"parent_weights": self.parent.weights, "parent_adapter": self.parent.adapter},
        )


def adapter_of(
    model: Any, parameters: Mapping[str, Tensor], lora: Lora, targets: str, parent: Parent
) -> Adapter:
    """The trained ``parameters`` (whole ones, by their names in the model with its adapters) as an
    adapter's files.

    Names are peft's: ``base_model.model.`` before each, without the adapter's own name; a projector
    that trained in full is one of its ``modules_to_save``. All stays in float32, in which it
    trained: so it merges into what was saved as the model."""
    projector = family_of(model).projector
    found = (re.match(projector, name) for name in parameters)
    saved = sorted({match[0].rstrip(".") for match in found if match})
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        modules_to_save=saved or None,
        base_model_name_or_path=parent.name,
        revision=parent.revision,
        inference_mode=True,
        auto_mapping={
            "base_model_class": type(model).__name__,
            "parent_library": type(model).__module__,
        },
    )
    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": value.cpu()
        for name, value in parameters.items()
    }
    return Adapter(tensors=tensors, config=config, parent=parent)


def still_tower(model: Any) -> None:
    """Put the vision tower into eval mode."""
    tower = family_of(model).tower
    for name, module in model.named_modules():
        if re.match(tower, f"{name}."):
            module.eval()


def check_merged(before: Tensor, after: Tensor, dtype: torch.dtype) -> None:
    """Raise :class:`UserError` unless the merged model's logits are those of base plus adapters."""
    share = float((after - before).abs().max() / before.abs().max())
    if not share <= MERGE_TOLERANCE.get(dtype, MERGE_TOLERANCE_HALF):
        raise UserError(
            f"Merging the adapters moved the logits by {share:.1e} of the largest; load the base in"
            " float32 and run again."
        )
