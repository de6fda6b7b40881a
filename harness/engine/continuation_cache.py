"""Keys and values of suffixes, kept for later prompts that continue them.

A search that grows answers sentence by sentence, such as CSR's tree, repeats each answer with one
more sentence. With the cache only that sentence is read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from harness.engine.decode_state import DecodeRow
from harness.engine.kv_cache import LruCache


class ContinuationCache(LruCache[tuple[Hashable, tuple[int, ...]]]):
    """Keys and values (layers, 2, H, T, D) by prefix and suffix, T the suffix's tokens."""

    def look_up(
        self, cache_keys: Sequence[Hashable | None], rows: Sequence[DecodeRow]
    ) -> list[DecodeRow]:
        """The rows with ``cached_len`` set to their longest cached beginning. ``cache_keys`` name
        the rows' prefixes; rows with None are not cached."""
        cached: dict[Hashable, list[tuple[int, ...]]] = {}
        for cache_key, suffix in self.entries:
            cached.setdefault(cache_key, []).append(suffix)
        found = []
        for cache_key, row in zip(cache_keys, rows, strict=True):
            lengths = (
                len(beginning)
                for beginning in cached.get(cache_key, ())
                if row.suffix[: len(beginning)] == beginning
            )
            if cache_key is not None:
                row = replace(row, cache_key=cache_key, cached_len=max(lengths, default=0))
            found.append(row)
        return found

    def mark_used(self, rows: Sequence[DecodeRow]) -> None:
        """Mark the entries that these rows continue as used, in the order of the rows, so that the
        entries needed first are dropped first."""
        for row in rows:
            if row.cached_len:
                self.get((row.cache_key, row.suffix[: row.cached_len]))
