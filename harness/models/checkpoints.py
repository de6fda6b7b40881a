"""Checkpoints as files: what a folder or a hub repository holds, whether it is whole, and the
sentence for what is wrong with it.

Nothing here loads a model; :func:`merge_adapter` folds a LoRA adapter into a loaded one, and
:func:`align` copies a loaded one's tensors to where torch would have put them.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the fork of it that this version speaks through
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import UserError
from harness.models.find_family import ARCHITECTURES, supported

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
INDEX = "model.safetensors.index.json"
CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "selfsight.json"
"""An adapter's files: peft's two, and ours, which says by ``parent_weights`` what it was trained
on. It is a file of its own because peft warns of fields that it does not know."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What an adapter sits on: a hub id with its commit (``revision``), or a card's name or a
    folder (seen from the adapter's, where it lies in the same results) with the fingerprint of its
    ``weights``, and that of the ``adapter`` beside it where there is one: it may stand for the
    model."""

    name: str
    revision: str | None = None
    weights: str | None = None
    adapter: str | None = None


def is_hub_id(name: str) -> bool:
    """Whether a text may be a hub id (``org/name`` or ``org/name@revision``); it says nothing about
    whether it is there."""
    return bool(HUB_ID.fullmatch(name))


def plain(name: str) -> str:
    """A folder's or hub repository's name as it may stand in a label: ``org/name`` becomes
    ``org--name``."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name.replace("/", "--")).strip("-._ ") or "checkpoint"


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} holds no {path.name}; give the folder of a saved model or of a LoRA"
            " adapter."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); save or download the model again."
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; save or download the model again.")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        UserError: it is not there, or names an architecture that is not supported.
    """
    config = read_json(folder / "config.json")
    named = ", ".join(config.get("architectures") or ()) or "no architecture"
    kind = config.get("model_type")
    # The original repository's checkpoints call themselves "llava" too, but are a LLaMA with
    # images bolted on.
    if kind in ("llava_llama", "llava") and "LlavaLlamaForCausalLM" in named:
        raise UserError(
            f"{folder} holds a LLaVA in the original repository's format ({named}); convert it to"
            " transformers' format with transformers' convert_llava_weights_to_hf.py and give the"
            " folder it writes."
        )
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{folder} holds a model of type {kind!r} ({named}); supported are {supported()}."
        )
    return config


def read_adapter(folder: Path) -> dict[str, Any]:
    """The folder's adapter_config.json, and ``parent_weights`` of our own record where there is
    one.

    Raises:
        UserError: it is no LoRA adapter, names no base, or has no whole safetensors weights.
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
    _whole(folder / WEIGHTS)
    return {**adapter, **(read_json(folder / RECORD) if (folder / RECORD).is_file() else {})}


def check_files(folder: Path) -> int:
    """Bytes of the folder's weights.

    Raises:
        UserError: there are none, a shard that the index names is missing, or a file is shorter
            than its header says.
    """
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise UserError(
                f"{folder} is half there: {len(missing)} of {len(names)} weight files that its"
                f" index names are missing, such as {missing[0]}; finish the download."
            )
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = next(iter([*folder.glob("*.bin"), *folder.glob("*.pth")]), None)
        hint = (
            f" {other.name} is a torch file, which is not read: convert it to safetensors."
            if other
            else ""
        )
        raise UserError(
            f"{folder} holds no *.safetensors weights; give the folder of a saved model.{hint}"
        )
    return sum(_whole(file) for file in files)


def _whole(file: Path) -> int:
    """The file's size, which must be what its header says: 8 bytes, the header, the tensors."""
    length, tensors = _header(file)
    size = file.stat().st_size
    if tensors is None or size != 8 + length + max((end for _, end in tensors.values()), default=0):
        raise UserError(
            f"{file} is cut or damaged ({size} bytes, not what its header says); download or save"
            " it again."
        )
    return size


