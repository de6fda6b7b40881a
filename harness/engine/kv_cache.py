"""Key-value caches: of a batch (:class:`KVCache`), with prefixes that several rows share
(:class:`SharedPrefixes`), and between calls (:class:`LruCache`).

A prefix is a prompt's beginning up to and including its image; the tokens behind it are the
suffix. Attention over a shared prefix follows Hydragen (Juravsky et al., arXiv 2402.05099)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

K = TypeVar("K", bound=Hashable)


class LruCache(Generic[K]):
    """Tensors by key, at most ``limit`` bytes; the least recently used are dropped first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.entries: OrderedDict[K, Tensor] = OrderedDict()

    def get(self, key: K) -> Tensor | None:
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.entries.get(key)

    def put(self, key: K, value: Tensor) -> None:
        if key not in self.entries:
            self.used += value.nbytes
        self.entries[key] = value
        while self.used > self.limit:
            self.used -= self.entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self.entries.clear()
        self.used = 0


class SharedPrefixes:
    """Keys and values of G prefixes of P positions, and which row reads which prefix.

    ``layers`` holds a tensor (2, G, H, P, D) a layer, ``owners`` the prefix's number for each of B
    rows. The queries of a prefix's rows are grouped, so each prefix is read once a step, not once
    a row. ``length``: positions of the prefixes where zeros fill them up to P; None: P."""

    def __init__(
        self, layers: list[Tensor], owners: Sequence[int], length: int | None = None
    ) -> None:
        self.layers, self.owners = layers, list(owners)
        self.length = layers[0].shape[3] if length is None else length
        counts = [0] * layers[0].shape[1]
        ranks = []
        for owner in self.owners:
            ranks.append(counts[owner])
            counts[owner] += 1
        self.max_rows = max(counts)
        device = layers[0].device
        self.owner = torch.tensor(self.owners, device=device)
        self.slot = self.max_rows * self.owner + torch.tensor(ranks, device=device)

    def of_rows(self, rows: Sequence[int]) -> SharedPrefixes:
        """The prefixes of some rows. Prefixes without a row are dropped once they are half of all,
        so that a copy is never larger than what it frees."""
        owners = [self.owners[row] for row in rows]
        used = sorted(set(owners))
        if 2 * len(used) > self.layers[0].shape[1]:
            return SharedPrefixes(self.layers, owners, self.length)
        indices = torch.tensor(used, device=self.owner.device)
        layers = [layer.index_select(1, indices) for layer in self.layers]
        return SharedPrefixes(layers, [used.index(owner) for owner in owners], self.length)

    def attend(self, layer: int, query: Tensor, suffix: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of S new positions a row over prefix and suffix, with one softmax over both.

        ``query`` (B, S, Hq, D), ``suffix`` keys and values (2, B, H, T, D), ``mask`` (B, 1, S, T)
        is added to the suffix's scores. Returns (B, S, Hq, D)."""
        prefix = self.layers[layer]
        kv_heads, length, size = prefix.shape[2:]
        rows, new_positions, query_heads = query.shape[:3]
        queries = query_heads // kv_heads * new_positions  # of a key head: S for each query head
        scaled = (query * size**-0.5).view(rows, new_positions, kv_heads, -1, size)
        query = scaled.permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, queries, size)
        suffix_scores = query @ suffix[0].transpose(-1, -2)  # (B, H, queries, T)
        if mask is not None:
            grid = suffix_scores.view(rows, kv_heads, -1, new_positions, suffix_scores.shape[-1])
            suffix_scores = (grid + mask[:, :, None]).view(suffix_scores.shape)
        # (B, H, queries, P)
        prefix_scores = self.ungroup(self.group(query) @ prefix[0].transpose(-1, -2), queries)
        if self.length < length:
            prefix_scores[..., self.length :].fill_(-torch.inf)
        weights = (
            torch.cat([prefix_scores, suffix_scores], -1)
            .softmax(-1, dtype=torch.float32)
            .to(query.dtype)
        )
        of_prefix = self.ungroup(self.group(weights[..., :length]) @ prefix[1], queries)
        attended = weights[..., length:] @ suffix[1] + of_prefix
        attended = attended.view(rows, kv_heads, -1, new_positions, size).permute(0, 3, 1, 2, 4)
        return attended.reshape(rows, new_positions, query_heads, size)

    def group(self, x: Tensor) -> Tensor:
        """Rows (B, H, queries, E) grouped by prefix: (G, H, max_rows * queries, E), empty slots
        zero."""
        _, kv_heads, queries, size = x.shape
        slots = self.layers[0].shape[1] * self.max_rows
        padded = x.new_zeros(slots, kv_heads, queries, size).index_copy_(0, self.slot, x)
        grouped = padded.view(-1, self.max_rows, kv_heads, queries, size).transpose(1, 2)
        return grouped.reshape(-1, kv_heads, self.max_rows * queries, size)

    def ungroup(self, x: Tensor, queries: int) -> Tensor:
        """The inverse of :meth:`group`."""
        groups, kv_heads, _, size = x.shape
        ungrouped = x.view(groups, kv_heads, self.max_rows, queries, size).transpose(1, 2)
        return ungrouped.reshape(-1, kv_heads, queries, size).index_select(0, self.slot)


