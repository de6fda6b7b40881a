"""A saved model's folder: its configuration, whether its files are complete, its fingerprint.

Nothing here loads weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText

from harness.artifacts.stored_files import file_sha
from harness.errors import UserError
from harness.models.find_family import ARCHITECTURES, supported
from harness.models.own_code import without_own_code

INDEX = "model.safetensors.index.json"
"""Names the file of each tensor, where the weights are in several files."""

SINGLE = "model.safetensors"
"""Holds all weights, where there is no index."""
FILE_NAME = re.compile(r"[^/\\\0]+\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")
"""The name of a large file in the hub's cache: its content's."""
TORCH_NAME = re.compile(r"[\w.-]+\.bin")
PRECISIONS = ("BF16", "F16", "F32", "F64")
"""The precisions of stored weights, as safetensors names them."""
BUFFERS = ("position_ids", "inv_freq", "num_batches_tracked")
"""Ends of the names of stored tensors that are no weights."""
MAX_LAYERS = 1000
"""The largest number of layers in a configuration."""


def label_of(name: str) -> str:
    """A folder's or hub repository's name as a label: ``org/name`` becomes ``org--name``."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name.replace("/", "--")).strip("-._ ") or "checkpoint"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's or adapter's file.

    Raises:
        UserError: the file is missing, unreadable or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} holds no {path.name}; give the folder of a saved model or of a LoRA"
            " adapter."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({str(error).splitlines()[0]}){wrong_file_hint(path)};"
            " save or download the model again."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; save or download the model again.")
    return content


def wrong_file_hint(path: Path) -> str:
    """Words for a message if a download left a known wrong file in this place; else empty."""
    try:
        with path.open("rb") as stream:
            start = stream.read(200).lstrip().lower()
    except OSError:
        return ""
    if start.startswith(b"version https://git-lfs"):
        return ", because it is a Git LFS pointer (git lfs pull brings the file)"
    if start.startswith((b"<!doctype", b"<html")):
        return ", because it is an HTML page"
    return ""


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        UserError: it is missing, or its architecture is not supported.
    """
    config = read_json(folder / "config.json")
    classes = config.get("architectures")
    class_names = ", ".join(map(str, classes)) if isinstance(classes, list) else ""
    class_names, model_type = class_names or "no architecture", str(config.get("model_type"))
    # The original repository's checkpoints also have the type "llava", but another layout.
    if model_type in ("llava_llama", "llava") and "LlavaLlamaForCausalLM" in class_names:
        raise UserError(
            f"{folder} holds a LLaVA in the original repository's format ({class_names}); convert"
            f" it with python -m harness convert {folder} --out NEW and give the folder it writes."
        )
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"{folder} holds a model of type {model_type!r} ({class_names}); supported are"
            f" {supported()}."
        )
    return config


def check_files(folder: Path) -> int:
    """The size of the folder's weights in bytes.

    Raises:
        UserError: there are no safetensors, a file that the index names is missing, or a file is
            cut or damaged.
    """
    if (folder / INDEX).is_file():
        if (folder / SINGLE).is_file() and SINGLE not in indexed_files(folder):
            raise UserError(
                f"{folder} holds {SINGLE} and {INDEX}, which names other files; delete the one that"
                " is not of this model."
            )
        files = complete_index(folder)
    else:
        files = [path for path in (folder / SINGLE,) if os.path.lexists(path)]
    if not files:
        hint = ""
        for other in [*folder.glob("*.safetensors")][:1]:
            hint = f" {other.name} is not read: it must be named {SINGLE}, or {INDEX} must name it."
        for other in [*folder.glob("*.bin"), *folder.glob("*.pth")][:1]:
            hint = f" {other.name} is a torch file, which is not read: convert it to safetensors."
        raise UserError(
            f"{folder} holds no *.safetensors weights that are read; give the folder of a saved"
            f" model.{hint}"
        )
    for file in files:
        check_precision(file)
    return sum(file.stat().st_size for file in files)


def weight_files(folder: Path) -> list[Path]:
    """The files that loading a model or an adapter reads its weights from, sorted by name; files
    beside them do not count."""
    if (folder / INDEX).is_file():
        return [folder / name for name in indexed_files(folder)]
    single = [folder / name for name in (SINGLE, "adapter_model.safetensors")]
    return [file for file in single if file.is_file()] or sorted(folder.glob("*.safetensors"))


def indexed_files(folder: Path, index: str = INDEX) -> list[str]:
    """The names of the weight files in the folder's index, sorted. The index of torch files, which
    only a conversion reads, names torch files.

    Raises:
        UserError: the index is broken, or names a file outside of the folder.
    """
    file_type, pattern = ("safetensors", FILE_NAME) if index == INDEX else ("torch", TORCH_NAME)
    files = read_json(folder / index).get("weight_map")
    names = list(files.values()) if isinstance(files, dict) else []
    if not names or not all(isinstance(name, str) and pattern.fullmatch(name) for name in names):
        raise UserError(
            f"{folder / index} does not name a {file_type} file of its folder for each tensor"
            " (weight_map); save or download the model again."
        )
    return sorted(set(names))


def complete_index(folder: Path, index: str = INDEX) -> list[Path]:
    """The weight files of the folder's index, all there.

    Raises:
        UserError: the index is broken, or a file is missing.
    """
    files = [folder / name for name in indexed_files(folder, index)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{folder} is half there: {len(missing)} of {len(files)} weight files that its index"
            f" names are missing, such as {missing[0]}; finish the download."
        )
    return files


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file, from its header alone.

    Raises:
        UserError: the file is cut or damaged: its size is not what its header states.
    """
    return {name: shape for name, (_, shape) in _header(file).items()}