def _header(file: Path) -> tuple[int, dict[str, tuple[tuple[int, ...], int]] | None]:
    """The length of a safetensors file's header, and each tensor's shape and where it ends behind
    the header (bytes); None where it cannot be read as one."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(length) if length <= file.stat().st_size else b"")
        named = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        return length, {
            name: (tuple(map(int, one["shape"])), int(one["data_offsets"][1]))
            for name, one in named.items()
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return 0, None


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over names and content of the folder's ``*.safetensors``, sorted by name and
    read in pieces; files that did not change are read once a process."""
    files = sorted(folder.resolve().glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder} holds no *.safetensors files to take a fingerprint of; give the folder of a"
            " saved model."
        )
    total = hashlib.sha256()
    for file in files:
        found = file.stat()
        total.update(f"{file.name}\0{_content(file, found.st_size, found.st_mtime_ns)}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=1024)
def _content(file: Path, size: int, changed: int) -> str:  # noqa: ARG001  (what would make it another file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def count(folder: Path) -> float:
    """The parameters of the model that the folder's config.json describes; tied ones count once."""
    return float(
        sum(
            math.prod(shape)
            for shape in _skeleton(folder / "config.json", (folder / "config.json").read_bytes())[1]
        )
    )


def shapes(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of every parameter of the model that the folder's config.json describes, by its
    name."""
    return _skeleton(folder / "config.json", (folder / "config.json").read_bytes())[0]


@lru_cache(maxsize=16)
def _skeleton(
    path: Path, content: bytes
) -> tuple[Mapping[str, tuple[int, ...]], Sequence[tuple[int, ...]]]:  # noqa: ARG001
    """All parameters' shapes by name, and those of the different ones, from a model without memory.

    Raises:
        UserError: transformers cannot build a model from this configuration.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path.parent))
    except Exception as error:  # whatever a broken configuration makes of transformers
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} describes no model that can be built ({said}); save or download the model"
            " again."
        ) from error
    named = {
        name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)
    }
    return named, [tuple(value.shape) for value in model.parameters()]


