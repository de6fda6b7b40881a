"""An entry of the methods' catalogue: a method's settings on real and on synthetic bases, what its
paper ran, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

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
    seconds_per_image: float = 0.05
    """The least time to make an image's pairs: arithmetic for LLaVA-1.5-7B on one H200."""
    pairs_per_image: float = 1.0
    """Pairs of an image at most, before drops."""

    @property
    def name(self) -> str:
        return self.published.name
