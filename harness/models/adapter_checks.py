"""Checks that an adapter is whole, and that its settings are those that merging computes.

peft ignores missing tensors with a warning; here they are an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError

SUPPORTED_FIELDS = frozenset(
    "peft_type r lora_alpha use_rslora rank_pattern alpha_pattern target_modules exclude_modules"
    " modules_to_save layers_to_transform layers_pattern init_lora_weights"
    " base_model_name_or_path revision task_type auto_mapping peft_version inference_mode"
    " lora_dropout megatron_core qalora_group_size loftq_config eva_config runtime_config"
    " parent_weights parent_adapter transformers_version".split()
)
"""Fields of adapter_config.json that merging computes, or that matter in training alone."""
TARGET_FIELDS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that choose the adapted modules."""
UNSET_VALUES: tuple[Any, ...] = (None, False, "none", {}, [])
"""Values by which any other field has no effect."""
INITIALISATIONS = ("gaussian", "orthogonal", "eva")
"""Named initialisations that leave the base's weights as they are."""
OLD_NAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.language_model\.", "model."),
    (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    (r"^model\.(vision_tower|multi_modal_projector|visual)\.", r"\1."),
    (r"^lm_head$", "language_model.lm_head"),
)
"""Names that modules had in earlier versions of transformers, which target_modules may use."""
NEW_NAMES = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\b", "lm_head"),
    (r"^(vision_tower|multi_modal_projector|visual)\.", r"model.\1."),
    (r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1"),
)
"""Beginnings of names of earlier versions of transformers, and what they are now: LLaVA's language
model and tower until 4.51, Qwen2.5-VL's layers and tower until 4.51, the tower's inner model."""
MAX_RANK = 8192


def check_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for a setting of adapter_config.json that merging does not compute."""
    modules, saved = config.get("target_modules"), config.get("modules_to_save")
    rank = config.get("r", 8)
    valid = {
        "r": type(rank) is int and 0 < rank <= MAX_RANK,
        "lora_alpha": _is_number(config.get("lora_alpha", 8)),
        "use_rslora": isinstance(config.get("use_rslora"), bool | None),
        "rank_pattern": _is_pattern(config.get("rank_pattern"), int),
        "alpha_pattern": _is_pattern(config.get("alpha_pattern"), (int, float)),
        "modules_to_save": saved is None or _is_text_list(saved),
        "target_modules": isinstance(modules, str | None) or _is_text_list(modules),
    }
    for name in [name for name in valid if not valid[name]]:
        raise UserError(
            f"The adapter in {folder} has {name} {config[name]!r:.40}, which is none that peft"
            " computes; save the adapter again."
        )
    initialisation = config.get("init_lora_weights", True)
    unsupported = [
        name
        for name, value in config.items()
        if name not in SUPPORTED_FIELDS and value not in UNSET_VALUES
    ]
    if not (isinstance(initialisation, bool) or initialisation in (None, *INITIALISATIONS)):
        unsupported.append("init_lora_weights")
    if unsupported:
        raise UserError(
            f"The adapter in {folder} uses {unsupported[0]} ({config[unsupported[0]]!r:.40}), which"
            " is not computed here; merge it into its base with peft (merge_and_unload) and give"
            " the merged model."
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
    targets = _target_modules(folder, config, shapes)
    for pattern in config.get("modules_to_save") or ():
        pattern_re = re.compile(rf"(^|\.){re.escape(pattern)}\.")
        saved = [name for name in shapes if pattern_re.search(name)]
        if missing := [name for name in saved if name not in tensors]:
            raise _incomplete_adapter(folder, missing, len(saved), "modules_to_save")
        if not saved:
            raise UserError(
                f"The adapter in {folder} saves the module {pattern!r} (modules_to_save), which its"
                " base has not; give an adapter of this base."
            )
    if unnamed := sorted(adapted - targets):
        raise UserError(
            f"The adapter in {folder} holds tensors of {unnamed[0]}, which its target_modules do"
            " not name; peft would leave them out. Save the adapter again."
        )
    needed = [
        f"{module}.lora_embedding_{side}"
        if is_embedding(module)
        else f"{module}.lora_{side}.weight"
        for module in sorted(targets | adapted)
        for side in "AB"
    ]
    if missing := [name for name in needed if name not in low_rank]:
        raise _incomplete_adapter(folder, missing, len(needed), "target_modules")


def is_embedding(module: str) -> bool:
    """Whether a module is an embedding, whose adapter peft computes otherwise."""
    return module.endswith(("embed_tokens", "embedding"))


def expected_shape(name: str, weight: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an adapter's tensor must have for its ``weight``, given the tensor's own
    rank."""
    if ".lora_" not in name:
        return weight
    rows, columns = weight[0], weight[-1]
    rank = shape[0] if re.search(r"lora_(embedding_)?A", name) else shape[-1]
    if len(weight) != 2:
        return shape[:1] + weight[1:] if ".lora_A." in name else weight[:1] + shape[1:]
    if ".lora_embedding_" in name:
        rows, columns = columns, rows
    return (rank, columns) if re.search(r"lora_(embedding_)?A", name) else (rows, rank)


