"""Rows that make no pairs and train nothing: the base model itself, and weights that authors
released."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from methods.entry import Entry
from methods.interface import Dropped, Field, Item, Method, PreferencePair, Tools


@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    """Has no settings."""

    name: ClassVar[str] = "untrained"
    needs: ClassVar[frozenset[Field]] = frozenset()

    @property
    def recipe(self) -> None:
        """None: nothing is trained."""
        return

    def pairs(
        self,
        items: Sequence[Item],  # noqa: ARG002 - the protocol's arguments
        tools: Tools,  # noqa: ARG002
    ) -> Iterator[PreferencePair | Dropped]:
        """No pairs."""
        return iter(())


@dataclass(frozen=True, kw_only=True)
class Released(Untrained):
    """Weights that authors released: where they come from, and which rows of papers they are."""

    name: ClassVar[str] = "released"
    published_base: str
    """The base in published.csv."""
    published_rows: tuple[str, ...]
    """Their rows in published.csv; empty: no paper's number is known."""
    source: str
    """The hub id, with the commit where it is known."""


ENTRY = Entry(published=Untrained(), synthetic=Untrained())
