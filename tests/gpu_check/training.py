"""Part c: DPO on 7B's shape with adapters and in full, against trl's DPOTrainer on the same pairs.

A card that does not hold a training in full gets the largest number of layers that fits, and the
table says so. Peak FLOP/s are those that this card was measured to do.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from PIL.Image import Image

from harness.models.device_memory import out_of_memory
from harness.training.memory import GIB
from harness.training.placement import Placement
from methods.interface import PreferencePair, Recipe
from tests.benches import gpu_dpo, made, recorded
from tests.benches.gpu_models import build
from tests.benches.gpu_work import FORMAT, PATCHES, Rates, pictures
from tests.gpu_check.card import free_bytes, layers_to_train, measure, peak_gib
from tests.gpu_check.part import Asked, child

TABLE = "DPO"
SIZES = {"7b": (96, 32, 8), "slim": (2, 1, 1), "tiny": (16, 8, 4)}
"""Pairs, pairs an optimizer step, and pairs at once."""
KINDS = {"LoRA": True, "full": False}
REFERENCE = 0.125
"""Of a full training's memory, the frozen copy that trl keeps beside it."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Pairs and images of a training, and how many go at once."""

    pairs: Sequence[PreferencePair]
    images: Sequence[Image]
    recipe: Recipe
    at_once: int
    layers: int | None


def run(asked: Asked) -> None:
    rates = measure(asked.device) if asked.device == "cuda" and asked.shape == "7b" else None
    count, batch, at_once = SIZES[asked.shape]
    expected = 0.0
    for place, (kind, adapted) in enumerate(KINDS.items()):
        if asked.left < 5:
            asked.note(f"Left out: {kind} training; no time was left.")
            return
        recipe = gpu_dpo.recipe(asked.shape, batch, adapted)
        layers = None
        if rates is not None:
            try:
                layers = layers_to_train(free_bytes(), recipe, 0.0 if adapted else REFERENCE)
            except MemoryError as error:
                asked.note(f"Left out: {kind} training. {error}")
                continue
            if layers is not None:
                asked.note(f"{kind}: {layers} of 32 layers fit this card; no figure is 7B's.")
        images = pictures(max(1, count // 3), 60 if asked.shape == "tiny" else 336)
        pairs = recorded.pairs(count, len(images), asked.shape)
        work = Work(pairs=pairs, images=images, recipe=recipe, at_once=at_once, layers=layers)
        until = time.time() + asked.left * (0.6 if place == 0 else 1.0)
        expected = both(asked, kind, work, rates, until, expected)


def both(
    asked: Asked,
    kind: str,
    work: Work,
    rates: Rates | None,
    until: float,
    expected: float,
) -> float:
    """Our training and, where there is time until then, trl's.

    ``expected``: seconds that trl's may take (0: not known); the same for the next training.
    """
    began = time.monotonic()
    device, count = asked.device, len(work.pairs)
    model, processor = build(asked.shape, device, work.layers)
    tower = sum(one.numel() for name, one in model.named_parameters() if "vision_tower" in name)
    text = sum(one.numel() for one in model.parameters()) - tower
    peak_gib(device)
    placement = Placement(device_batch=work.at_once, log_to=(), find_batch_size=device == "cuda")
    trained = gpu_dpo.ours(
        model,
        processor,
        work.pairs,
        work.images,
        work.recipe,
        work.at_once,
        placement,
    )
    peak = peak_gib(device)
    del model
    cells: dict[str, Any] = {"pairs": count, "ours, pairs a second": count / trained.seconds}
    if trained.steps and device == "cuda":  # on the CPU the others are of processor time
        batch = min(work.recipe.global_batch, count)
        cells["steps alone, pairs a second"] = batch / median(trained.steps)
    cells["laid"] = trained.laid
    if peak is not None:
        cells |= {"peak, GiB": peak, "counted, GiB": trained.counted / GIB}
    if rates is not None:
        prompt, side = tokens(work.pairs)
        best = gpu_dpo.floor_pairs_a_second(
            text,
            prompt,
            side,
            tflops=rates.flops / 1e12,
            full=work.recipe.lora is None,
        )
        cells["of peak FLOP/s"] = count / trained.seconds / best
    asked.row(TABLE, kind, cells)
    clean(device)
    took = against_trl(asked, kind, work, trained, until, expected or time.monotonic() - began)
    clean(device)
    return took


def tokens(pairs: Sequence[PreferencePair]) -> tuple[float, float]:
    """Tokens of a prompt with its image, and of an answer, in the mean."""
    prompt = PATCHES + FORMAT + sum(made.tokens(pair.prompt) for pair in pairs) / len(pairs)
    answers = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    return prompt, sum(map(made.tokens, answers)) / len(answers)


def against_trl(
    asked: Asked,
    kind: str,
    work: Work,
    trained: gpu_dpo.Trained,
    until: float,
    expected: float,
) -> float:
    """trl's side with fewer pairs at once, and at last recomputed activations, until it fits.

    How many seconds it took, or is expected to take.
    """
    ways = [(size, False) for size in (8, 4, 2, 1) if size <= work.at_once] + [(1, True)]
    for size, recomputed in ways:
        if until - time.time() < expected:
            asked.note(f"Left out: {kind} training by trl; too little time was left.")
            return expected
        began = time.monotonic()
        done = attempt(asked, work, size, recomputed)
        if done is None:
            clean(asked.device)
            continue
        seconds, losses, peak = done
        pairs = zip(trained.losses, losses, strict=True)
        cells: dict[str, Any] = {
            "trl, pairs a second": len(work.pairs) / seconds,
            "ratio": seconds / trained.seconds,
            "first losses": f"{trained.losses[0]:.5f} and {losses[0]:.5f}",
            "largest difference of a loss": max(abs(a - b) for a, b in pairs),
            "trl laid": f"{size} pairs at once" + ", activations recomputed" * recomputed,
        }
        asked.row(TABLE, kind, cells | ({} if peak is None else {"trl's peak, GiB": peak}))
        return time.monotonic() - began
    asked.note(f"Left out: {kind} training by trl; memory ran out with one pair at a time.")
    return expected


def attempt(
    asked: Asked,
    work: Work,
    size: int,
    recomputed: bool,
) -> tuple[float, list[float], float | None] | None:
    """Seconds, losses and peak memory; None where memory ran out."""
    device, full = asked.device, work.recipe.lora is None
    try:
        model, processor = build(asked.shape, device, work.layers)
        reference = build(asked.shape, device, work.layers)[0] if full else None
        if full:
            model = model.float()  # as ours: trained weights in float32, products in bfloat16
        peak_gib(device)
        seconds, losses = gpu_dpo.trls(
            model,
            reference,
            processor,
            work.pairs,
            work.images,
            work.recipe,
            size,
            recomputed,
        )
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return None
    return seconds, losses, peak_gib(device)


def clean(device: str) -> None:
    """Give back what the last training held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    child("training", run)
