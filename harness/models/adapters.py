"""LoRA adapters (Hu et al., arXiv 2106.09685) as files in peft's format, and loading them.

On a float32 base they are merged. On a base in half precision they stay beside the weights, because
a sum rounded to half precision loses most of a small update."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError
from harness.models import adapter_checks
from harness.models.alignment import aligned
from harness.models.checkpoints import check_precision, read_json, tensor_shapes
from harness.models.find_family import family_of

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "selfsight.json"
"""An adapter's files: peft's two, and ours with ``parent_weights``, the fingerprint of the weights
it was trained on. It is a separate file because peft warns of fields it does not have."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The base that an adapter was trained on."""

    name: str
    """A hub id, a card's name, or a folder (relative to the adapter within one results folder)."""
    revision: str | None = None
    """The commit of a hub id."""
    weights: str | None = None
    """The fingerprint of a folder's weights."""
    adapter: str | None = None
    """The fingerprint of the adapter beside the folder, which can replace the merged model."""
    card: str | None = None
    """The name of the card, where several cards have one hub id."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone, without a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def saved_model(folder: Path) -> Path:
    """The folder that holds a round's model: ``train/model`` itself or, where the adapters were not
    merged, ``train/adapter`` beside it."""
    lora = folder.parent / "adapter"
    return lora if folder.name == "model" and not folder.is_dir() and lora.is_dir() else folder


def read_adapter(folder: Path) -> dict[str, Any]:
    """The fields of adapter_config.json and, where it exists, of our own record.

    Raises:
        UserError: it is no LoRA adapter, names no base, or its safetensors are missing or cut.
    """
    adapter = read_json(folder / CONFIG)
    if adapter.get("peft_type") != "LORA":
        raise UserError(
            f"The adapter in {folder} is of type {adapter.get('peft_type')!r}; only LORA adapters"
            " can be merged."
        )
    if not isinstance(adapter.get("base_model_name_or_path") or None, str):
        raise UserError(
            f"{folder}/{CONFIG} does not name its base (base_model_name_or_path); add it."
        )
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds no {WEIGHTS}; save the adapter as safetensors (a .bin is not read)."
        )
    check_precision(folder / WEIGHTS)
    adapter_checks.check_settings(folder, adapter)
    if not isinstance(adapter.get("revision"), str | None):
        raise UserError(
            f"{folder}/{CONFIG}: revision is no text; give the commit of its base, or null."
        )
    return {**adapter, **(read_json(folder / RECORD) if (folder / RECORD).is_file() else {})}


def check_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the adapter fits a model with parameters of these ``shapes``; loads no tensors.

    Each low-rank tensor must have a weight of matching width. Every other tensor replaces a
    parameter and must have its shape.

    Raises:
        UserError: the adapter belongs to another architecture or size.
    """
    stored = tensor_shapes(folder / WEIGHTS)
    tensors = {current_name(name, shapes): shape for name, shape in stored.items()}
    if len(tensors) < len(stored):
        raise UserError(
            f"The adapter in {folder} holds a tensor twice, under names of two versions of"
            " transformers; save it again."
        )
    unknown = sorted(name for name in tensors if _weight_name(name) not in shapes)
    if unknown or not any(".lora_" in name for name in tensors):
        raise UserError(
            f"The adapter in {folder} is of another architecture: it holds"
            f" {unknown[0] if unknown else 'no LoRA tensor'}, which this base has not; give an"
            " adapter of transformers' own model, or the merged model."
        )
    for name, shape in tensors.items():
        weight = shapes[_weight_name(name)]
        if shape != adapter_checks.expected_shape(name, weight, shape):
            raise UserError(
                f"The adapter in {folder} is of a base of another size: {name} is {list(shape)},"
                f" the weight it belongs to {list(weight)}; give an adapter of this base, or the"
                " merged model."
            )
    config = read_json(folder / CONFIG)
    adapter_checks.check_complete(folder, config, tensors, shapes)
    adapter_checks.check_ranks(folder, config, tensors)


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the folder's adapter merged, and fully trained modules put in place.

    The adapter's tensors keep their own precision until the sum is rounded to the weight's
    precision, as in training.

    Raises:
        UserError: the adapter does not fit the model, or its file is cut or damaged.
    """
    return _add_adapter(model, folder, "default").merge_and_unload()


def attach_adapter(model: Any, folder: Path) -> Any:
    """The model with the folder's adapter beside its weights, frozen, in the precision of its file;
    adapters that the model has stay active. A trained projector keeps its precision, too; any other
    fully trained module is rounded to the weights' precision.

    Raises:
        UserError: as in :func:`merge_adapter`.
    """
    _add_adapter(model, folder, f"fixed{len(adapter_names(model))}")
    activate(model)
    return model.requires_grad_(False)


def _add_adapter(model: Any, folder: Path, adapter: str) -> Any:
    """peft's LoraModel with the folder's tensors under the name ``adapter``."""
    # Imported here: peft is slow to import, and few runs load an adapter.
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    parameters = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    check_adapter(folder, {name: tuple(value.shape) for name, value in parameters.items()})
    stored = load_file(folder / WEIGHTS)
    tensors = {current_name(name, parameters): aligned(tensor) for name, tensor in stored.items()}
    low_rank = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    adapter_checks.check_tied(folder, parameters, {_weight_name(name) for name in tensors})
    projector = family_of(model).projector
    for name in tensors.keys() - low_rank.keys():
        match = re.match(projector, name)
        if match and parameters[name].dtype.itemsize < tensors[name].dtype.itemsize:
            _cast_inputs(model.get_submodule(match[0].rstrip(".")))
            parameters[name].data = parameters[name].data.to(tensors[name].dtype)
        with torch.no_grad():
            parameters[name].copy_(tensors[name])
    config = LoraConfig.from_pretrained(folder)
    config.target_modules = "|".join(sorted({re.escape(_module_name(name)) for name in low_rank}))
    config.modules_to_save, config.inference_mode = None, True
    adapter_checks.set_patterns(config, {_module_name(name) for name in low_rank})
    wrapped = LoraModel(model, {adapter: config}, adapter)
    del model.peft_config  # with it, peft warns of a second adapter
    for name, parameter in wrapped.named_parameters():
        plain_name = re.sub(rf"\.{adapter}(\.|$)", r"\1", name)
        tensor = low_rank.get(plain_name.removeprefix("model."))
        if tensor is not None and plain_name != name:
            # peft creates them in the weights' precision, which would round a float32 adapter.
            parameter.data = parameter.data.to(tensor.dtype)
    loaded = set_peft_model_state_dict(
        wrapped, {f"model.{name}": tensor for name, tensor in low_rank.items()}, adapter
    )
    if loaded.unexpected_keys:
        raise UserError(
            f"The adapter in {folder} does not fit its base: {loaded.unexpected_keys[0]} has no"
            " place in it."
        )
    return wrapped


def _cast_inputs(module: nn.Module) -> None:
    """Let a module take inputs of another precision than its weights'."""

    def cast(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        precision = next(module.parameters()).dtype
        return tuple(tensor.to(precision) for tensor in inputs)

    if not module._forward_pre_hooks:
        module.register_forward_pre_hook(cast)


def is_adapted(module: Any) -> bool:
    """Whether the module is peft's plain LoRA layer around a linear map, with all its adapters
    beside the weights."""
    return (
        type(module).__name__ == "Linear"
        and hasattr(module, "lora_A")
        and not (module.lora_variant or module.merged or module.disable_adapters)
        and not any(module.lora_bias.values())
    )


def lora_layers(model: nn.Module) -> Iterator[Any]:
    """The model's modules with adapters (peft's LoraLayer)."""
    return (module for module in model.modules() if hasattr(module, "lora_A"))


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the adapters of all modules, in the order in which they were added."""
    return list(dict.fromkeys(name for layer in lora_layers(model) for name in layer.lora_A))


def activate(model: nn.Module) -> None:
    """Make every adapter of every module count: the weight is W + B1 A1 + B2 A2 + ..."""
    names = adapter_names(model)
    for layer in lora_layers(model):
        layer.set_adapter(names)


def _module_name(name: str) -> str:
    return name.partition(".lora_")[0]


def _weight_name(name: str) -> str:
    """The parameter that an adapter's tensor changes."""
    return f"{_module_name(name)}.weight" if ".lora_" in name else name


def current_name(name: str, shapes: Collection[str]) -> str:
    """A tensor's name in a model with parameters of these names (``shapes``), without peft's
    prefix; earlier versions of transformers have other names (adapter_checks.NEW_NAMES)."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    for old, new in adapter_checks.NEW_NAMES:
        if _weight_name(name) in shapes:
            break
        name = re.sub(old, new, name)
    return name
