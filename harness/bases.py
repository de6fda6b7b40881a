"""Base-model cards: where a base's weights are, which revision, how it is adapted and asked; and how to load it.

A base is named by its card, or by a ready-made checkpoint: a folder with a saved model or a LoRA adapter, or a hub id
(``org/name``, ``org/name@revision``), whose family is found from its config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from harness import checkpoints
from harness.checks import check_machine, check_model
from harness.errors import Problem, unknown
from harness.families.find import ARCHITECTURES

WORLD = Path(__file__).parent / "embedded" / "weights" / "llava"
LLAMA_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Every linear layer of the language model and none of the vision tower or projector, as in LLaVA-1.5's LoRA recipe. The names
are the same in Qwen2.5-VL."""


@dataclass(frozen=True, kw_only=True)
class BaseCard:
    """One base model.

    ``source`` is a hub id, or a folder when it is a Path; ``revision`` pins the hub's commit. ``lora_targets`` is a regular
    expression over module names, below ``model.language_model`` only. ``prompts`` says which prompt set the base
    understands. ``dtype`` is the precision on an accelerator; on the CPU everything runs in float32. ``max_pixels`` bounds a
    picture where the family keeps pictures' own sizes. ``adapter`` is a LoRA adapter's folder, merged into the weights when
    they are loaded. ``parameters`` (in all) is for the estimate of memory before a hub model is there; None: not known.
    ``licence`` goes onto the cards of models trained from it.
    """

    name: str
    source: str | Path
    revision: str | None
    family: str
    lora_targets: str
    prompts: Literal["world", "real"]
    dtype: Literal["float32", "bfloat16", "float16"]
    max_pixels: int | None = None
    adapter: Path | None = None
    parameters: float | None = None
    licence: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on besides the weights of ``source``."""
        found: dict[str, Any] = {"dtype": self.dtype}
        if self.max_pixels is not None:
            found["max_pixels"] = self.max_pixels
        if self.adapter is not None:
            found["adapter"] = weights_fingerprint(self.adapter)
        return found


BASES: Mapping[str, BaseCard] = {
    "embedded": BaseCard(
        name="embedded",
        source=WORLD,
        revision=None,
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="world",
        dtype="float32",
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
        max_pixels=1280 * 28 * 28,  # 1,280 tokens a picture; the processor's own bound is 16,384
        parameters=8.29e9,
        licence="apache-2.0",
    ),
}


def find_base(name: str) -> BaseCard:
    """The card of that name, of a folder, or of a hub id (whose config.json is fetched, and whose commit is then pinned).

    Raises:
        Problem: there is no such base (with the nearest name), or the checkpoint is of no family that is supported.
    """
    if name in BASES:
        return BASES[name]
    if Path(name).is_dir():
        return _folder_card(Path(name))
    if checkpoints.is_hub_id(name):
        return _hub_card(name)
    if "/" in name or name.startswith("."):
        raise Problem(
            f"There is no folder {name!r}, and it is no hub id either; give a folder with a saved model or a LoRA adapter, "
            f"a hub id (org/name or org/name@revision), or one of {', '.join(BASES)}."
        )
    raise unknown("base", name, BASES)


def _folder_card(folder: Path) -> BaseCard:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return _adapter_card(folder)
    config = checkpoints.read_config(folder)
    # A model trained from the embedded base has its tokenizer, and understands its prompts alone.
    mine, worlds = (where / "tokenizer.json" for where in (folder, WORLD))
    world = mine.is_file() and worlds.is_file() and mine.read_bytes() == worlds.read_bytes()
    return _card(checkpoints.plain(folder.resolve().name), folder, None, config, "world" if world else "real")


@cache
def _hub_card(name: str) -> BaseCard:
    id, _, revision = name.partition("@")
    folder, commit = checkpoints.fetch_config(id, revision or None)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return replace(_adapter_card(folder), name=checkpoints.plain(id))
    return _card(checkpoints.plain(id), id, commit, checkpoints.read_config(folder), "real")


def _card(
    name: str, source: str | Path, revision: str | None, config: Mapping[str, Any], prompts: Literal["world", "real"]
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
    """The card of a LoRA adapter: its parent's, with the adapter on top."""
    adapter = checkpoints.read_adapter(folder)
    parent = str(adapter["base_model_name_or_path"])
    card = next((card for card in BASES.values() if parent in (card.name, str(card.source))), None)
    if card is None and Path(parent).is_dir():
        card = _folder_card(Path(parent))
    if card is None:
        known = ", ".join(str(one.source) for one in BASES.values() if isinstance(one.source, str))
        raise Problem(
            f"The adapter in {folder} is of the base {parent!r}, which is neither a folder here nor one of {known}; "
            "give an adapter of one of these, or the merged model."
        )
    revision, recorded = adapter.get("revision"), adapter.get("parent_weights")
    if revision and card.revision and revision != card.revision:
        raise Problem(
            f"The adapter in {folder} was trained on {parent} at commit {revision}, the base card pins {card.revision}; "
            "give an adapter of that commit, or the merged model."
        )
    if recorded and isinstance(card.source, Path) and recorded != weights_fingerprint(card.source):
        raise Problem(f"The adapter in {folder} was trained on other weights than those in {card.source}; give its own parent.")
    return replace(card, name=checkpoints.plain(folder.resolve().name), adapter=folder)


