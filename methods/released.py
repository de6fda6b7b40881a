"""Weights that authors released, as a row of the table: nothing is trained, and papers have numbers
for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.untrained import Untrained


@dataclass(frozen=True, kw_only=True)
class Released(Untrained):
    """Where the weights come from, and which rows of papers they are."""

    name: ClassVar[str] = "released"
    published_base: str
    """The base in published.csv."""
    published_rows: tuple[str, ...]
    """Their rows in published.csv; empty: no paper's number is known."""
    source: str
    """The hub id, with the commit where it is known."""
