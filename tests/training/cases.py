"""Six pairs about three images, a tiny LLaVA, and the reference for packing: each answer in a row
of its own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor

from harness.models.chat_format import renderer
from harness.training.loop import TrainSummary
from harness.training.placement import Placement
from harness.training.trainer import train_pairs
from methods.interface import PreferencePair, Recipe
from methods.objective import token_logps
from tests.tiny_models import picture, tiny_llava

TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.up_proj)"

PLACEMENT_FIELDS = {field.name for field in fields(Placement)}

PAIRS = [
    PreferencePair(
        key=f"k{index}",
        item=f"p{index % 3}",
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        aligned=index % 2 == 0,
    )
    for index, (prompt, chosen, rejected) in enumerate(
        [
            ("describe the picture", "a red ball on the left and a blue box", "a green house"),
            ("what colour is the ball?", "red", "green and yellow"),
            ("is there a cup in the picture?", "no, there is a plate", "yes"),
            ("how many fish?", "two", "three fish and one boat on the right"),
            ("describe briefly", "a tree and a house", "a tree, a house, and a boat"),
            ("where is the box?", "top right", "bottom left of the image"),
        ]
    )
]


def images(item: str) -> Image:
    return {f"p{index}": picture(index) for index in range(3)}[item]


def train(out: Path, recipe: Recipe, model: Any = None, **changes: Any) -> TrainSummary:
    """Train a fresh tiny LLaVA (or ``model``) on PAIRS."""
    fresh, processor = tiny_llava()
    placement = Placement(
        **{
            "device_batch": 4,
            "log_to": (),
            **{name: changes.pop(name) for name in PLACEMENT_FIELDS if name in changes},
        }
    )
    settings: dict[str, Any] = {
        "pairs": PAIRS,
        "images": images,
        "seed": 0,
        "placement": placement,
    } | changes
    return train_pairs(
        model=model or fresh, processor=processor, recipe=recipe, out=out, **settings
    )


def saved(out: Path) -> dict[str, Tensor]:
    return dict(load_file(out / "model" / "model.safetensors"))


def plain_logps(model: Any, processor: Any, pairs: list[PreferencePair]) -> tuple[Tensor, Tensor]:
    """Token log-probabilities and mask, both (2B, T), from the model's own forward pass, each
    answer in a row of its own."""
    render = renderer(processor)
    rows = []
    for side in ("chosen", "rejected"):
        for pair in pairs:
            prompt = render.render_prompt(pair.prompt, True)
            text = prompt + render.render_completion(getattr(pair, side))
            whole = processor(
                images=images(pair.item), text=text, add_special_tokens=False, return_tensors="pt"
            )
            start = processor(
                images=images(pair.item), text=prompt, add_special_tokens=False, return_tensors="pt"
            ).input_ids.shape[1]
            logits = model(**whole).logits[:, start - 1 : -1]
            labels = whole["input_ids"][:, start:]
            rows.append(token_logps(logits, labels, torch.ones_like(labels, dtype=torch.bool))[0])
    width = max(map(len, rows))
    padded = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
    return padded, torch.tensor([[at < len(row) for at in range(width)] for row in rows])
