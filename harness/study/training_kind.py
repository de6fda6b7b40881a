"""Full training or LoRA, for all rows of a comparison alike (``--lora``, ``--full``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.errors import UserError
from methods.interface import Lora, Method, Recipe

RATE = 10.0
"""With LoRA the learning rate is so many times that of full training. It was tuned for no row."""
LORA = Lora(r=128, alpha=256)
"""The adapters of a real base: those that SIMA's and CSR's released scripts train."""
SYNTHETIC_LORA = Lora(r=16, alpha=32)
"""The adapters of the synthetic base: a quarter of its width."""


def with_lora(recipe: Recipe, *, synthetic: bool) -> Recipe:
    """The recipe with adapters and a frozen projector; a recipe with LoRA stays as it is."""
    if recipe.lora is not None:
        return recipe
    lora = SYNTHETIC_LORA if synthetic else LORA
    rate = float(f"{RATE * recipe.lr:.6g}")  # 2e-05, not 1.9999999999999998e-05
    return replace(recipe, lr=rate, lora=lora, projector_lr=0.0)


def with_training_kind(
    rows: Mapping[str, Method], profile: str, *, lora: bool, full: bool, synthetic: bool
) -> dict[str, Method]:
    """The rows, each trained with LoRA or each in full, as asked.

    Raises:
        UserError: both are asked, or the profile says something else.
    """
    if lora and full:
        raise UserError("--lora and --full exclude each other; give one of them.")
    if lora and profile == "released":
        raise UserError(
            "--lora: the profile released trains as the authors' code does; leave --lora out, or"
            " take --profile equal or published."
        )
    if full and profile != "equal":
        raise UserError(
            f"--full: the profile {profile} trains as the papers do, some of them with LoRA; leave"
            " --full out, or take --profile equal."
        )
    if not lora:
        return dict(rows)
    return {name: _with_lora(row, synthetic) for name, row in rows.items()}


def _with_lora(row: Any, synthetic: bool) -> Method:
    if row.recipe is None:
        return row  # type: ignore[no-any-return]
    return replace(row, recipe=with_lora(row.recipe, synthetic=synthetic))  # type: ignore[no-any-return]


def note(before: Mapping[str, Method], after: Mapping[str, Method]) -> str:
    """A sentence about the rows that train LoRA in place of a full training; empty: none does."""
    lora_rows = [
        (name, row.recipe.lora)
        for name, row in after.items()
        if row.recipe is not None and row.recipe.lora and row.recipe != before[name].recipe
    ]
    if not lora_rows:
        return ""
    lora, rows = lora_rows[0][1], ", ".join(name for name, _ in lora_rows)
    return (
        f"Trained with LoRA (r {lora.r}, alpha {lora.alpha}, projector frozen, {RATE:g} times the"
        f" learning rate, not tuned) in place of full training: {rows}."
    )
