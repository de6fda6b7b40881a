"""An entry of the methods' catalogue: a method's settings on real and on synthetic bases, what its
paper ran, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from methods.interface import Method, Recipe

SYNTHETIC_RECIPE = Recipe(lr=2e-5, epochs=2, global_batch=32)
"""Training on the synthetic base: what the trials chose for SIMA and for CSR (results/LOG.md). The
references had no trials; they take SIMA's recipe, because they differ from SIMA in the pairs
alone."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the comparison, in two settings."""

    published: Method
    """On real bases: the paper's own settings and recipe."""
    synthetic: Method
    """On the synthetic base: chosen among twelve trials per method on the development split
    (harness/study/tune.py), never on the test split. All else is as published."""
    images: int | None = None
    """Images per round of the paper; None: no paper study."""
    rounds: int = 1
    """Rounds of the paper."""
    same_images: bool = False
    """Whether the paper's rounds use the same images and prompts (CSR's released prompts)."""
    published_13b: Recipe | None = None
    """The paper's recipe for a base of 13 billion parameters, where it differs."""
    seconds_per_image: float = 0.05
    """The least time to make an image's pairs: arithmetic for LLaVA-1.5-7B on one H200."""
    pairs_per_image: float = 1.0
    """Pairs of an image at most, before drops."""

    @property
    def name(self) -> str:
        return self.published.name

    def recipe(self, parameters: float) -> Recipe | None:
        """The paper's recipe for a base of this size."""
        large = parameters > 10e9 and self.published_13b is not None
        return self.published_13b if large else self.published.recipe


def as_released(method: Any, recipe: Recipe | None = None) -> Any:
    """This row's settings with all that the released code does differently from the method's
    defaults; a method without released code stays.

    ``recipe``: the training's size (rates, batch, epochs, LoRA); None: the released one. What the
    released code does beside that (objective, clipping, a frozen projector) is always set."""
    kind = type(method)
    if not hasattr(kind, "as_released"):
        return method
    default, released = kind(), kind.as_released()
    changes = {
        field.name: getattr(released, field.name)
        for field in fields(method)
        if getattr(released, field.name) != getattr(default, field.name)
    }
    executed = {name: getattr(released.recipe, name) for name in EXECUTED}
    changes["recipe"] = released.recipe if recipe is None else replace(recipe, **executed)
    return replace(method, **changes)


EXECUTED = ("objective", "projector_lr", "max_grad_norm", "shuffles", "double_wrapped")
"""Fields of a recipe that say how the released trainer works, not how large a training is."""
