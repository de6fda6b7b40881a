"""The base model itself, as a row of the table: it makes no pairs and trains nothing."""

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


ENTRY = Entry(published=Untrained(), synthetic=Untrained())