def check_ranks(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise UserError for a tensor of another rank than the settings say: peft scales by the
    latter."""
    for name, shape in tensors.items():
        module, low_rank, side = name.partition(".lora_")
        if not low_rank:
            continue
        rank = shape[0] if side.removeprefix("embedding_").startswith("A") else shape[1]
        stated_rank = _pattern_value(config.get("rank_pattern"), module, config.get("r", 8))
        if rank != stated_rank:
            raise UserError(
                f"The adapter in {folder} has rank {stated_rank} for {module} (r, rank_pattern),"
                f" and {name} is {list(shape)}; save the adapter again."
            )


def check_tied(folder: Path, parameters: Mapping[str, Any], weights: Collection[str]) -> None:
    """Raise UserError for an adapter of a weight that the model uses twice.

    peft changes one use while the adapter is loaded and both when it is merged.

    Args:
        named: the model's parameters, tied ones under each name.
        weights: the names of those that the adapter changes.
    """
    for weight in sorted(weights):
        for other, parameter in parameters.items():
            if other != weight and parameter is parameters[weight]:
                raise UserError(
                    f"The adapter in {folder} changes {weight}, which is {other} too in this base"
                    " (tie_word_embeddings); this is not computed here. Merge it into its base"
                    " with peft (merge_and_unload) and give the merged model."
                )


def set_patterns(config: Any, modules: Collection[str]) -> None:
    """Replace the patterns of peft's ``config`` by the modules' own names, where they may use names
    of earlier versions of transformers."""
    for field, default in (("rank_pattern", config.r), ("alpha_pattern", config.lora_alpha)):
        if pattern := getattr(config, field):
            values = {
                module: _pattern_value(pattern, module, default) for module in sorted(modules)
            }
            setattr(config, field, {f"^{re.escape(name)}": value for name, value in values.items()})


def _pattern_value(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """A pattern's value for a module, as peft finds it; ``plain`` where no key fits."""
    from peft.utils.other import get_pattern_key  # slow to import

    if pattern:
        for name in _module_names(module):
            if (key := get_pattern_key(list(pattern), name)) in pattern:
                return pattern[key]
    return default


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < abs(value) < 1e9


def _is_pattern(value: Any, kind: Any) -> bool:
    try:
        return value is None or all(
            re.compile(name) and isinstance(number, kind) and _is_number(number)
            for name, number in value.items()
        )
    except (AttributeError, re.error):
        return False


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _incomplete_adapter(folder: Path, missing: list[str], count: int, field: str) -> UserError:
    return UserError(
        f"The adapter in {folder} is half there: {len(missing)} of the {count} tensors that its"
        f" {field} name are missing, such as {missing[0]}; save or download it again."
    )


def _target_modules(
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
        peft_config = LoraConfig(**{name: config.get(name) for name in TARGET_FIELDS})
        return {
            name
            for name in modules
            if any(check_target_module_exists(peft_config, alias) for alias in _module_names(name))
        }
    except (ValueError, TypeError, re.error) as error:
        raise UserError(
            f"{folder}/adapter_config.json is not one that peft reads"
            f" ({str(error).splitlines()[0]}); save the adapter again."
        ) from error


def _module_names(module: str) -> list[str]:
    return [module, *(re.sub(new, old, module) for new, old in OLD_NAMES)]
