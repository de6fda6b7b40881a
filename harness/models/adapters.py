"""LoRA adapters (Hu et al., arXiv 2106.09685) as files in peft's format, and merging them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.errors import UserError
from harness.models.adapter_checks import check_complete, check_settings
from harness.models.alignment import aligned
from harness.models.checkpoints import check_precision, read_json, tensor_shapes

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
    if not adapter.get("base_model_name_or_path"):
        raise UserError(
            f"{folder}/{CONFIG} does not name its base (base_model_name_or_path); add it."
        )
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds no {WEIGHTS}; save the adapter as safetensors (a .bin is not read)."
        )
    tensor_shapes(folder / WEIGHTS)
    check_precision(folder / WEIGHTS)
    check_settings(folder, adapter)
    return {**adapter, **(read_json(folder / RECORD) if (folder / RECORD).is_file() else {})}


def check_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the adapter fits a model with parameters of these ``shapes``; loads no tensors.

    Each low-rank tensor must have a weight of matching width. Every other tensor replaces a
    parameter and must have its shape.

    Raises:
        UserError: the adapter belongs to another architecture or size.
    """
    tensors = {renamed(name): shape for name, shape in tensor_shapes(folder / WEIGHTS).items()}
    strange = sorted(name for name in tensors if _weight(name) not in shapes)
    if strange or not any(".lora_" in name for name in tensors):
        raise UserError(
            f"The adapter in {folder} is of another architecture: it holds"
            f" {strange[0] if strange else 'no LoRA tensor'}, which this base has not; give an"
            " adapter of transformers' own model, or the merged model."
        )
    for name, shape in tensors.items():
        weight = shapes[_weight(name)]
        if ".lora_A." in name:
            fits = shape[-1:] == weight[1:]
        elif ".lora_B." in name:
            fits = shape[:1] == weight[:1]
        else:
            fits = ".lora_" in name or shape == weight
        if not fits:
            raise UserError(
                f"The adapter in {folder} is of a base of another size: {name} is {list(shape)},"
                f" the weight it belongs to {list(weight)}; give an adapter of this base, or the"
                " merged model."
            )
    check_complete(folder, read_json(folder / CONFIG), tensors, shapes)


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the folder's adapter merged, and fully trained modules put in place.

    The adapter's tensors keep their own precision until the sum is rounded to the weight's
    precision, as in training.

    Raises:
        UserError: the adapter does not fit the model, or its file is cut or damaged.
    """
    # Imported here: peft is slow to import, and few runs merge an adapter.
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    named = model.named_parameters(remove_duplicate=False)
    check_adapter(folder, {name: tuple(value.shape) for name, value in named})
    stored = load_file(folder / WEIGHTS)
    tensors = {renamed(name): aligned(tensor) for name, tensor in stored.items()}
    low_rank = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    with torch.no_grad():
        for name in tensors.keys() - low_rank.keys():
            model.get_parameter(name).copy_(tensors[name])
    config = LoraConfig.from_pretrained(folder)
    config.target_modules = "|".join(sorted({re.escape(_module(name)) for name in low_rank}))
    config.modules_to_save, config.inference_mode = None, True
    wrapped = LoraModel(model, {"default": config}, "default")
    for name, parameter in wrapped.named_parameters():
        tensor = low_rank.get(name.removeprefix("model.").replace(".default.", "."))
        if tensor is not None:
            # peft creates them in the weights' precision, which would round a float32 adapter
            # before it is merged.
            parameter.data = parameter.data.to(tensor.dtype)
    loaded = set_peft_model_state_dict(
        wrapped, {f"model.{name}": tensor for name, tensor in low_rank.items()}
    )
    if loaded.unexpected_keys:
        raise UserError(
            f"The adapter in {folder} does not fit its base: {loaded.unexpected_keys[0]} has no"
            " place in it."
        )
    return wrapped.merge_and_unload()


def _module(name: str) -> str:
    return name.partition(".lora_")[0]


def _weight(name: str) -> str:
    """The parameter that an adapter's tensor changes."""
    return f"{_module(name)}.weight" if ".lora_" in name else name


def renamed(name: str) -> str:
    """A tensor's name in transformers 5, without peft's prefix.

    Earlier versions have ``language_model.model`` for ``model.language_model``, and no ``model.``
    before the projector.
    """
    name = name.removeprefix("base_model.model.")
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return re.sub(r"^(multi_modal_projector|visual)\.", r"model.\1.", name)
