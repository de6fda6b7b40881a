"""Which pairs each optimiser step sees, and at what learning rate: functions of the settings and
the seed alone."""

from __future__ import annotations

import hashlib
import math

import torch

from methods.interface import Recipe


def plan(pairs: int, recipe: Recipe, seed: int, max_steps: int | None = None) -> list[list[int]]:
    """The indices of the pairs of each optimiser step, from one seeded permutation an epoch, or
    from several (``recipe.shuffles``) that are read in turn.

    Without ``max_steps`` every pair is visited ``epochs`` times, and the last step may be smaller.
    With it there are exactly ``max_steps`` full steps, and pairs are subsampled or repeated to
    fit."""
    batch = recipe.global_batch
    visits = max(1, round(recipe.epochs * pairs)) if max_steps is None else max_steps * batch
    order: list[int] = []
    while len(order) < visits:
        epoch = len(order) // pairs
        shuffled = [
            _permutation(pairs, seed, "epoch", epoch, *([shuffle] if shuffle else []))
            for shuffle in range(recipe.shuffles)
        ]
        order += [shuffled[position % recipe.shuffles][position] for position in range(pairs)]
    order = order[:visits]
    return [order[start : start + batch] for start in range(0, visits, batch)]


def _permutation(count: int, *parts: object) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(*parts))
    return list(torch.randperm(count, generator=generator).tolist())


def lr_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The share of the peak learning rate at optimiser step ``step`` (from 0): linear warm-up from
    0 over the first ``warmup`` share of steps, then cosine or linear decay to 0, or constant.

    The formulas are those of transformers' schedules. They are computed here because the linear one
    differs from transformers' in the last bit, and a factor by step needs no state to resume."""
    warmup_steps = math.ceil(recipe.warmup * steps)
    if step < warmup_steps:
        return step / warmup_steps
    if recipe.schedule == "constant":
        return 1.0
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 1.0 - share if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def derived_seed(*parts: object) -> int:
    """A seed from its parts alone, so that no random state needs to be stored."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
