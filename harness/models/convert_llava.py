"""Converts checkpoints of the original LLaVA repository to folders that this harness loads.

A full checkpoint becomes a model in transformers' layout. A LoRA becomes an adapter beside its
base: nothing is merged, so nothing is rounded. Tower, tokenizer and processor are the base's. A
padding token that a checkpoint added takes the row of the base's own padding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from harness.artifacts.results_folder import write_json
from harness.artifacts.safe_files import partial_folder, replace_file, sweep, temporary
from harness.errors import UserError
from harness.models.adapters import (
    CONFIG,
    RECORD,
    WEIGHTS,
    check_adapter,
    current_name,
    read_adapter,
)
from harness.models.base_cards import BaseCard, fetch_base, find_base, parent_of
from harness.models.chat_format import VICUNA_V1, check_template
from harness.models.checkpoints import (
    INDEX,
    check_files,
    content_sha,
    parameter_shapes,
    read_json,
    weight_files,
    weights_fingerprint,
)
from harness.models.convert_vocabulary import (
    EMBEDDINGS,
    Padding,
    added_padding,
    extended_tables,
    extended_tensor,
    image_token,
    padding_sentence,
)
from harness.models.find_family import load_llava_processor
from harness.models.load_base import check_weights
from harness.models.original_llava import (
    OTHER_WEIGHTS,
    check_original_settings,
    check_tower,
    named_tensors,
    read_weights,
)

ORIGIN = "converted.json"
"""What a folder was converted from: name and SHA-256 of each file, the base and its fingerprint."""
TOWER = "model.vision_tower."
SHARD_BYTES = 2 * 10**9
BASE_BY_WIDTH = {4096: "llava-1.5-7b", 5120: "llava-1.5-13b"}
"""The base by the language model's hidden size, where none is given."""