class KVCache:
    """Keys and values of B rows: a tensor (2, B, H, capacity, D) a layer. The caller keeps count of
    the filled positions.

    A row's prefix lies either in ``shared``, one copy for all its rows, or in the row's own first
    ``offset`` positions."""

    def __init__(
        self, layers: list[Tensor], offset: int = 0, shared: SharedPrefixes | None = None
    ) -> None:
        self.layers, self.offset, self.shared = layers, offset, shared

    @property
    def capacity(self) -> int:
        """Positions behind the prefix."""
        return self.layers[0].shape[3] - self.offset

    @property
    def prefix_len(self) -> int:
        """Positions of the prefix, wherever it lies."""
        return self.offset if self.shared is None else self.shared.length

    def resize(self, rows: Sequence[int] | None, used: int, capacity: int) -> None:
        """Keep the chosen rows (None: all) and their first ``used`` suffix positions, with another
        ``capacity``."""
        used, total = self.offset + used, self.offset + capacity
        indices = None if rows is None else torch.tensor(rows, device=self.layers[0].device)
        for index, old in enumerate(self.layers):
            kept = old[:, :, :, :used]
            kept = kept if indices is None else kept.index_select(1, indices)
            new = old.new_empty(*kept.shape[:3], total, old.shape[4])
            new[:, :, :, :used] = kept
            self.layers[index] = new  # frees the old layer before the next is copied
        if rows is not None and self.shared is not None:
            self.shared = self.shared.of_rows(rows)

    def full_mask(
        self, mask: Tensor | None, rows: int, length: int, start: int, like: Tensor
    ) -> Tensor | None:
        """The suffix's mask extended over the prefix; None where plain causal or full attention is
        the same."""
        if mask is not None:
            return F.pad(mask, (self.prefix_len, 0)) if self.prefix_len else mask
        if length == 1 or self.prefix_len + start == 0:
            return None
        return causal_mask(rows, length, self.prefix_len + start + length, like)


def causal_mask(rows: int, length: int, end: int, like: Tensor) -> Tensor:
    """Additive mask (rows, 1, length, end): the last ``length`` of ``end`` positions see themselves
    and all positions before them."""
    query_positions = torch.arange(end - length, end, device=like.device)
    hidden = torch.arange(end, device=like.device)[None] > query_positions[:, None]
    return additive_mask(hidden, like.dtype)[None, None].expand(rows, 1, -1, -1)


def additive_mask(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """0, and the lowest finite number where ``hidden``: with -inf a padding position that sees
    nothing would become NaN."""
    mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)
