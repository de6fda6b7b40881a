"""Which parameters train: all but the vision tower's, or low-rank adapters (Hu et al., arXiv
2106.09685) and the projector."""

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
from harness.models.adapters import RECORD, WEIGHTS, Parent, activate
from harness.models.find_family import family_of
from harness.training.resume import save_tensors
from harness.training.schedule import derived_seed
from methods.interface import Lora, Recipe

MERGE_TOLERANCE = 1e-4
"""How far merging in float32 may move a logit, as a share of the largest one."""


_TRAINED = ".default."
"""Marks the trained adapters' tensors. Those of earlier rounds have other names."""


def add_adapters(model: Any, lora: Lora, targets: str, seed: int) -> Any:
    """Add seeded adapters, in place, to the modules whose full name matches ``targets``. Adapters
    that the model has stay active below them. Returns peft's LoraModel, for merging.

    Raises:
        UserError: ``targets`` matches no module, or one outside of the language model.
    """
    torch.manual_seed(derived_seed(seed, "adapters"))
    try:
        # LoraModel, not get_peft_model: its wrapper touches deprecated attributes of the base.
        wrapped = LoraModel(model, {"default": _lora_config(lora, targets)}, "default")
    except ValueError as error:
        raise UserError(
            f"The LoRA targets {targets!r} match no module ({error}); give a regular expression of"
            " full names."
        ) from error
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # Else half-precision inputs are cast to float32 and back, and a copy of each is kept.
            module.cast_input_dtype_enabled = False
    activate(model)
    names = [name for name, _ in model.named_parameters() if _TRAINED in name]
    outside = next((name for name in names if "language_model" not in name), None)
    if outside is not None:
        raise UserError(
            f"The LoRA targets {targets!r} match {outside}; match modules below"
            " model.language_model only."
        )
    return wrapped


def _lora_config(lora: Lora, targets: str, **options: Any) -> LoraConfig:
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        **options,
    )


def choose_trainable(model: Any, recipe: Recipe) -> dict[str, Parameter]:
    """Freeze all other parameters and return the trained ones, by name. Without LoRA: all but the
    vision tower's. With it: the adapters. The projector trains if the recipe says so."""
    chosen, family = {}, family_of(model)
    for name, parameter in model.named_parameters():
        if re.match(family.projector, name):
            trains = recipe.trains_projector
        elif recipe.lora is None:
            trains = not re.match(family.tower, name)
        else:
            trains = _TRAINED in name
        parameter.requires_grad_(trains)
        if trains:
            chosen[name] = parameter
    return chosen


def parameter_groups(
    model: Any, parameters: Mapping[str, Parameter], recipe: Recipe
) -> list[dict[str, Any]]:
    """Optimiser groups with their peak learning rates. The projector is a group of its own if the
    recipe gives it a rate."""
    pattern = family_of(model).projector if recipe.projector_lr is not None else None
    projector = [p for name, p in parameters.items() if pattern and re.match(pattern, name)]
    ids = {id(p) for p in projector}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters.values() if id(p) not in ids], "peak": recipe.lr},
        {"params": projector, "peak": recipe.projector_lr},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Trained adapters (and projector) of ``model``, to be saved as files in peft's layout."""

    model: Any
    parameters: Mapping[str, Tensor]
    """Full tensors, by their names in the model."""
    lora: Lora
    targets: str
    parent: Parent
    """The model that they were trained on; a record beside the files holds its weights'
    fingerprint."""

    def save_pretrained(self, folder: Path) -> None:
        """Write the files. Names are peft's: prefixed with ``base_model.model.``, without the
        adapter's own name. A trained projector is one of its ``modules_to_save``. Tensors stay
        float32, as trained, so that merging them gives exactly the saved model."""
        projector, cls, parent = family_of(self.model).projector, type(self.model), self.parent
        matches = (re.match(projector, name) for name in self.parameters)
        config = _lora_config(
            self.lora,
            self.targets,
            modules_to_save=sorted({match[0].rstrip(".") for match in matches if match}) or None,
            base_model_name_or_path=parent.name,
            revision=parent.revision,
            inference_mode=True,
            auto_mapping={"base_model_class": cls.__name__, "parent_library": cls.__module__},
        )
        tensors = {
            f"base_model.model.{name.replace(_TRAINED, '.')}": value.cpu()
            for name, value in self.parameters.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, folder / WEIGHTS)
        config.save_pretrained(str(folder))
        record = {"parent_weights": parent.weights, "parent_adapter": parent.adapter}
        parent_card = {} if parent.card is None else {"parent_card": parent.card}
        write_json(folder / RECORD, record | parent_card)


def eval_tower(model: Any) -> None:
    """Put the vision tower into eval mode."""
    tower = family_of(model).tower
    for name, module in model.named_modules():
        if re.match(tower, f"{name}."):
            module.eval()


def check_merged(before: Tensor, after: Tensor) -> None:
    """Compare the merged model's logits with those of base and adapters, all in float32.

    Raises:
        UserError: they differ by more than rounding.
    """
    share = float((after - before).abs().max() / before.abs().max())
    if not share <= MERGE_TOLERANCE:
        raise UserError(
            f"Merging the adapters moved the logits by {share:.1e} of the largest, more than"
            " rounding in float32 does; switch TF32 off (NVIDIA_TF32_OVERRIDE=0) and run again."
        )