def convert(folder: Path, out: Path, base: str | None = None) -> str:
    """Convert an original checkpoint or LoRA to the new folder ``out``; returns a sentence.

    A full conversion that was interrupted continues with its missing files.

    Args:
        base: a card's name, folder or hub id of a LLaVA-1.5; None: the card of this size.

    Raises:
        UserError: the checkpoint is incomplete, or is not of this base.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the folder of the checkpoint.")
    config = read_json(folder / "config.json")
    card = find_base(base or _default_base(folder, config))
    if card.family != "llava-1.5" or card.adapters:
        raise UserError(
            f"The base {card.name!r} is no whole LLaVA-1.5; give one with --base (a card's name, a"
            " folder or a hub id)."
        )
    lora = (folder / CONFIG).is_file()
    source = fetch_base(card, weights=not lora)
    check_original_settings(
        folder, config, AutoConfig.from_pretrained(source, trust_remote_code=False)
    )
    if lora:
        return _convert_lora(folder, config, out, card, source)
    return _convert_full(folder, config, out, card, source)


def _default_base(folder: Path, config: Mapping[str, Any]) -> str:
    width = config.get("hidden_size")
    if width not in BASE_BY_WIDTH:
        raise UserError(
            f"{folder}/config.json has the hidden_size {width!r}, LLaVA-1.5's are 4096 (7B) and"
            " 5120 (13B); give its base with --base."
        )
    return BASE_BY_WIDTH[width]


def _convert_full(
    folder: Path, config: Mapping[str, Any], out: Path, card: BaseCard, source: Path
) -> str:
    stored, files = read_weights(folder)
    processor = load_llava_processor(str(source))
    padding = added_padding(folder, config, stored, processor, source)
    _check_fit(folder, stored, source, padding)
    base = read_json(source / "config.json")
    has_tower = any(name.startswith(TOWER) for name in stored)
    if not has_tower:
        vision = AutoConfig.from_pretrained(source, trust_remote_code=False).vision_config
        check_tower(folder, config, vision)
    _create_out(out, _origin(folder, files, card, source, padding))
    padded = config.get("image_aspect_ratio") == "pad"
    processor.image_processor.image_aspect_ratio = "pad" if padded else "crop"
    if VICUNA_V1 not in processor.chat_template:
        processor.chat_template = VICUNA_V1 + processor.chat_template
    check_template(processor)
    processor.save_pretrained(out)
    weight_map: dict[str, str] = {}
    shards = list(_shards(stored, source))
    for number, shard in enumerate(shards, 1):
        file = out / f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, file.name)
        if not file.is_file():
            partial = temporary(file)
            tensors = {
                name: extended_tensor(stored.get(parameter), parameter, name, base_file, padding)
                for name, (parameter, base_file) in shard.items()
            }
            save_file(tensors, partial, metadata={"format": "pt"})
            partial.replace(file)
    if (source / "generation_config.json").is_file():
        content = (source / "generation_config.json").read_bytes()
        replace_file(out / "generation_config.json", content)
    write_json(out / INDEX, {"metadata": {}, "weight_map": weight_map})
    base.pop("torch_dtype", None)
    dtype = str(next(iter(stored.values())).dtype).removeprefix("torch.")
    write_json(out / "config.json", {**base, "dtype": dtype})  # last: without it nothing is loaded
    check_files(out)
    check_weights("The converted model", out, AutoModelForImageTextToText)
    return (
        f"{out} holds {folder.name} in transformers' layout ({dtype}); its vision tower is"
        f" {'its own' if has_tower else f'that of {card.name}'}, its images are"
        f" {'padded' if padded else 'cut to the centre'}, its prompts are vicuna_v1's."
        f"{padding_sentence(padding)}"
    )


def _check_fit(
    folder: Path, stored: Mapping[str, Tensor], source: Path, padding: Padding | None
) -> None:
    """Raise UserError unless the checkpoint has the base's tensors, with or without a tower."""
    shapes = dict(parameter_shapes(source))
    vocabulary = image_token(source) + (padding is not None)
    has_tower = any(name.startswith(TOWER) for name in stored)
    needed = {name for name in shapes if has_tower or not name.startswith(TOWER)}
    if unknown := sorted(stored.keys() - shapes.keys()):
        raise UserError(
            f"{folder} holds {unknown[0]}, which the base has not ({len(unknown)} such tensors); it"
            " is of another model. Give its own base with --base."
        )
    if missing := sorted(needed - stored.keys()):
        raise UserError(
            f"{folder} lacks {len(missing)} of the base's tensors, such as {missing[0]}; finish"
            " the download, or give its own base with --base."
        )
    for name, tensor in stored.items():
        shape, base_shape = tuple(tensor.shape), shapes[name]
        # The hub's vocabulary goes on with the image token and padding; both have no text.
        if shape != base_shape and not (
            name in EMBEDDINGS and shape == (vocabulary, *base_shape[1:])
        ):
            raise UserError(
                f"{folder} has {name} as {list(shape)}, the base as {list(base_shape)}; it is of"
                " another language model, size or vocabulary. Give its own base with --base."
            )


def _shards(stored: Mapping[str, Tensor], source: Path) -> Iterator[dict[str, tuple[str, Path]]]:
    """The new files, in the order of the base's: by the base's stored name, the parameter's name
    and the base's file."""
    shapes, shard, size = parameter_shapes(source), dict[str, tuple[str, Path]](), 0
    for file in weight_files(source):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                parameter = current_name(name, shapes)
                if parameter not in shapes:
                    continue  # a buffer of an earlier version
                value_bytes = stored[parameter].element_size() if parameter in stored else 4
                tensor_bytes = math.prod(shapes[parameter]) * value_bytes
                if shard and size + tensor_bytes > SHARD_BYTES:
                    yield shard
                    shard, size = {}, 0
                shard[name], size = (parameter, file), size + tensor_bytes
    yield shard


def _check_input(folder: Path, config: Mapping[str, Any], card: BaseCard, source: Path) -> Any:
    """A LoRA's images and prompts are its base's: both must be those that it was trained with.
    Returns the base's processor.

    Raises:
        UserError: they are not.
    """
    processor = load_llava_processor(str(source))
    card.apply_to(processor)
    trained_shape = "pad" if config.get("image_aspect_ratio") == "pad" else "crop"
    base_shape = getattr(processor.image_processor, "image_aspect_ratio", None) or "crop"
    if trained_shape != base_shape or VICUNA_V1 not in (processor.chat_template or ""):
        trained_input = f"{trained_shape} images and the system text of vicuna_v1"
        raise UserError(
            f"The LoRA in {folder} was trained with {trained_input}, and the base {card.name!r} has"
            " another input; give --base llava-1.5-7b or llava-1.5-13b, or a base converted from"
            " the original format."
        )
    return processor


