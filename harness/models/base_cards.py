"""Base models: where their weights are, at which revision, and how they are adapted and prompted.

A base is named by its card, or by a checkpoint: a folder with a saved model or a LoRA adapter, or
a hub id (``org/name``, ``org/name@revision``). A checkpoint's family is found from its config.json.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError, unknown
from harness.models import adapters, checkpoints
from harness.models.adapters import Parent, saved_model
from harness.models.chat_format import VICUNA_V1
from harness.models.checkpoints import label_of, weights_fingerprint
from harness.models.find_family import ARCHITECTURES
from harness.models.hub_snapshots import cached_model, fetch, fetch_config, is_hub_id
from harness.models.loaded_files import ADAPTER, MODEL, PROCESSOR, WEIGHTS, loaded_files

SYNTHETIC_WEIGHTS = Path(__file__).parents[1] / "synthetic" / "weights" / "llava"
NOT_DOWNLOADED = "hub model that is not downloaded"
"""Stands in an identity for the files of a hub model that are not here."""
LLAMA_LINEARS = (
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
)
"""Every linear layer of the language model and none of the vision tower or projector, as in
LLaVA-1.5's LoRA recipe. Qwen2.5-VL has the same names."""


@dataclass(frozen=True, kw_only=True)
class BaseCard:
    """One base model."""

    name: str
    source: str | Path
    """A hub id, or a folder where it is a Path."""
    revision: str | None
    """The hub's commit; None for a folder."""
    family: str
    """The name of its Architecture (harness/models/find_family.py)."""
    lora_targets: str
    """Regular expression for the modules that LoRA adapts, below ``model.language_model``."""
    prompts: Literal["synthetic", "real"]
    """The prompt set that the base understands."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """The precision on an accelerator, for a checkpoint the one in which it is stored: a small
    update that was merged in float16 is lost in bfloat16. On the CPU everything runs in float32."""
    max_pixels: int | None = None
    """Bound on an image's size in pixels, for a family that keeps images' own sizes; a lower bound
    of the processor stays."""
    image_shape: Literal["pad", "crop"] | None = None
    """How LLaVA-1.5 gets square images: padded with the processor's mean colour, as its authors
    train and evaluate, or cut to the centre, as the hub's processor does. None: as the processor's
    own ``image_aspect_ratio`` says ("crop" where it says nothing)."""
    system: str | None = None
    """The system text, put in front of the model's own chat template; None: that template's
    own."""
    adapters: tuple[Path, ...] = ()
    """Folders of LoRA adapters, added in this order when the weights are loaded."""
    parameters: float | None = None
    """The number of parameters, to estimate memory before a hub model is downloaded; None: not
    known."""
    licence: str | None = None
    """Goes onto the model cards of models trained from it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the answers depend on besides the files of the model."""
        bound = {} if self.max_pixels is None else {"max_pixels": self.max_pixels}
        shape = {"image_shape": "pad"} if self.image_shape == "pad" else {}
        system = {"system": self.system} if self.system else {}
        return {"dtype": self.dtype, **bound, **shape, **system}

    def apply_to(self, processor: Any) -> None:
        """Give a loaded processor the image shape and system text. Both are saved with it."""
        self.apply_to_images(processor.image_processor)
        if self.system is not None and getattr(processor, "chat_template", None):
            processor.chat_template = self.system + processor.chat_template

    def apply_to_images(self, image_processor: Any) -> None:
        """Apply ``image_shape`` and ``max_pixels``; a lower bound of the processor stays."""
        if self.image_shape is not None:
            image_processor.image_aspect_ratio = self.image_shape
        if self.max_pixels is not None:
            size = image_processor.size
            size["longest_edge"] = min(size["longest_edge"], self.max_pixels)


_LLAVA_7B = BaseCard(
    name="llava-1.5-7b",
    source="llava-hf/llava-1.5-7b-hf",
    revision="b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
    family="llava-1.5",
    lora_targets=LLAMA_LINEARS,
    prompts="real",
    dtype="bfloat16",
    image_shape="pad",
    system=VICUNA_V1,
    parameters=7.06e9,
    licence="llama2",
)
_LLAVA_13B = replace(
    _LLAVA_7B,
    name="llava-1.5-13b",
    source="llava-hf/llava-1.5-13b-hf",
    revision="5dda2880bda009266dda7c4baff660b95ca64540",
    parameters=13.35e9,
)
_QWEN_7B = BaseCard(
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
)
_QWEN_3B = replace(
    _QWEN_7B,
    name="qwen2.5-vl-3b",
    source="Qwen/Qwen2.5-VL-3B-Instruct",
    revision="66285546d2b821cf421d4f5eb2576359d3770cd3",
    parameters=3.75e9,
    licence="qwen-research",
)
_SYNTHETIC = BaseCard(
    name="synthetic",
    source=SYNTHETIC_WEIGHTS,
    revision=None,
    family="llava-1.5",
    lora_targets=LLAMA_LINEARS,
    prompts="synthetic",
    dtype="float32",
    parameters=2.5e6,
    licence="apache-2.0",
)
_HUB = [
    replace(card, name=f"{card.name}-hf", image_shape="crop", system=None)
    for card in (_LLAVA_7B, _LLAVA_13B)
]
BASES: Mapping[str, BaseCard] = {
    card.name: card for card in (_SYNTHETIC, _LLAVA_7B, _LLAVA_13B, _QWEN_7B, _QWEN_3B, *_HUB)
}
"""The cards by name. LLaVA-1.5 is prompted as in the papers (padded images, ``vicuna_v1``); with
``-hf``, as the hub's own processor and template do. The hub's commits are those that other public
repositories pin; nothing was downloaded to check them."""


def find_base(name: str) -> BaseCard:
    """The card of a name, a folder or a hub id. A hub id is resolved to a commit.

    Raises:
        UserError: there is no such base (the nearest name is given), or the checkpoint's family
            is not supported.
    """
    if name in BASES:
        return BASES[name]
    if Path(name).is_dir():
        return _folder_card(Path(name))
    if is_hub_id(name):
        return _hub_card(name)
    if "/" in name or name.startswith("."):
        raise UserError(
            f"There is no folder {name!r}, and it is no hub id either; give a folder with a saved"
            " model or a LoRA adapter, a hub id (org/name or org/name@revision), or one of"
            f" {', '.join(BASES)}."
        )
    raise unknown("base", name, BASES)


def _folder_card(folder: Path, children: tuple[Path, ...] = ()) -> BaseCard:
    """``children``: the adapters whose base the folder is."""
    if adapters.is_adapter(folder):
        return _adapter_card(folder, children)
    checkpoints.read_config(folder)
    checkpoints.check_files(folder)  # an incomplete folder is an error now, not when it is loaded
    checkpoints.check_size(folder)
    # A model trained from the synthetic base has its tokenizer, and understands its prompts only.
    file, shipped = (path / "tokenizer.json" for path in (folder, SYNTHETIC_WEIGHTS))
    synthetic = file.is_file() and shipped.is_file() and file.read_bytes() == shipped.read_bytes()
    return _card(folder, label_of(folder.resolve().name), folder, synthetic=synthetic)


@cache
def _hub_card(name: str, children: tuple[Path, ...] = ()) -> BaseCard:
    id, _, revision = name.partition("@")
    folder, commit = fetch_config(id, revision or None)
    if adapters.is_adapter(folder):
        return replace(_adapter_card(folder, children), name=label_of(id))
    return _card(folder, label_of(id), id, commit)


def _card(
    folder: Path, name: str, source: str | Path, commit: str | None = None, synthetic: bool = False
) -> BaseCard:
    """The card of the checkpoint in ``folder``; settings that config.json lacks come from a card of
    its family."""
    config = checkpoints.read_config(folder)
    family = ARCHITECTURES[config["model_type"]].name
    sibling = next(card for card in BASES.values() if card.family == family)
    stored = config.get("dtype") or config.get("torch_dtype")
    return BaseCard(
        name=name,
        source=source,
        revision=commit,
        family=family,
        lora_targets=sibling.lora_targets,
        prompts="synthetic" if synthetic else "real",
        dtype=stored if stored in ("float32", "float16") else "bfloat16",
        max_pixels=sibling.max_pixels,
        parameters=checkpoints.count_parameters(folder),
    )


def _adapter_card(folder: Path, children: tuple[Path, ...] = ()) -> BaseCard:
    """The card of a LoRA adapter: its parent's card with the adapter on top.

    Raises:
        UserError: the parent is missing, is not the one that the adapter was trained on, or has
            no module for one of the adapter's tensors; or adapters name each other as base.
    """
    if folder.resolve() in children:
        raise UserError(
            f"The adapter in {folder} is its own base, by way of {len(children)} adapters"
            " (base_model_name_or_path); name the model that it was trained on."
        )
    children = (*children, folder.resolve())
    adapter = adapters.read_adapter(folder)
    parent, revision = str(adapter["base_model_name_or_path"]), adapter.get("revision")
    card = _parent_card(folder, parent, revision, adapter.get("parent_card"), children)
    if revision and card.revision and revision != card.revision:
        raise UserError(
            f"The adapter in {folder} was trained on {parent} at commit {revision}, the base card"
            f" pins {card.revision}; give an adapter of that commit, or the merged model."
        )
    parent_folder = card.adapters[-1] if card.adapters else card.source
    if isinstance(parent_folder, Path):
        recorded = [
            str(adapter[key]) for key in ("parent_weights", "parent_adapter") if adapter.get(key)
        ]
        if recorded and (actual := weights_fingerprint(parent_folder)) not in recorded:
            raise UserError(
                f"The adapter in {folder} was trained on other weights than those in"
                f" {parent_folder} (fingerprint {recorded[0][:12]}, not {actual[:12]}); give its"
                " own parent, or the merged model."
            )
    if isinstance(card.source, Path):
        adapters.check_adapter(folder, checkpoints.parameter_shapes(card.source))
    name = label_of(folder.resolve().name)
    return replace(card, name=name, adapters=(*card.adapters, folder))


def _parent_card(
    folder: Path, parent: str, revision: str | None, name: str | None, children: tuple[Path, ...]
) -> BaseCard:
    """The card of an adapter's base: a card's name or source, a folder, or a hub id. ``name``: the
    card that our own record names.

    A folder that begins with a dot is relative to the adapter's. Where a round's merged model was
    deleted, the adapter beside it replaces it.
    """
    # A hub id alone means the hub's own processor.
    if card := BASES.get(name or parent):
        return card
    if same_source := [card for card in BASES.values() if parent == str(card.source)]:
        return same_source[-1]
    parent_path = folder / parent if parent.startswith(".") else Path(parent)
    path = saved_model(Path(os.path.normpath(parent_path)))
    if path.is_dir():
        return _folder_card(path, children)
    reason = f"{path} is no folder"
    if is_hub_id(parent):
        try:
            return _hub_card(f"{parent}@{revision}" if revision else parent, children)
        except UserError as error:
            reason = f"as a hub id: {str(error).rstrip('.')}"
    raise UserError(
        f"The adapter in {folder} is of the base {parent!r}, which is none of {', '.join(BASES)};"
        f" {reason}. Bring it there, or give the merged model."
    )


def parent_of(card: BaseCard, weights: Path | None, adapter: Path) -> Parent:
    """The parent of an adapter that is being trained, to be saved in the folder ``adapter``.

    In a first round it is the base. Later it is the previous round's model (``weights``), named
    relative to the adapter and identified by the fingerprint that its training recorded.
    """
    if weights is not None:
        weights = saved_model(weights)
        record = weights.parent / "record.json"
        recorded = checkpoints.read_json(record).get("weights") if record.is_file() else None
        adapter_folder = adapter.parent.resolve() / adapter.name
        beside = weights.parent / "adapter"
        return Parent(
            name=Path(os.path.relpath(weights.resolve(), adapter_folder)).as_posix(),
            weights=recorded or weights_fingerprint(weights),
            adapter=weights_fingerprint(beside) if beside.is_dir() and beside != weights else None,
        )
    if card.adapters:
        last = card.adapters[-1]
        return Parent(name=str(last.resolve()), weights=weights_fingerprint(last))
    card_name = card.name if BASES.get(card.name) == card else None
    if isinstance(card.source, Path):
        name = card_name or str(card.source.resolve())
        return Parent(name=name, weights=weights_fingerprint(card.source))
    return Parent(name=card.source, revision=card.revision, card=card_name)


def stored_model(card: BaseCard, weights: Path | None) -> tuple[Path | None, tuple[Path, ...]]:
    """What is loaded for ``weights`` (None: for the card): the folder of full weights (None: the
    card's own) and the adapters on top of them.

    Raises:
        UserError: ``weights`` are an adapter of another base.
    """
    if weights is None:
        return None, card.adapters
    folder = saved_model(weights)
    if not adapters.is_adapter(folder):
        return folder, ()
    adapter_card = _adapter_card(folder)
    if adapter_card.source == card.source:
        return None, adapter_card.adapters
    if isinstance(adapter_card.source, Path):
        return adapter_card.source, adapter_card.adapters
    raise UserError(
        f"The adapter in {folder} is of the base {adapter_card.source}, not of {card.name!r}; give"
        " an adapter of this base."
    )


def identity_files(
    card: BaseCard, weights: Path | None = None, *, download: bool = False
) -> dict[str, Any]:
    """What loading reads, by file: the weights' fingerprint and the content of the small files.

    Equal for a card, a folder and a hub id with the same content.

    Args:
        weights: a folder of fine-tuned weights that are loaded in place of the card's; the
            processor stays the card's.
        download: bring a hub model's missing files. Else its id and commit stand for them.
    """
    weights, card_adapters = stored_model(card, weights)
    source: Path | None  # of a hub model in the local cache: None where it is not there
    if isinstance(card.source, Path):
        source = card.source
    elif download:
        source = fetch_base(card, weights=weights is None)
    else:
        source = cached_model(card.source, card.revision)
    if source is None:
        return {NOT_DOWNLOADED: f"{card.source}@{card.revision}"}
    folder = weights or source
    pinned = weights is None and card.revision is not None  # a hub model in the local cache
    files = {WEIGHTS: weights_fingerprint(folder, downloaded=pinned), **loaded_files(folder, MODEL)}
    files |= loaded_files(source, PROCESSOR)
    for number, adapter in enumerate(card_adapters, 1):
        prefix = f"adapter {number}/"
        files[prefix + WEIGHTS] = weights_fingerprint(adapter)
        files |= {prefix + name: value for name, value in loaded_files(adapter, ADAPTER).items()}
    return files


def fetch_base(card: BaseCard, *, weights: bool = True) -> Path:
    """The card's folder; a hub model's missing files are downloaded (without ``weights``: settings
    and tokenizer only).

    Raises:
        UserError: the folder does not exist (the message tells how to build it), or the hub model
            cannot be had (:func:`harness.models.hub_snapshots.fetch`).
    """
    source = source_of(card)
    if isinstance(card.source, Path):
        return card.source
    return fetch(f"Base {card.name!r}", source, card.revision, weights=weights)


def source_of(card: BaseCard) -> str:
    """The folder or hub id to load the card from.

    Raises:
        UserError: the folder does not exist; the message tells how to build it.
    """
    if isinstance(card.source, Path) and not (card.source / "config.json").is_file():
        raise UserError(
            f"Base {card.name!r} is not at {card.source}; build the synthetic models with: python"
            " -m nox -s synthetic"
        )
    return str(card.source)
