"""Base-model cards: where a base's weights are, which revision, how it is adapted and asked; and how to load it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.errors import Problem, unknown
from harness.rendering import check_template

LLAMA_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Every linear layer of the language model and none of the vision tower or projector, as in LLaVA-1.5's LoRA recipe."""


@dataclass(frozen=True, kw_only=True)
class BaseCard:
    """One base model.

    ``source`` is a hub id, or a folder when it is a Path; ``revision`` pins the hub's commit. ``lora_targets`` is a regular
    expression over module names, below ``model.language_model`` only. ``prompts`` says which prompt set the base
    understands. ``dtype`` is the precision on an accelerator; on the CPU everything runs in float32.
    """

    name: str
    source: str | Path
    revision: str | None
    family: str
    lora_targets: str
    prompts: Literal["world", "real"]
    dtype: Literal["float32", "bfloat16", "float16"]


BASES: Mapping[str, BaseCard] = {
    "embedded": BaseCard(
        name="embedded",
        source=Path(__file__).parent / "embedded" / "weights" / "llava",
        revision=None,
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="world",
        dtype="float32",
    ),
    "llava-1.5-7b": BaseCard(
        name="llava-1.5-7b",
        source="llava-hf/llava-1.5-7b-hf",
        revision="b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
    ),
    "llava-1.5-13b": BaseCard(
        name="llava-1.5-13b",
        source="llava-hf/llava-1.5-13b-hf",
        revision="5dda2880bda009266dda7c4baff660b95ca64540",
        family="llava-1.5",
        lora_targets=LLAMA_LINEARS,
        prompts="real",
        dtype="bfloat16",
    ),
}


def find_base(name: str) -> BaseCard:
    """The card of that name; an unknown name is a Problem that names the nearest."""
    if name not in BASES:
        raise unknown("base", name, BASES)
    return BASES[name]


def load_base(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor.

    ``weights`` is a folder with a fine-tuned model of the same architecture (a round's), loaded in place of the card's; the
    processor is always the card's. Pictures go through the PIL backend: another backend's pixels differ by up to 0.015.
    """
    source = source_of(card)
    if weights is not None and not any(weights.glob("*.safetensors")):
        raise Problem(f"{weights} holds no *.safetensors weights; give a folder with a saved model of base {card.name!r}.")
    revision = {} if card.revision is None else {"revision": card.revision}
    dtype = torch.float32 if torch.device(device).type == "cpu" else getattr(torch, card.dtype)
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    try:
        processor = AutoProcessor.from_pretrained(source, backend="pil", **revision)
        if weights is None:
            model, loading = AutoModelForImageTextToText.from_pretrained(source, **options, **revision)
        else:
            model, loading = AutoModelForImageTextToText.from_pretrained(weights, **options)
    except OSError as error:
        raise Problem(f"Base {card.name!r} could not be loaded from {weights or source}: {str(error).splitlines()[0]}") from error
    # transformers only warns here, and goes on with random weights.
    absent = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if absent:
        raise Problem(
            f"The weights in {weights or source} do not fit base {card.name!r}: {len(absent)} absent, such as {absent[0]}."
        )
    check_template(processor)
    return model.to(device).eval(), processor


def source_of(card: BaseCard) -> str:
    """Where to load the card from; a missing local folder is a Problem that says how to build it."""
    if isinstance(card.source, Path) and not (card.source / "config.json").is_file():
        raise Problem(f"Base {card.name!r} is not at {card.source}; build the world's models with: python -m nox -s world")
    return str(card.source)


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
