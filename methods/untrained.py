"""The base model's own row of the table: the smallest method there is. It needs nothing, makes no
pairs and trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from methods.interface import VLM, Dropped, Field, Item, Judge, PreferencePair, Recipe, Scorer


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """No settings: the model as it is."""

    name: ClassVar[str] = "untrained"
    needs: ClassVar[frozenset[Field]] = frozenset()

    @property
    def recipe(self) -> Recipe | None:
        """None: nothing is trained."""
        return None

    def pairs(
        self,
        vlm: VLM,  # noqa: ARG002 - the protocol's arguments, none of them used
        items: Sequence[Item],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        *,
        scorer: Scorer | None = None,  # noqa: ARG002
        judge: Judge | None = None,  # noqa: ARG002
    ) -> Iterator[PreferencePair | Dropped]:
        """Nothing."""
        return iter(())
