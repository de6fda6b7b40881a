"""Checkpoints as files: what a folder or a hub repository holds, whether it is whole, and the sentence for what is wrong with it.

Nothing here loads a model but :func:`merge_adapter`, which folds a LoRA adapter into one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.errors import Problem
from harness.families.find import ARCHITECTURES, supported

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
INDEX = "model.safetensors.index.json"


def is_hub_id(name: str) -> bool:
    """Whether a text may be a hub id (``org/name`` or ``org/name@revision``); it says nothing about whether it is there."""
    return bool(HUB_ID.fullmatch(name))


def plain(name: str) -> str:
    """A folder's or hub repository's name as it may stand in a label: ``org/name`` becomes ``org--name``."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name.replace("/", "--")).strip("-._ ") or "checkpoint"


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(f"{path.parent} holds no {path.name}; give the folder of a saved model or of a LoRA adapter.") from None
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read ({error}); save or download the model again.") from None
    if not isinstance(found, dict):
        raise Problem(f"{path} is not a JSON object; save or download the model again.")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        Problem: it is not there, or names an architecture that is not supported.
    """
    config = read_json(folder / "config.json")
    named = ", ".join(config.get("architectures") or ()) or "no architecture"
    kind = config.get("model_type")
    # The original repository's checkpoints call themselves "llava" too, but are a LLaMA with pictures bolted on.
    if kind in ("llava_llama", "llava") and "LlavaLlamaForCausalLM" in named:
        raise Problem(
            f"{folder} holds a LLaVA in the original repository's format ({named}); convert it to transformers' format with "
            "transformers' convert_llava_weights_to_hf.py and give the folder it writes."
        )
    if kind not in ARCHITECTURES:
        raise Problem(f"{folder} holds a model of type {kind!r} ({named}); supported are {supported()}.")
    return config


def read_adapter(folder: Path) -> dict[str, Any]:
    """The folder's adapter_config.json.

    Raises:
        Problem: it is no LoRA adapter, names no base, or has no safetensors weights.
    """
    adapter = read_json(folder / "adapter_config.json")
    if adapter.get("peft_type") != "LORA":
        raise Problem(f"The adapter in {folder} is of type {adapter.get('peft_type')!r}; only LORA adapters can be merged.")
    if not adapter.get("base_model_name_or_path"):
        raise Problem(f"{folder}/adapter_config.json does not name its base (base_model_name_or_path); add it.")
    if not (folder / "adapter_model.safetensors").is_file():
        raise Problem(f"{folder} holds no adapter_model.safetensors; save the adapter as safetensors (a .bin is not read).")
    return adapter


def check_files(folder: Path) -> int:
    """Bytes of the folder's weights.

    Raises:
        Problem: there are none, a shard that the index names is missing, or a file is shorter than its header says.
    """
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise Problem(
                f"{folder} is half there: {len(missing)} of {len(names)} weight files that its index names are missing, such as "
                f"{missing[0]}; finish the download."
            )
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = next(iter([*folder.glob("*.bin"), *folder.glob("*.pth")]), None)
        hint = f" {other.name} is a torch file, which is not read: convert it to safetensors." if other else ""
        raise Problem(f"{folder} holds no *.safetensors weights; give the folder of a saved model.{hint}")
    return sum(_whole(file) for file in files)


def _whole(file: Path) -> int:
    """The file's size, which must be what its header says: 8 bytes, the header, the tensors."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= size else None
        ends = [entry["data_offsets"][1] for name, entry in (header or {}).items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        header, ends = None, []
    if header is None or size != 8 + length + max(ends, default=0):
        raise Problem(f"{file} is cut or damaged ({size} bytes, not what its header says); download or save it again.")
    return size


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over names and content of the folder's ``*.safetensors``, sorted by name and read in pieces."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Problem(f"{folder} holds no *.safetensors files to take a fingerprint of; give the folder of a saved model.")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256")
        total.update(f"{file.name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def fetch_config(id: str, revision: str | None) -> tuple[Path, str]:
    """A hub repository's config.json, or the whole of it where it is an adapter (small): the folder and the commit it is of.

    Raises:
        Problem: the repository, the revision or both files are not there, it is gated, or the hub cannot be reached.
    """
    try:
        try:
            path = Path(hf_hub_download(id, "config.json", revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            path = Path(hf_hub_download(id, "adapter_config.json", revision=revision))
            wanted = ["adapter_config.json", "adapter_model.safetensors", "selfsight.json"]
            snapshot_download(id, revision=revision, allow_patterns=wanted)
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise why(f"The checkpoint {id!r}", id, revision, error) from error
    return path.parent, path.parent.name  # the cache's folder of a snapshot is named by its commit


def why(what: str, source: str, revision: str | None, error: BaseException) -> Problem:
    """The sentence for a model that could not be loaded; ``error`` or one it came from says which kind it is."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    kinds: Mapping[type[BaseException], str] = {
        GatedRepoError: "it is gated: accept its terms on its page and log in with `hf auth login` (or set HF_TOKEN)",
        RevisionNotFoundError: f"it has no revision {revision!r}: give one of its commits, tags or branches",
        RepositoryNotFoundError: "there is no such repository, or it is private: check the id, or log in with `hf auth login`",
        LocalEntryNotFoundError: "it is not in the local cache and the hub cannot be reached: go online, or give a folder that "
        "holds it",
        EntryNotFoundError: "it lacks a file that is needed (config.json, or safetensors weights): give another checkpoint",
        SafetensorError: "a weight file is cut or damaged: delete it and download it again",
    }
    for kind, text in kinds.items():
        if any(isinstance(one, kind) for one in chain):
            return Problem(f"{what} could not be loaded from {source}: {text}.")
    return Problem(
        f"{what} could not be loaded from {source}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    )


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the folder's LoRA adapter folded into its weights.

    Raises:
        Problem: the adapter's tensors are not of this model's modules.
    """
    from peft import LoraConfig, LoraModel, set_peft_model_state_dict

    try:
        state = {_renamed(name): tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    except SafetensorError as error:
        raise why("The adapter", str(folder), None, error) from error
    modules = {name for name, _ in model.named_modules()}
    touched = sorted({name.removeprefix("base_model.model.").partition(".lora_")[0] for name in state if ".lora_" in name})
    strange = [name for name in touched if name not in modules] + sorted(name for name in state if ".lora_" not in name)
    if strange or not touched:
        raise Problem(
            f"The adapter in {folder} is of another architecture: it holds {strange[0] if strange else 'no LoRA tensor'}, which "
            "this base has not; give an adapter of transformers' own model, or the merged model."
        )
    config = LoraConfig.from_pretrained(folder)
    config.target_modules = "|".join(re.escape(name) for name in touched)
    config.modules_to_save, config.inference_mode = None, True
    wrapped = LoraModel(model, {"default": config}, "default")
    loaded = set_peft_model_state_dict(wrapped, {name.removeprefix("base_model."): tensor for name, tensor in state.items()})
    if loaded.unexpected_keys:
        raise Problem(f"The adapter in {folder} does not fit its base: {loaded.unexpected_keys[0]} has no place in it.")
    return wrapped.merge_and_unload()


def _renamed(name: str) -> str:
    """A tensor's name as transformers 5 has it: earlier versions put ``model`` behind ``language_model``, not before it."""
    return re.sub(r"^base_model\.model\.language_model\.model\.", "base_model.model.model.language_model.", name)