def load_base(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor; checked (harness/checks.py) against what transformers computes.

    ``weights`` is a folder with a fine-tuned model of the same architecture (a round's), loaded in place of the card's; the
    processor is always the card's.

    Raises:
        Problem: it is not there, half there, too large for this machine, of another architecture, or not what its family does.
    """
    source = source_of(card)
    if weights is not None and not any(weights.glob("*.safetensors")):
        raise Problem(f"{weights} holds no *.safetensors weights; give a folder with a saved model of base {card.name!r}.")
    here = weights or (card.source if isinstance(card.source, Path) else None)
    stored = checkpoints.check_files(here) if here is not None else None
    check_machine(card.name, device, stored, card.parameters, card.dtype)
    pinned = {} if card.revision is None else {"revision": card.revision}
    dtype = torch.float32 if torch.device(device).type == "cpu" else getattr(torch, card.dtype)
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    architecture = next(one for one in ARCHITECTURES.values() if one.name == card.family)
    try:
        processor = architecture.processor(source, pinned)
        if weights is None:
            model, loading = AutoModelForImageTextToText.from_pretrained(source, **options, **pinned)
        else:
            model, loading = AutoModelForImageTextToText.from_pretrained(weights, **options)
    except (OSError, SafetensorError) as error:
        raise checkpoints.why(f"Base {card.name!r}", str(weights or source), card.revision, error) from error
    if type(model).__name__ != architecture.model_class:
        raise Problem(
            f"{weights or source} holds a {type(model).__name__}, base {card.name!r} is {architecture.name} "
            f"({architecture.model_class}); give weights of that family."
        )
    # transformers only warns here, and goes on with random weights.
    absent = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if absent:
        raise Problem(
            f"The weights in {weights or source} do not fit base {card.name!r}: {len(absent)} absent, such as {absent[0]}."
        )
    if card.max_pixels is not None:
        processor.image_processor.size["longest_edge"] = card.max_pixels
    if card.adapter is not None and weights is None:
        model = checkpoints.merge_adapter(model, card.adapter)
    model = model.to(device).eval()
    check_model(model, processor)
    return model, processor


def source_of(card: BaseCard) -> str:
    """Where to load the card from; a missing local folder is a Problem that says how to build it."""
    if isinstance(card.source, Path) and not (card.source / "config.json").is_file():
        raise Problem(f"Base {card.name!r} is not at {card.source}; build the world's models with: python -m nox -s world")
    return str(card.source)


weights_fingerprint = checkpoints.weights_fingerprint
