"""Keys and values of prompts' texts behind their images' heads, kept for later prompts that go on
from them.

A search that grows texts (CSR's tree) asks for each text again with a sentence more: only that
sentence is then read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from harness.engine.decode import Row
from harness.engine.lru import Lru


class Texts(Lru[tuple[Hashable, tuple[int, ...]]]):
    """By head and tail: (layers, 2, H, T, D), T the tail's tokens; at most ``limit`` bytes of
    them."""

    def begun(self, heads: Sequence[Hashable | None], rows: Sequence[Row]) -> list[Row]:
        """The rows behind these heads (None: without an image), each told how much of its tail is
        kept, and to be kept too."""
        known: dict[Hashable, list[tuple[int, ...]]] = {}
        for head, tail in self.kept:
            known.setdefault(head, []).append(tail)
        found = []
        for head, row in zip(heads, rows, strict=True):
            fitting = (len(tail) for tail in known.get(head, ()) if row.tail[: len(tail)] == tail)
            found.append(
                row if head is None else replace(row, head=head, begun=max(fitting, default=0))
            )
        return found

    def due(self, rows: Sequence[Row]) -> None:
        """What these rows go on from is forgotten in their order: first what was read first, and so
        is needed no more."""
        for row in rows:
            if row.begun:
                self.get((row.head, row.tail[: row.begun]))