def check_precision(file: Path) -> None:
    """Raise UserError for a file that is cut, or whose weights are integers or quantised."""
    for name, (precision, _) in _header(file).items():
        # Early versions of transformers saved positions and tables with the weights.
        if precision not in PRECISIONS and not name.endswith(BUFFERS):
            raise UserError(
                f"{file} holds {name} as {precision}; only {', '.join(PRECISIONS)} are read, no"
                " quantised weights. Give the model in one of these."
            )


def _header(file: Path) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """The precision and shape of each tensor; a process reads an unchanged file once."""
    try:
        stat = file.stat()
        return _read_header(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is cut or damaged ({error}){wrong_file_hint(file)}; download or save it again."
        ) from error


@lru_cache(maxsize=256)
def _read_header(
    file: Path, _inode: int, _size: int, _changed: int
) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    with safe_open(file, framework="np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (view.get_dtype(), tuple(view.get_shape())) for name, view in slices.items()}


def weights_fingerprint(folder: Path, *, downloaded: bool = False) -> str:
    """SHA-256 (hex) of the names and contents of the folder's weight files, sorted by name.

    A process reads an unchanged file once.

    Args:
        downloaded: the folder is a hub model's in the local cache. There a large file is named by
            its SHA-256. The name is taken if the file's size is what its header states; loading
            compares the content (:func:`harness.models.hub_snapshots.fetch`).

    Raises:
        UserError: there are none.
    """
    files = weight_files(folder.resolve())
    if not files:
        raise UserError(
            f"{folder} holds no *.safetensors files to take a fingerprint of; give the folder of a"
            " saved model."
        )
    digest = hashlib.sha256()
    for file in files:
        sha = (downloaded and _sha_in_cache(file)) or content_sha(file)
        digest.update(f"{file.name}\0{sha}\n".encode())
    return digest.hexdigest()


def _sha_in_cache(file: Path) -> str | None:
    """The SHA-256 that names the file in the hub's cache; None: it has another name, or is cut."""
    name = file.resolve().name
    try:
        tensor_shapes(file)
    except UserError:
        return None
    return name if SHA256.fullmatch(name) else None


def content_sha(file: Path) -> str:
    """SHA-256 (hex) of a file's content; a process reads an unchanged file once.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file_sha(file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); download or save it again."
        ) from error


def count_parameters(folder: Path) -> float:
    """The parameters of the model that config.json describes; tied ones count once."""
    return _meta_model(folder / "config.json", (folder / "config.json").read_bytes())[1]


def parameter_shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of every parameter, by name, of the model that config.json describes."""
    return _meta_model(folder / "config.json", (folder / "config.json").read_bytes())[0]


def check_size(folder: Path) -> None:
    """Compare config.json with the headers of the weights, before anything is built.

    Raises:
        UserError: config.json describes a model of more than twice as many parameters as the files
            hold. A few absent weights are found when they are loaded.
    """
    described = count_parameters(folder)
    shapes = [shape for file in weight_files(folder) for shape in tensor_shapes(file).values()]
    stored = float(sum(math.prod(shape) for shape in shapes))
    if described > 2 * stored:
        raise UserError(
            f"{folder}/config.json describes {described:,.0f} parameters, the weights beside it"
            f" hold {stored:,.0f}; give the config.json that was saved with these weights (it needs"
            " text_config and vision_config)."
        )


@lru_cache(maxsize=16)
def _meta_model(path: Path, content: bytes) -> tuple[Mapping[str, tuple[int, ...]], float]:  # noqa: ARG001
    """Shapes by name, and the number of parameters, of a model built without memory.

    Raises:
        UserError: transformers cannot build a model from this configuration.
    """
    try:
        with without_own_code(str(path.parent)):
            config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
        for section in (config, getattr(config, "text_config", None), config.vision_config):
            for name in ("num_hidden_layers", "depth"):
                if (layers := getattr(section, name, 0) or 0) > MAX_LAYERS:
                    raise ValueError(f"{name} is {layers}, more than {MAX_LAYERS}")
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # a broken configuration can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} describes no model that can be built ({reason}); save or download the model"
            " again."
        ) from error
    parameters = model.named_parameters(remove_duplicate=False)
    shapes = {name: tuple(value.shape) for name, value in parameters}
    return shapes, float(sum(math.prod(value.shape) for value in model.parameters()))
