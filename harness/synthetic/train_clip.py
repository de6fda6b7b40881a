"""Trains the synthetic CLIP: a contrastive loss on images and texts with hard negatives, and a
supervised patch loss.

The contrastive loss is CLIP's (Radford et al., arXiv 2103.00020). Hard negatives are the same text
with an expected but absent thing, another colour or another place; they are further columns of the
image-to-text logits. At this size contrastive training alone gives weak features. So each patch is
also classified by category and colour, on the layer that the LLaVA reads (-2). Both losses use true
scenes: only the LLaVA's texts have the noise that makes it hallucinate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessorPil, CLIPModel

from benchmarks.synthetic import language
from benchmarks.synthetic.render import SIDE, render
from benchmarks.synthetic.scene import Scene, scene
from benchmarks.synthetic.words import CATEGORIES, COLOURS
from harness.synthetic import checkpoint
from harness.synthetic.turns import disturb

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """The settings of the CLIP's training; part of the card's fingerprint."""

    steps: int = 3000
    batch: int = 128
    """Images a step."""
    lr: float = 1.5e-3
    """Peak learning rate of AdamW."""
    warmup: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    scenes: int = 40_000
    """Number of training scenes."""
    patch_weight: float = 1.0
    """Weight of the patch loss."""


def normalise(images: np.ndarray, processor: CLIPImageProcessorPil) -> torch.Tensor:
    """Pixels ``(B, H, W, 3)`` uint8 to normalised ``(B, 3, H, W)``; equal to the processor's
    result at the native size."""
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def paint(scenes: list[Scene]) -> np.ndarray:
    """Rendered scenes, ``(B, H, W, 3)`` uint8."""
    if not scenes:
        return np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return np.stack([np.asarray(render(truth)) for truth in scenes])


def patch_labels(scenes: list[Scene], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Category and colour of the thing in each patch's cell, ``(B, side * side)``; the last class:
    no thing."""
    category = torch.full((len(scenes), side, side), len(CATEGORIES))
    colour = torch.full((len(scenes), side, side), len(COLOURS))
    cell = side // 3
    for scene_index, truth in enumerate(scenes):
        for thing in truth.things:
            rows, columns = (
                slice(index * cell, (index + 1) * cell) for index in (thing.row, thing.column)
            )
            area = (scene_index, rows, columns)
            category[area] = CATEGORIES.index(thing.category)
            colour[area] = COLOURS.index(thing.colour)
    return category.flatten(1), colour.flatten(1)


def sentences(truth: Scene, form: float, rng: Random) -> tuple[str, str]:
    """A true text of the scene (one sentence, several, or the list) and a wrong text of the same
    form."""
    wrong = disturb(truth, rng, 1)
    style = rng.randrange(3)
    if form < 0.5:  # one sentence: a true thing against a changed one
        changed = [thing for thing in wrong.things if thing not in truth.things]
        true_thing = rng.choice(truth.things)
        wrong_thing = rng.choice(changed) if changed else rng.choice(disturb(truth, rng, 2).things)
        return language.detailed_caption([true_thing], style), language.detailed_caption(
            [wrong_thing], style
        )
    if form < 0.8:
        return language.detailed_caption(truth.things, style), language.detailed_caption(
            wrong.things, style
        )
    return language.brief_caption(truth.things), language.brief_caption(wrong.things)


def train_clip(
    model: CLIPModel,
    processor: CLIPImageProcessorPil,
    encode: Encode,
    recipe: ClipRecipe,
    folder: Path,
    fingerprint: str,
    say: Callable[[str], None],
) -> None:
    """Train ``model`` in place, continuing from ``folder``. ``encode`` gives a text's ids with
    begin and end tokens."""
    heads = torch.nn.Linear(
        model.config.vision_config.hidden_size, len(CATEGORIES) + len(COLOURS) + 2
    )
    parameters = dict(model.named_parameters()) | {
        f"heads.{name}": p for name, p in heads.named_parameters()
    }
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    path = folder / "clip.safetensors"
    start = checkpoint.load(path, parameters, optimizer, fingerprint)
    start_time, pad = time.monotonic(), model.config.text_config.pad_token_id
    model.train()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * cosine(step, recipe.steps, recipe.warmup)
        rng = Random(f"clip {step}")
        scenes = [scene("train", rng.randrange(recipe.scenes)) for _ in range(recipe.batch)]
        form = rng.random()  # one form a step, so that short texts are not padded to long ones
        texts = [sentences(truth, form, rng) for truth in scenes]
        images, ids, mask = _batch(processor, encode, scenes, texts, pad)
        contrast, patch, accuracy = _losses(model, heads, images, ids, mask, scenes)
        loss = contrast + recipe.patch_weight * patch
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            seconds_per_step = (time.monotonic() - start_time) / (step + 1 - start)
            say(
                f"clip {step + 1}/{recipe.steps} contrast {contrast.item():.3f} patch"
                f" {patch.item():.3f} category {accuracy.item():.3f} time left"
                f" {seconds_per_step * (recipe.steps - step - 1):.0f} s"
            )
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            checkpoint.save(path, parameters, optimizer, step + 1, fingerprint)
    model.eval()


def _batch(
    processor: CLIPImageProcessorPil,
    encode: Encode,
    scenes: list[Scene],
    texts: list[tuple[str, str]],
    pad: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images ``(B, 3, H, W)``; ids and mask ``(2B, T)`` of the true texts, then the wrong ones."""
    rows = [encode(text) for pair in zip(*texts, strict=True) for text in pair]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return normalise(paint(scenes), processor), ids, mask


def _losses(
    model: CLIPModel,
    heads: torch.nn.Linear,
    images: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    scenes: list[Scene],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The contrastive loss, the patch loss, and the accuracy of the patches' categories."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vision = model.vision_model(images, output_hidden_states=True)
        texts = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        text = model.text_projection(texts)
        image = model.visual_projection(vision.pooler_output)
        patches = heads(vision.hidden_states[-2][:, 1:])
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    # (B, 2B): true texts, then hard negatives.
    logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
    target = torch.arange(len(scenes))
    contrast = (
        F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(scenes)].T, target)
    ) / 2
    category, colour = patch_labels(scenes, int(patches.shape[1] ** 0.5))
    kinds, colours = patches.float().split((len(CATEGORIES) + 1, len(COLOURS) + 1), dim=-1)
    patch = F.cross_entropy(kinds.flatten(0, 1), category.flatten()) + F.cross_entropy(
        colours.flatten(0, 1), colour.flatten()
    )
    occupied = category < len(CATEGORIES)
    return contrast, patch, (kinds.argmax(-1) == category)[occupied].float().mean()


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: linear over ``warmup`` steps, then half a cosine down to 1/20."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
