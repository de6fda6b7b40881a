"""Base-model cards: where a base's weights are, which revision, how it is adapted and asked; and
how to load it.

A base is named by its card, or by a ready-made checkpoint: a folder with a saved model or a LoRA
adapter, or a hub id (``org/name``, ``org/name@revision``), whose family is found from its
config.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from harness.engine.model_checks import check_machine, check_model
from harness.errors import UserError, unknown
from harness.models import checkpoints
from harness.models import hub_snapshots as hub
from harness.models.find_family import ARCHITECTURES

WORLD = Path(__file__).parents[1] / "synthetic" / "weights" / "llava"
LLAMA_LINEARS = (
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
)
"""Every linear layer of the language model and none of the vision tower or projector, as in
LLaVA-1.5's LoRA recipe. The names are the same in Qwen2.5-VL."""


@dataclass(frozen=True, kw_only=True)
class BaseCard:
    """One base model.

    ``source`` is a hub id, or a folder when it is a Path; ``revision`` pins the hub's commit.
    ``lora_targets`` is a regular expression over module names, below ``model.language_model`` only.
    ``prompts`` says which prompt set the base understands. ``dtype`` is the precision on an
    accelerator; on the CPU everything runs in float32. ``max_pixels`` bounds an image where the
    family keeps images' own sizes; a processor's own bound that is lower stays. ``adapters`` are
    LoRA adapters' folders, merged into the weights in this order when they are loaded.
    ``parameters`` (in all) is for the estimate of memory before a hub model is there; None: not
    known. ``licence`` goes onto the cards of models trained from it."""

    name: str
    source: str | Path
    revision: str | None
    family: str
    lora_targets: str
    prompts: Literal["synthetic", "real"]
    dtype: Literal["float32", "bfloat16", "float16"]
    max_pixels: int | None = None
    adapters: tuple[Path, ...] = ()
    parameters: float | None = None
    licence: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on besides the weights of ``source``."""
        found: dict[str, Any] = {"dtype": self.dtype}
        if self.max_pixels is not None:
            found["max_pixels"] = self.max_pixels
            if (
                isinstance(self.source, Path)
                and (file := self.source / "preprocessor_config.json").is_file()
            ):
                # A folder of such a family may bound its images otherwise than the card does.
                found["preprocessor"] = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.adapters:
            found["adapter"] = "+".join(map(weights_fingerprint, self.adapters))
        return found


# The commits below are those that other public repositories name (of all four as folders of their
# local snapshots); nothing was fetched here.
BASES: Mapping[str, BaseCard] = {
    "synthetic": BaseCard(
        name="synthetic",
        source=WORLD,
        revision=None,
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="synthetic",
        dtype="float32",
        parameters=2.5e6,
        licence="apache-2.0",
    ),
    "llava-1.5-7b": BaseCard(
        name="llava-1.5-7b",
        source="llava-hf/llava-1.5-7b-hf",
        revision="b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
        parameters=7.06e9,
        licence="llama2",
    ),
    "llava-1.5-13b": BaseCard(
        name="llava-1.5-13b",
        source="llava-hf/llava-1.5-13b-hf",
        revision="5dda2880bda009266dda7c4baff660b95ca64540",
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
        parameters=13.35e9,
        licence="llama2",
    ),
    "qwen2.5-vl-7b": BaseCard(
        name="qwen2.5-vl-7b",
        source="Qwen/Qwen2.5-VL-7B-Instruct",
        revision="cc594898137f460bfe9f0759e9844b3ce807cfb5",
        family="qwen2.5-vl",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
        max_pixels=1280 * 28 * 28,  # 1,280 tokens an image; the processor's own bound is 16,384
        parameters=8.29e9,
        licence="apache-2.0",
    ),
    "qwen2.5-vl-3b": BaseCard(
        name="qwen2.5-vl-3b",
        source="Qwen/Qwen2.5-VL-3B-Instruct",
        revision="66285546d2b821cf421d4f5eb2576359d3770cd3",
        family="qwen2.5-vl",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
        max_pixels=1280 * 28 * 28,
        parameters=3.75e9,
        licence="qwen-research",
    ),
}


def find_base(name: str) -> BaseCard:
    """The card of that name, of a folder, or of a hub id (whose config.json is fetched, and whose
    commit is then pinned).

    Raises:
        UserError: there is no such base (with the nearest name), or the checkpoint is of no family
            that is supported.
    """
    if name in BASES:
        return BASES[name]
    if Path(name).is_dir():
        return _folder_card(Path(name))
    if checkpoints.is_hub_id(name):
        return _hub_card(name)
    if "/" in name or name.startswith("."):
        raise UserError(
            f"There is no folder {name!r}, and it is no hub id either; give a folder with a saved"
            " model or a LoRA adapter, a hub id (org/name or org/name@revision), or one of"
            f" {', '.join(BASES)}."
        )
    raise unknown("base", name, BASES)


def _folder_card(folder: Path) -> BaseCard:
    if (folder / checkpoints.CONFIG).is_file() and not (folder / "config.json").is_file():
        return _adapter_card(folder)
    config = checkpoints.read_config(folder)
    checkpoints.check_files(folder)  # what is half there is said now, not when its turn comes
    # A model trained from the synthetic base has its tokenizer, and understands its prompts alone.
    mine, worlds = (where / "tokenizer.json" for where in (folder, WORLD))
    world = mine.is_file() and worlds.is_file() and mine.read_bytes() == worlds.read_bytes()
    name = checkpoints.plain(folder.resolve().name)
    return replace(
        _card(name, folder, None, config, "synthetic" if world else "real"),
        parameters=checkpoints.count(folder),
    )


@cache
def _hub_card(name: str) -> BaseCard:
    id, _, revision = name.partition("@")
    folder, commit = checkpoints.fetch_config(id, revision or None)
    if (folder / checkpoints.CONFIG).is_file() and not (folder / "config.json").is_file():
        return replace(_adapter_card(folder), name=checkpoints.plain(id))
    card = _card(checkpoints.plain(id), id, commit, checkpoints.read_config(folder), "real")
    return replace(card, parameters=checkpoints.count(folder))


def _card(
    name: str,
    source: str | Path,
    revision: str | None,
    config: Mapping[str, Any],
    prompts: Literal["synthetic", "real"],
) -> BaseCard:
    architecture = ARCHITECTURES[config["model_type"]]
    # The card of the family lends what config.json does not say.
    kin = next(card for card in BASES.values() if card.family == architecture.name)
    stored = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return BaseCard(
        name=name,
        source=source,
        revision=revision,
        family=architecture.name,
        lora_targets=kin.lora_targets,
        prompts=prompts,
        dtype="float32" if stored == "float32" else "bfloat16",
        max_pixels=kin.max_pixels,
    )


def _adapter_card(folder: Path) -> BaseCard:
    """The card of a LoRA adapter: its parent's, with the adapter on top.

    Raises:
        UserError: its parent is not there, is another one than it was trained on, or has no place
            for its tensors.
    """
    adapter = checkpoints.read_adapter(folder)
    parent, revision = str(adapter["base_model_name_or_path"]), adapter.get("revision")
    card = _parent_card(folder, parent, revision)
    if revision and card.revision and revision != card.revision:
        raise UserError(
            f"The adapter in {folder} was trained on {parent} at commit {revision}, the base card"
            f" pins {card.revision}; give an adapter of that commit, or the merged model."
        )
    below = card.adapters[-1] if card.adapters else card.source
    if isinstance(below, Path):
        recorded = [
            str(adapter[key]) for key in ("parent_weights", "parent_adapter") if adapter.get(key)
        ]
        if recorded and (found := weights_fingerprint(below)) not in recorded:
            raise UserError(
                f"The adapter in {folder} was trained on other weights than those in {below}"
                f" (fingerprint {recorded[0][:12]}, not {found[:12]}); give its own parent, or the"
                " merged model."
            )
    if isinstance(card.source, Path):
        checkpoints.check_adapter(folder, checkpoints.shapes(card.source))
    return replace(
        card, name=checkpoints.plain(folder.resolve().name), adapters=(*card.adapters, folder)
    )


def _parent_card(folder: Path, parent: str, revision: str | None) -> BaseCard:
    """The card of what an adapter names as its base: a card's name or its source, a folder (seen
    from the adapter's where it begins with a dot; a round's adapter where its merged model is
    gone), or a hub id."""
    known = next((card for card in BASES.values() if parent in (card.name, str(card.source))), None)
    if known is not None:
        return known
    path = folder / parent if parent.startswith(".") else Path(parent)
    if path.is_dir() and path.resolve() != folder.resolve():
        return _folder_card(Path(os.path.normpath(path)))
    # A round's model that was deleted to save room: base and adapters together are the same.
    if path.name == "model" and (path.parent / "adapter").is_dir():
        return _adapter_card(Path(os.path.normpath(path.parent / "adapter")))
    why = f"{os.path.normpath(path)} is no folder"
    if checkpoints.is_hub_id(parent):
        try:
            return _hub_card(f"{parent}@{revision}" if revision else parent)
        except UserError as problem:
            why = f"as a hub id: {str(problem).rstrip('.')}"
    raise UserError(
        f"The adapter in {folder} is of the base {parent!r}, which is none of {', '.join(BASES)};"
        f" {why}. Bring it there, or give the merged model."
    )


def parent_of(card: BaseCard, weights: Path | None, adapter: Path) -> checkpoints.Parent:
    """What an adapter that is trained now, to be saved in the folder ``adapter``, sits on: the base
    of a first round, or the model of the round before (``weights``), which is named as seen from
    the adapter and known by what its training recorded."""
    if weights is not None:
        record = weights.parent / "record.json"
        recorded = checkpoints.read_json(record).get("weights") if record.is_file() else None
        name = Path(
            os.path.relpath(weights.resolve(), adapter.parent.resolve() / adapter.name)
        ).as_posix()
        beside = weights.parent / "adapter"
        return checkpoints.Parent(
            name=name,
            weights=recorded or weights_fingerprint(weights),
            adapter=weights_fingerprint(beside) if beside.is_dir() else None,
        )
    if card.adapters:
        return checkpoints.Parent(
            name=str(card.adapters[-1].resolve()), weights=weights_fingerprint(card.adapters[-1])
        )
    if isinstance(card.source, Path):
        name = card.name if BASES.get(card.name) == card else str(card.source.resolve())
        return checkpoints.Parent(name=name, weights=weights_fingerprint(card.source))
    return checkpoints.Parent(name=card.source, revision=card.revision)


def load_base(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor; checked
    (harness/engine/model_checks.py) against what transformers computes.

    ``weights`` is a folder with a fine-tuned model of the same architecture (a round's), loaded in
    place of the card's; the processor is always the card's.

    Raises:
        UserError: it is not there, half there, too large for this machine, of another architecture,
            or not what its family does.
    """
    source = source_of(card)
    if weights is not None and not any(weights.glob("*.safetensors")):
        raise UserError(
            f"{weights} holds no *.safetensors weights; give a folder with a saved model of base"
            f" {card.name!r}."
        )
    here = weights or (card.source if isinstance(card.source, Path) else None)
    stored = checkpoints.check_files(here) if here is not None else None
    check_machine(card.name, device, stored, card.parameters, card.dtype)
    if isinstance(card.source, str):
        source = str(
            hub.fetch(f"Base {card.name!r}", card.source, card.revision, weights=weights is None)
        )
    dtype = torch.float32 if torch.device(device).type == "cpu" else getattr(torch, card.dtype)
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    architecture = next(one for one in ARCHITECTURES.values() if one.name == card.family)
    try:
        processor = architecture.processor(source, {})
        if weights is None:
            model, loading = AutoModelForImageTextToText.from_pretrained(source, **options)
        else:
            model, loading = AutoModelForImageTextToText.from_pretrained(weights, **options)
    except (OSError, SafetensorError) as error:
        raise checkpoints.why(
            f"Base {card.name!r}", str(weights or source), card.revision, error
        ) from error
    if type(model).__name__ != architecture.model_class:
        raise UserError(
            f"{weights or source} holds a {type(model).__name__}, base {card.name!r} is"
            f" {architecture.name} ({architecture.model_class}); give weights of that family."
        )
    # transformers only warns here, and goes on with random weights.
    absent = sorted(loading["missing_keys"]) + sorted(
        str(key) for key in loading["mismatched_keys"]
    )
    if absent:
        raise UserError(
            f"The weights in {weights or source} do not fit base {card.name!r}: {len(absent)}"
            f" absent, such as {absent[0]}."
        )
    bound(processor.image_processor, card)
    model = model.to(device).eval()
    checkpoints.align(model)
    for adapter in card.adapters if weights is None else ():
        model = checkpoints.merge_adapter(
            model, adapter
        )  # there where training merged it: the same sums
    check_model(model, processor)
    return model, processor


def bound(image_processor: Any, card: BaseCard) -> None:
    """Let images be no larger than the card says; a model that was trained on smaller ones keeps
    its own bound."""
    if card.max_pixels is not None:
        image_processor.size["longest_edge"] = min(
            image_processor.size["longest_edge"], card.max_pixels
        )


def source_of(card: BaseCard) -> str:
    """Where to load the card from; a missing local folder is a UserError that says how to build
    it."""
    if isinstance(card.source, Path) and not (card.source / "config.json").is_file():
        raise UserError(
            f"Base {card.name!r} is not at {card.source}; build the world's models with: python -m"
            " nox -s synthetic"
        )
    return str(card.source)


weights_fingerprint = checkpoints.weights_fingerprint