def _convert_lora(
    folder: Path, original: Mapping[str, Any], out: Path, card: BaseCard, source: Path
) -> str:
    if out.exists():
        raise UserError(f"{out} exists already; give a new folder with --out.")
    processor = _check_input(folder, original, card, source)
    config = read_json(folder / CONFIG)
    stated_base = str(config.get("base_model_name_or_path"))
    if _base_name(stated_base) not in _accepted_names(card):
        raise UserError(
            f"The LoRA in {folder} was trained on {stated_base!r}, not on the base {card.name!r};"
            " give its base with --base, or correct base_model_name_or_path in its"
            f" adapter_config.json (of {card.name} it would be"
            f" {sorted(_accepted_names(card))[0]!r})."
        )
    candidates = [folder / WEIGHTS, folder / "adapter_model.bin"]
    files = [*[file for file in candidates if file.is_file()][:1], folder / OTHER_WEIGHTS]
    if len(files) == 1 or not files[1].is_file():
        raise UserError(
            f"{folder} is half there: a LoRA of the original LLaVA has adapter_model.safetensors or"
            f" adapter_model.bin, and {OTHER_WEIGHTS}; finish the download."
        )
    tensors = {**named_tensors(folder, files[:1]), **named_tensors(folder, files[1:])}
    padding = added_padding(folder, original, tensors, processor, source)
    tensors |= extended_tables(tensors, card, source, padding)
    modules = sorted({name.partition(".lora_")[0] for name in tensors if ".lora_" in name})
    patterns = {re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in modules}
    other_weights = [name for name in tensors if ".lora_" not in name]
    with partial_folder(out) as new:
        parent = parent_of(card, None, out)
        settings = {
            **config,
            "base_model_name_or_path": parent.name,
            "revision": parent.revision,
            "target_modules": "|".join(sorted(patterns)),
            "modules_to_save": sorted({name.rpartition(".")[0] for name in other_weights}) or None,
        }
        stored = {f"base_model.model.{name}": value.contiguous() for name, value in tensors.items()}
        save_file(stored, new / WEIGHTS, metadata={"format": "pt"})
        write_json(new / CONFIG, settings)
        record = {"parent_weights": parent.weights, "parent_card": parent.card}
        write_json(
            new / RECORD, {name: value for name, value in record.items() if value is not None}
        )
        write_json(new / ORIGIN, _origin(folder, files, card, source, padding))
        read_adapter(new)
        check_adapter(new, parameter_shapes(source))
    return (
        f"{out} holds the LoRA {folder.name} ({len(modules)} modules, {len(other_weights)} other"
        f" weights) with its base {parent.name}; nothing is merged.{padding_sentence(padding)}"
    )


def _base_name(name: str) -> str:
    """A base's name without owner, in the spelling of its card."""
    return Path(name).name.lower().replace("llava-v1.5", "llava-1.5").removesuffix("-hf")


def _accepted_names(card: BaseCard) -> set[str]:
    """The names that a LoRA may give its base; of a converted folder, also the original's."""
    names = {_base_name(card.name), _base_name(str(card.source))}
    if isinstance(card.source, Path) and (card.source / ORIGIN).is_file():
        names.add(_base_name(str(read_json(card.source / ORIGIN).get("checkpoint"))))
    return names


def _origin(
    folder: Path, files: list[Path], card: BaseCard, source: Path, padding: Padding | None
) -> dict[str, Any]:
    lora = (folder / CONFIG).is_file()
    return {
        "checkpoint": folder.resolve().name,
        "files": {file.name: content_sha(file) for file in [folder / "config.json", *files]},
        "base": card.name if isinstance(card.source, Path) else card.source,
        "base_revision": card.revision,
        # A LoRA's hub base need not be here; its commit identifies it.
        "base_weights": None if lora and card.revision else weights_fingerprint(source),
        **({} if padding is None else {"padding": [padding.token, padding.row, padding.base_row]}),
    }


def _create_out(out: Path, origin: Mapping[str, Any]) -> None:
    """Create the folder, or go on with the same conversion.

    Raises:
        UserError: it holds something else.
    """
    if (out / ORIGIN).is_file() and read_json(out / ORIGIN) == origin:
        sweep(out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} exists already and holds something other than this conversion; give a new"
            " folder with --out."
        )
    write_json(out / ORIGIN, origin)