def fetch_config(id: str, revision: str | None) -> tuple[Path, str]:
    """A hub repository's config.json, or the whole of it where it is an adapter (small): the folder
    and the commit it is of.

    Raises:
        UserError: the repository, the revision or both files are not there, it is gated, or the hub
            cannot be reached.
    """
    try:
        try:
            path = Path(hf_hub_download(id, "config.json", revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            path = Path(hf_hub_download(id, CONFIG, revision=revision))
            snapshot_download(id, revision=revision, allow_patterns=[CONFIG, WEIGHTS, RECORD])
    except (OSError, HfHubHTTPError, httpx.HTTPError, ValueError) as error:
        raise why(f"The checkpoint {id!r}", id, revision, error) from error
    return path.parent, path.parent.name  # the cache's folder of a snapshot is named by its commit


def why(what: str, source: str, revision: str | None, error: BaseException) -> UserError:
    """The sentence for a model that could not be loaded; ``error`` or one it came from says which
    kind it is."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    kinds: Mapping[type[BaseException], str] = {
        GatedRepoError: (
            "it is gated: accept its terms on its page and log in with `hf auth login` (or set"
            " HF_TOKEN)"
        ),
        RevisionNotFoundError: (
            f"it has no revision {revision!r}: give one of its commits, tags or branches"
        ),
        RepositoryNotFoundError: (
            "there is no such repository, or it is private: check the id, or log in with `hf auth"
            " login`"
        ),
        LocalEntryNotFoundError: (
            "it is not in the local cache and the hub cannot be reached: go online, or give a"
            " folder that holds it"
        ),
        EntryNotFoundError: (
            "it lacks a file that is needed (config.json, or safetensors weights): give another"
            " checkpoint"
        ),
        SafetensorError: "a weight file is cut or damaged: delete it and download it again",
        httpx.TransportError: (
            "the connection to the hub broke off: run the same command again, which keeps what is"
            " there"
        ),
    }
    if any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in chain):
        return UserError(
            f"{what} could not be loaded from {source}: the disk is full; free some space below"
            f" {constants.HF_HUB_CACHE}, or set HF_HOME to another disk, and run the same command"
            " again."
        )
    for kind, text in kinds.items():
        if any(isinstance(one, kind) for one in chain):
            return UserError(f"{what} could not be loaded from {source}: {text}.")
    return UserError(
        f"{what} could not be loaded from {source}:"
        f" {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    )


ALIGNMENT = 64
"""Bytes to which torch's own allocator on the CPU aligns every tensor that it makes."""


def aligned(tensor: Tensor) -> Tensor:
    """The tensor in memory of torch's own allocator: itself, or a copy where its address says that
    it is not.

    Matrix products on the CPU choose their code by the address, and the codes round differently.
    Tensors read from a file lie where the file's header ends, so without the copy a saved and
    loaded model gives other bits than the one in memory.
    """
    if tensor.device.type != "cpu" or tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone()


def align(model: torch.nn.Module) -> None:
    """Apply :func:`aligned` to every parameter and buffer, in place; what is tied stays tied. One
    tensor is copied at a time."""
    moved: dict[tuple[Any, ...], Tensor] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        before = tensor.data
        if (after := aligned(before)) is not before:
            # Two parameters may be views of one memory.
            place = (before.data_ptr(), before.dtype, before.shape, before.stride())
            tensor.data = moved.setdefault(place, after)


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the folder's LoRA adapter folded into its weights, and the modules put in
    place that trained in full.

    The adapter's tensors keep their own precision until the sum is rounded to the weight's, as in
    training.

    Raises:
        UserError: the adapter's tensors are not of this model's modules.
    """
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    try:
        state = {
            _renamed(name): aligned(tensor) for name, tensor in load_file(folder / WEIGHTS).items()
        }
    except SafetensorError as error:
        raise why("The adapter", str(folder), None, error) from error
    check_adapter(
        folder,
        {
            name: tuple(value.shape)
            for name, value in model.named_parameters(remove_duplicate=False)
        },
    )
    low = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    with torch.no_grad():
        for name in state.keys() - low.keys():
            model.get_parameter(name).copy_(state[name])
    config = LoraConfig.from_pretrained(folder)
    config.target_modules = "|".join(
        sorted({re.escape(name.partition(".lora_")[0]) for name in low})
    )
    config.modules_to_save, config.inference_mode = None, True
    wrapped = LoraModel(model, {"default": config}, "default")
    for name, parameter in wrapped.named_parameters():
        if (stored := low.get(name.removeprefix("model.").replace(".default.", "."))) is not None:
            # peft makes them in the weights' precision: what trained in float32 would be rounded
            # before it is merged.
            parameter.data = parameter.data.to(stored.dtype)
    loaded = set_peft_model_state_dict(
        wrapped, {f"model.{name}": tensor for name, tensor in low.items()}
    )
    if loaded.unexpected_keys:
        raise UserError(
            f"The adapter in {folder} does not fit its base: {loaded.unexpected_keys[0]} has no"
            " place in it."
        )
    return wrapped.merge_and_unload()


def check_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError unless the folder's adapter has its place in a model whose parameters have
    these ``shapes``: its modules are there, low-rank tensors are as wide as the weights below them,
    and others have their parameter's very shape. Reads no tensors."""
    state = {
        _renamed(name): shape for name, (shape, _) in (_header(folder / WEIGHTS)[1] or {}).items()
    }
    strange = sorted(name for name in state if _weight(name) not in shapes)
    if strange or not any(".lora_" in name for name in state):
        raise UserError(
            f"The adapter in {folder} is of another architecture: it holds"
            f" {strange[0] if strange else 'no LoRA tensor'}, which this base has not; give an"
            " adapter of transformers' own model, or the merged model."
        )
    for name, mine in state.items():
        weight = shapes[_weight(name)]
        if ".lora_A." in name:
            fits = mine[-1:] == weight[1:]
        elif ".lora_B." in name:
            fits = mine[:1] == weight[:1]
        else:
            fits = ".lora_" in name or mine == weight
        if not fits:
            raise UserError(
                f"The adapter in {folder} is of a base of another size: {name} is {list(mine)}, the"
                f" weight it belongs to {list(weight)}; give an adapter of this base, or the merged"
                " model."
            )


def _weight(name: str) -> str:
    """The parameter that an adapter's tensor changes."""
    module, low_rank, _ = name.partition(".lora_")
    return f"{module}.weight" if low_rank else name


def _renamed(name: str) -> str:
    """A tensor's name in transformers 5, without peft's prefix: earlier versions put ``model``
    behind ``language_model``, not before it, and nothing before the projector."""
    name = name.removeprefix("base_model.model.")
    name = re.sub(r"^language_model\.model\.", "model.language_model.", name)
    return re.sub(r"^(multi_modal_projector|visual)\.", r"model.\1.", name)
