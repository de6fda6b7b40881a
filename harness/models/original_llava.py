"""Checkpoints in the format of the original LLaVA repository: their files, names and settings.

Torch files are read by torch's weights-only loader, mapped from the disk: only tensors that are
used come into memory, and no code of a checkpoint runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import UserError
from harness.models.checkpoints import BUFFERS, complete_index, wrong_file_hint

CLASS = "LlavaLlamaForCausalLM"
"""The original's class, as its config.json names it."""
OTHER_WEIGHTS = "non_lora_trainables.bin"
"""A LoRA folder's weights that are no low-rank matrices, such as the projector's."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NAME_PATTERNS = (
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "model.vision_tower."),
    (r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1"),
)
"""Beginnings of the original's names and of transformers'."""
SHARED_SETTINGS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    " rms_norm_eps hidden_act".split()
)
"""Settings of the language model that must be the base's."""


def check_original_settings(folder: Path, config: Mapping[str, Any], base: Any) -> None:
    """Compare an original config.json with the base's configuration (transformers' LlavaConfig).

    Raises:
        UserError: it is of LLaVA-1.6, of another language model or projector, or its images are
            read otherwise.
    """
    start, classes = f"{folder} cannot be converted:", str(config.get("architectures"))
    if "LlavaForConditionalGeneration" in classes:
        raise UserError(f"{folder} is in transformers' format already; give it as it is.")
    if CLASS not in classes:
        raise UserError(
            f"{start} its config.json names {classes}, another language model; only the original"
            f" LLaVA-1.5's {CLASS} is read."
        )
    shape, merge = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type") or "flat"
    if "anyres" in str(shape) or merge != "flat" or "image_newline" in config:
        raise UserError(
            f"{start} it is a LLaVA-1.6 (image_aspect_ratio {shape!r}, mm_patch_merge_type"
            f" {merge!r}); only LLaVA-1.5 is read."
        )
    if (projector := config.get("mm_projector_type", "linear")) != "mlp2x_gelu":
        raise UserError(
            f"{start} its projector is {projector!r}, LLaVA-1.5's has two layers (mlp2x_gelu); give"
            " a LLaVA-1.5."
        )
    text, strategy = base.text_config, base.vision_feature_select_strategy
    expected = {name: getattr(text, name) for name in SHARED_SETTINGS} | {
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_scaling": None,
        "mm_hidden_size": base.vision_config.hidden_size,
        "mm_vision_select_layer": base.vision_feature_layer,
        "mm_vision_select_feature": "patch" if strategy == "default" else "cls_patch",
    }
    defaults = {
        "num_key_value_heads": config.get("num_attention_heads"),
        "rope_theta": 10000.0,
        "mm_vision_select_feature": "patch",
    }
    for name, needed in expected.items():
        value = config.get(name) or defaults.get(name, config.get(name))
        if value != needed:
            raise UserError(
                f"{start} its {name} is {value!r}, the base's {needed!r}; it is of another language"
                " model or size. Give its own base with --base."
            )


def check_tower(folder: Path, config: Mapping[str, Any], vision: Any) -> None:
    """Check that the base's tower can replace the one that the checkpoint's files lack.

    Raises:
        UserError: the checkpoint names a CLIP of another size, or it trained its tower.
    """
    tower = str(config.get("mm_vision_tower"))
    sizes = re.search(r"patch(\d+)(?:-(\d+))?$", tower)
    tower_sizes = (int(sizes[1]), int(sizes[2] or 224)) if sizes else None
    if tower_sizes is not None and tower_sizes != (vision.patch_size, vision.image_size):
        raise UserError(
            f"{folder} holds no vision tower and names {tower}, the base's has patches of"
            f" {vision.patch_size} in {vision.image_size} pixels; give the base of that tower."
        )
    if config.get("unfreeze_mm_vision_tower"):
        raise UserError(
            f"{folder} was trained with its vision tower (unfreeze_mm_vision_tower), which its"
            " files lack; finish the download."
        )


def read_weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors of a full checkpoint under transformers' names, and its files. Safetensors are
    taken where both kinds are there.

    Raises:
        UserError: weights are missing, damaged, of several precisions or of another projector.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / f"{single}.index.json").is_file():
            files = complete_index(folder, f"{single}.index.json")
            break
        if (folder / single).is_file():
            files = [folder / single]
            break
    else:
        raise UserError(
            f"{folder} holds no pytorch_model.bin, no model.safetensors and no index of either;"
            " give the folder of a full checkpoint or of a LoRA with its adapter_config.json."
        )
    return named_tensors(folder, files), files


def named_tensors(folder: Path, files: Iterable[Path]) -> dict[str, Tensor]:
    """The files' tensors under transformers' names, without buffers and peft's prefixes.

    Raises:
        UserError: a file is damaged, a name stands twice, the projector is another, or tensors are
            of several precisions.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        for stored, tensor in read_tensors(file).items():
            # The projects that wrap a model in LoRA twice have the prefix twice.
            original_name = re.sub(r"^(base_model\.model\.)+", "", stored).replace(".default.", ".")
            if original_name.endswith(BUFFERS):
                continue
            name = transformers_name(folder, original_name)
            if name in tensors:
                raise UserError(
                    f"{folder} holds {original_name} twice; download the checkpoint again, to a new"
                    " folder."
                )
            tensors[name] = tensor
    dtypes = {tensor.dtype: name for name, tensor in tensors.items()}
    if len(dtypes) > 1 or not set(dtypes) <= set(FLOATS):
        listing = ", ".join(f"{str(dtype)[6:]} ({name})" for dtype, name in dtypes.items())
        raise UserError(
            f"{folder} holds weights as {listing}; all must have one of the precisions float32,"
            " float16 and bfloat16. Save the checkpoint in one."
        )
    return tensors


def transformers_name(folder: Path, name: str) -> str:
    """A tensor's name in transformers' LLaVA.

    Raises:
        UserError: it belongs to LLaVA-1.6 or to a projector of another depth.
    """
    if "image_newline" in name:
        raise UserError(f"{folder} is a LLaVA-1.6 (it holds {name}); only LLaVA-1.5 is read.")
    for old, new in NAME_PATTERNS:
        if re.match(old, name):
            return re.sub(old, new, name)
    if "mm_projector" in name:
        raise UserError(
            f"{folder} has a projector of another depth (it holds {name}); LLaVA-1.5's has the"
            " layers mm_projector.0 and mm_projector.2."
        )
    return name


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, mapped from the disk.

    Raises:
        UserError: it is damaged, or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors, or is no torch file{wrong_file_hint(file)}, and was"
            " not run; download it again or save its state_dict alone."
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} is cut or damaged, or of torch before 1.6{wrong_file_hint(file)}; download or"
            " save it again."
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise UserError(f"{file} holds more than named tensors; save its state_dict alone.")
    return dict(content)
