"""Which pairs each optimiser step sees and at what learning rate: functions of the settings and the
seed alone."""

from __future__ import annotations

import hashlib
import math

import torch

from methods.interface import Recipe


def plan(pairs: int, recipe: Recipe, seed: int, max_steps: int | None = None) -> list[list[int]]:
    """The indices of the pairs of each optimiser step: one seeded permutation an epoch, laid end to
    end.

    Without ``max_steps`` there are ``epochs * pairs`` visits and the last step may be smaller. With
    it there are exactly
    ``max_steps`` full steps: the permutations are cut short (pairs are subsampled) or continued
    (pairs are cycled) to fit."""
    visits = (
        max(1, round(recipe.epochs * pairs))
        if max_steps is None
        else max_steps * recipe.global_batch
    )
    order: list[int] = []
    while len(order) < visits:
        generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", len(order) // pairs))
        order += torch.randperm(pairs, generator=generator).tolist()
    order = order[:visits]
    return [
        order[start : start + recipe.global_batch]
        for start in range(0, visits, recipe.global_batch)
    ]


def lr_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The share of the learning rate at optimiser step ``step`` (from 0), as transformers'
    schedules of these names have it: linear warm-up from 0 over the first ``warmup`` share of
    steps, then the schedule down to 0 (or level)."""
    warm = math.ceil(recipe.warmup * steps)
    if step < warm:
        return step / warm
    if recipe.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return 1.0 - done if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def derived_seed(*parts: object) -> int:
    """A seed that is a function of its parts alone, so that no random state needs storing."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
