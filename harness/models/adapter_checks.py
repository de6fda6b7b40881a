"""Checks that an adapter is whole, and that its settings are those that merging computes.

peft ignores missing tensors with a warning; here they are an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError

TAKEN = frozenset(
    "peft_type r lora_alpha use_rslora rank_pattern alpha_pattern target_modules exclude_modules"
    " modules_to_save layers_to_transform layers_pattern init_lora_weights"
    " base_model_name_or_path revision task_type auto_mapping peft_version inference_mode"
    " lora_dropout megatron_core qalora_group_size loftq_config eva_config runtime_config"
    " parent_weights parent_adapter transformers_version".split()
)
"""Fields of adapter_config.json that merging computes, or that matter in training alone."""
CHOOSING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that choose the adapted modules."""
ABSENT: tuple[Any, ...] = (None, False, "none", {}, [])
"""The values of any other field that leave it out."""
STARTS = ("gaussian", "orthogonal", "eva")
"""Named initialisations that leave the base's weights as they are."""
EARLIER = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.language_model\.", "model."),
    (r"^model\.(vision_tower|multi_modal_projector|visual)\.", r"\1."),
    (r"^lm_head$", "language_model.lm_head"),
)
"""Names that modules had in earlier versions of transformers, which target_modules may use."""


def check_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a setting of adapter_config.json that merging does not compute."""
    start = config.get("init_lora_weights", True)
    strange = [name for name, value in config.items() if name not in TAKEN and value not in ABSENT]
    if not (isinstance(start, bool) or start in (None, *STARTS)):
        strange.append("init_lora_weights")
    if strange:
        raise UserError(
            f"The adapter in {folder} uses {strange[0]} ({config[strange[0]]!r:.40}), which is not"
            " computed here; merge it into its base with peft (merge_and_unload) and give the"
            " merged model."
        )


def check_complete(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Collection[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check that every module that the adapter's settings name has its tensors, and no other.

    Args:
        tensors: the adapter's tensors, by their names in the model.
        shapes: the model's parameters.

    Raises:
        UserError: tensors are missing, or target_modules fits other modules.
    """
    low_rank = {name for name in tensors if ".lora_" in name}
    adapted = {name.partition(".lora_")[0] for name in low_rank}
    targets = _targets(folder, config, shapes)
    for pattern in config.get("modules_to_save") or ():
        inside = re.compile(rf"(^|\.){re.escape(pattern)}\.")
        saved = [name for name in shapes if inside.search(name)]
        if missing := [name for name in saved if name not in tensors]:
            raise _half(folder, missing, len(saved), "modules_to_save")
        if not saved:
            raise UserError(
                f"The adapter in {folder} saves the module {pattern!r} (modules_to_save), which its"
                " base has not; give an adapter of this base."
            )
    if strange := sorted(adapted - targets):
        raise UserError(
            f"The adapter in {folder} holds tensors of {strange[0]}, which its target_modules do"
            " not name; peft would leave them out. Save the adapter again."
        )
    needed = [
        f"{module}.lora_{side}.weight"
        for module in sorted(targets | adapted)
        if not module.endswith(("embed_tokens", "embedding"))
        for side in "AB"
    ]
    if missing := [name for name in needed if name not in low_rank]:
        raise _half(folder, missing, len(needed), "target_modules")


def _half(folder: Path, missing: list[str], count: int, field: str) -> UserError:
    return UserError(
        f"The adapter in {folder} is half there: {len(missing)} of the {count} tensors that its"
        f" {field} name are missing, such as {missing[0]}; save or download it again."
    )


def _targets(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> set[str]:
    """The modules with a weight matrix that target_modules names, as peft reads it."""
    from peft import LoraConfig  # slow to import
    from peft.tuners.tuners_utils import check_target_module_exists

    modules = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 1
    ]
    if config.get("target_modules") == "all-linear":
        linear = [name for name in modules if len(shapes[f"{name}.weight"]) == 2]
        return {name for name in linear if not re.search(r"embed|lm_head", name.split(".")[-1])}
    try:
        peft = LoraConfig(**{name: config.get(name) for name in CHOOSING})
        return {
            name
            for name in modules
            if any(check_target_module_exists(peft, each) for each in _names(name))
        }
    except (ValueError, TypeError, re.error) as error:
        raise UserError(
            f"{folder}/adapter_config.json is not one that peft reads"
            f" ({str(error).splitlines()[0]}); save the adapter again."
        ) from error


def _names(module: str) -> list[str]:
    return [module, *(re.sub(now, before, module) for now, before in EARLIER)]
