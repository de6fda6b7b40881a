"""A batch that is decoded token by token: its rows, its cache, and how its prompts are read.

A row's prefix (the prompt up to its image) is read before, once an image (prefix_cache.py). Here
the suffixes are read: rows that share a prefix are packed behind one copy of it, and the beginning
of a suffix may come from the continuation cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.engine.backbone import Backbone, LeanLlama
from harness.engine.kv_cache import KVCache, LruCache, SharedPrefixes, additive_mask
from harness.engine.step_graph import FixedStep, StepGraphs

GROWTH = 64
"""Positions by which a full cache grows. A cache is not sized for ``max_new_tokens``, as most
answers are far shorter."""

EXPECTED_TOKENS = 128
"""New tokens a row that a batch's memory is planned for. Longer answers use the memory that is
left. With CUDA graphs, a cache grows by this many positions, because each growth needs a new
graph."""

ALIGNMENT = 16
"""On CUDA, prefixes and caches are padded to a multiple of this many positions: there, matrix
products of odd lengths (577 patches and tokens) take several times as long."""

READ_TOKENS = 8192
"""Most prompt tokens in one forward pass: enough to be compute-bound, few enough to save memory."""

PASS_TOKENS = 128
"""Padding tokens that cost about as much as one more forward pass."""

LENGTH_TOLERANCE = 8
"""Padding tokens that cost about as much as one more copy of a prefix."""


@dataclass(frozen=True, kw_only=True)
class DecodeRow:
    """A prompt ready to be decoded. All rows of a batch have prefixes of one length."""

    key: str
    """Seeds the row's sampling."""
    suffix: tuple[int, ...]
    """Token ids behind the prefix; all of the prompt where there is none."""
    prefix: Tensor | None
    """The prefix's keys and values, (layers, 2, H, P, D)."""
    start: int = 0
    """Position of the suffix's first token: P, or less behind an image on a grid."""
    max_new_tokens: int | None = None
    """The row's own limit, below the batch's. None: the batch's."""
    cache_key: Hashable | None = None
    """Names the prefix in the continuation cache. None: the suffix is not cached."""
    cached_len: int = 0
    """Tokens of the suffix whose keys and values are cached."""

    @property
    def uncached_len(self) -> int:
        """Suffix tokens to be read. The last token always is: its hidden state predicts the
        next."""
        return max(1, len(self.suffix) - self.cached_len)

    @property
    def prefix_len(self) -> int:
        return 0 if self.prefix is None else int(self.prefix.shape[3])


class ContinuationCache(LruCache[tuple[Hashable, tuple[int, ...]]]):
    """Keys and values (layers, 2, H, T, D) by prefix and suffix, T the suffix's tokens, kept for
    later prompts that continue them.

    A search that grows answers sentence by sentence, such as CSR's tree, repeats each answer with
    one more sentence. With the cache only that sentence is read."""

    def look_up(
        self, cache_keys: Sequence[Hashable | None], rows: Sequence[DecodeRow]
    ) -> list[DecodeRow]:
        """The rows with ``cached_len`` set to their longest cached beginning. ``cache_keys`` name
        the rows' prefixes; rows with None are not cached."""
        cached: dict[Hashable, list[tuple[int, ...]]] = {}
        for cache_key, suffix in self.entries:
            cached.setdefault(cache_key, []).append(suffix)
        result = []
        for cache_key, row in zip(cache_keys, rows, strict=True):
            lengths = (
                len(beginning)
                for beginning in cached.get(cache_key, ())
                if row.suffix[: len(beginning)] == beginning
            )
            if cache_key is not None:
                row = replace(row, cache_key=cache_key, cached_len=max(lengths, default=0))
            result.append(row)
        return result

    def mark_used(self, rows: Sequence[DecodeRow]) -> None:
        """Mark the entries that these rows continue as used, in the order of the rows, so that the
        entries needed first are dropped first."""
        for row in rows:
            if row.cached_len:
                self.get((row.cache_key, row.suffix[: row.cached_len]))


@dataclass(kw_only=True, eq=False)
class Decoder:
    """The parts of a model that decoding calls, and the cache of suffixes between calls."""

    embed: Callable[[Tensor], Tensor]
    text: Backbone
    lm_head: Callable[[Tensor], Tensor]
    device: torch.device
    continuations: ContinuationCache
    graphs: StepGraphs

    def __post_init__(self) -> None:
        self.alignment = ALIGNMENT if self.device.type == "cuda" else 1

    @property
    def uses_graphs(self) -> bool:
        return self.graphs.used and isinstance(self.text, LeanLlama)

    @property
    def growth(self) -> int:
        return EXPECTED_TOKENS if self.uses_graphs else GROWTH

    def round_up(self, positions: int) -> int:
        return -(-positions // self.alignment) * self.alignment

    def should_shrink(self, remaining: int, rows: int) -> bool:
        """Whether to drop the finished rows of a batch of ``rows`` rows, ``remaining`` unfinished.

        Copying the cache costs about a step, so a few finished rows stay. With a graph more stay,
        up to half of the batch: a step reads all weights for any number of rows (most of its time),
        and each change costs a capture and some steps without a graph, about four steps."""
        return remaining <= (rows // 2 if self.uses_graphs else rows * 7 // 8)

    def new_cache(self, rows: Sequence[DecodeRow], capacity: int, copies: int = 1) -> KVCache:
        """A cache with each row's prefix and ``capacity`` positions behind it. A prefix of several
        rows is stored once where the backbone allows it. ``copies``: how many rows the caller will
        make of each."""
        prefixes = [row.prefix for row in rows if row.prefix is not None]
        if not prefixes:
            return KVCache(self.text.allocate(len(rows), self.round_up(capacity)))
        distinct = list({id(prefix): prefix for prefix in prefixes}.values())
        if not self.text.shares_prefixes or 2 * len(distinct) > copies * len(rows):
            return self.copy_prefixes(prefixes, capacity)
        slots = {id(prefix): slot for slot, prefix in enumerate(distinct)}
        filled = self.copy_prefixes(distinct, 0)
        for layer in filled.layers:
            layer[:, :, :, filled.offset :] = 0
        owners = [slots[id(prefix)] for prefix in prefixes]
        shared = SharedPrefixes(filled.layers, owners, filled.offset)
        return KVCache(self.text.allocate(len(rows), self.round_up(capacity)), shared=shared)

    def copy_prefixes(self, prefixes: Sequence[Tensor], capacity: int) -> KVCache:
        """A cache with a copy of its prefix in each row, and ``capacity`` positions or a few more
        behind it."""
        length = int(prefixes[0].shape[3])
        layers = self.text.allocate(len(prefixes), self.round_up(length + capacity))
        for index, layer in enumerate(layers):
            torch.stack([prefix[index] for prefix in prefixes], 1, out=layer[:, :, :, :length])
        return KVCache(layers, offset=length)


class DecodeState:
    """A batch whose prompts have been read. ``hidden`` (B, 1, width) predicts the next tokens.

    Suffixes are padded on the left to one length. ``copies``: how many rows the caller will make
    of each. The cache has room for the first of ``new_tokens`` tokens a row, and grows."""

    def __init__(
        self, decoder: Decoder, rows: Sequence[DecodeRow], new_tokens: int, copies: int = 1
    ) -> None:
        self.decoder, device = decoder, decoder.device
        self.used = longest = max(len(row.suffix) for row in rows)
        self.lengths = torch.tensor([row.start + len(row.suffix) for row in rows], device=device)
        self.cache = decoder.new_cache(rows, longest + min(decoder.growth, new_tokens), copies)
        self.max_used = longest + new_tokens - 1
        self.fixed_step: FixedStep | None = None
        self.plain_steps = 0  # since rows left or the cache grew
        entries = decoder.continuations.entries
        cached = [entries.get((row.cache_key, row.suffix[: row.cached_len])) for row in rows]
        # An entry may have been dropped since it was looked up: its tokens are read again.
        rows = [
            row if entry is not None else replace(row, cached_len=0)
            for row, entry in zip(rows, cached, strict=True)
        ]
        packed = self.cache.shared is not None and not any(row.cached_len for row in rows)
        order: list[int] = []
        hidden = []
        for packs in plan_passes(rows, packed=packed):
            hidden.append(
                self._read_packs(rows, packs)
                if packed
                else self._read_rows(rows, [index for (index,) in packs], cached)
            )
            order += [index for pack in packs for index in pack]
        del cached  # the batch's cache holds copies
        self.hidden = torch.cat(hidden)
        if order != sorted(order):
            self.hidden = self.hidden[torch.tensor(order, device=device).argsort()]
        pads = torch.tensor([longest - len(row.suffix) for row in rows], device=device)
        padded = torch.arange(longest, device=device)[None] < pads[:, None]
        short = any(len(row.suffix) < longest for row in rows)
        self.mask = additive_mask(padded[:, None, None], self.hidden.dtype) if short else None
        self._store_suffixes(rows)

    def _store_suffixes(self, rows: Sequence[DecodeRow]) -> None:
        end = self.cache.offset + self.used
        for index, row in enumerate(rows):
            if row.cache_key is not None:
                begin = end - len(row.suffix)
                suffix = [layer[:, index, :, begin:end] for layer in self.cache.layers]
                self.decoder.continuations.put((row.cache_key, row.suffix), torch.stack(suffix))

    def _inputs(
        self, rows: Sequence[DecodeRow], length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last ``length`` suffix tokens of N rows: ids and positions (N, length), which
        positions each token must not see (N, length, length), and the number of pads (N,), negative
        where some tokens are not read."""
        device = self.decoder.device
        ids = [[0] * (length - len(row.suffix)) + list(row.suffix[-length:]) for row in rows]
        pads = torch.tensor([length - len(row.suffix) for row in rows], device=device)
        starts = torch.tensor([row.start for row in rows], device=device)
        step = torch.arange(length, device=device)
        positions = starts[:, None] + (step - pads[:, None]).clamp_min(0)
        masked = (step < pads[:, None])[:, None] | (step > step[:, None])
        return torch.tensor(ids, device=device), positions, masked, pads

    def _read_rows(
        self, rows: Sequence[DecodeRow], indices: Sequence[int], cached: Sequence[Tensor | None]
    ) -> Tensor:
        """Read the suffixes of consecutive rows, one row each in the forward pass. Returns the
        hidden states (N, 1, width) of their last tokens.

        Each row reads as many last tokens as the row with the most uncached ones. The positions
        before them are filled from the cached entries."""
        batch = [rows[index] for index in indices]
        length = max(row.uncached_len for row in batch)
        ids, positions, masked, pads = self._inputs(batch, length)
        x, start = self.decoder.embed(ids), self.used - length
        layers, shared = self.cache.layers, self.cache.shared
        if len(indices) < len(rows):
            layers = [layer[:, indices[0] : indices[-1] + 1] for layer in layers]
            shared = None if shared is None else shared.of_rows(indices)
        begin, end = self.cache.offset, self.cache.offset + start
        padded = begin + min(start, self.used - min(len(row.suffix) for row in batch))
        for depth, layer in enumerate(layers):
            layer[:, :, :, begin:padded] = 0  # masked positions must be finite all the same
            for i, (index, row) in enumerate(zip(indices, batch, strict=True)):
                entry, first = cached[index], begin + self.used - len(row.suffix)
                if entry is not None and first < end:
                    layer[:, i : i + 1, :, first:end] = entry[depth, :, None, :, : end - first]
        cached_mask = torch.arange(-start, 0, device=self.decoder.device) < pads[:, None]
        cached_mask = cached_mask[:, None, None].expand(-1, 1, length, -1)
        mask = additive_mask(torch.cat([cached_mask, masked[:, None]], -1), x.dtype)
        cache = KVCache(layers, self.cache.offset, shared)
        return self.decoder.text(x, positions, cache, start, mask, segments=1)

    def _read_packs(self, rows: Sequence[DecodeRow], packs: Sequence[Sequence[int]]) -> Tensor:
        """Read the suffixes of rows in packs: the suffixes of a pack stand in one row of the
        forward pass, behind one copy of their prefix, and do not see each other. Returns the hidden
        states (N, 1, width) of their last tokens, in the order of the packs."""
        device, size, count = self.decoder.device, max(map(len, packs)), len(packs)
        indices = [index for pack in packs for index in pack]
        # A pack that is not full repeats its first suffix, whose second result is not used.
        filled_rows = [
            rows[index] for pack in packs for index in (*pack, *[pack[0]] * (size - len(pack)))
        ]
        slots = [
            number * size + slot for number, pack in enumerate(packs) for slot in range(len(pack))
        ]
        length = max(rows[index].uncached_len for index in indices)
        ids, positions, masked, _ = self._inputs(filled_rows, length)
        x, start = self.decoder.embed(ids.view(count, -1)), self.used - length
        prefixes = [prefix for pack in packs if (prefix := rows[pack[0]].prefix) is not None]
        cache = self.decoder.copy_prefixes(prefixes, size * length)
        same = torch.eye(size, dtype=torch.bool, device=device)[None, :, None, :, None]
        masked = masked.view(count, size, length, length)
        masked = (~same | masked[:, :, :, None]).reshape(count, 1, size * length, size * length)
        mask = additive_mask(masked, x.dtype)
        positions = positions.view(count, -1)
        hidden = self.decoder.text(x, positions, cache, 0, mask, segments=size)
        sources, targets = torch.tensor(slots, device=device), torch.tensor(indices, device=device)
        for layer, pass_layer in zip(self.cache.layers, cache.layers, strict=True):
            suffixes = pass_layer[:, :, :, cache.offset : cache.offset + size * length]
            suffixes = suffixes.view(2, count, pass_layer.shape[2], size, length, -1)
            suffixes = suffixes.transpose(2, 3).flatten(1, 2)
            layer[:, targets, :, start : start + length] = suffixes[:, sources]
            if start:
                layer[:, targets, :, :start] = 0
        return hidden.flatten(0, 1)[sources][:, None]

    def logits(self) -> Tensor:
        """Logits (B, V) of the next tokens, float32."""
        return self.decoder.lm_head(self.hidden)[:, 0].float()

    def advance(self, tokens: Tensor, rows: Sequence[int] | None = None) -> None:
        """Append a token (B,) to each row. ``rows`` first selects the batch's new rows; a row may
        be selected several times or not at all."""
        decoder, cache, used, capacity = self.decoder, self.cache, self.used, self.cache.capacity
        if rows is not None or used == capacity:
            self.fixed_step, self.plain_steps = None, 0  # a graph reads the old cache
            new_capacity = capacity if used < capacity else used + max(decoder.growth, used // 4)
            cache.resize(rows, used, decoder.round_up(cache.offset + new_capacity) - cache.offset)
        if rows is not None:
            keep = torch.tensor(rows, device=self.decoder.device)
            self.lengths = self.lengths[keep]
            self.mask = None if self.mask is None else self.mask[keep]
        x = decoder.embed(tokens[:, None])
        self.used = used + 1
        if not decoder.uses_graphs:
            self.fixed_step = None
        elif self.fixed_step is None and isinstance(decoder.text, LeanLlama):
            steps_left = min(self.max_used, cache.capacity) - used
            if decoder.graphs.should_capture(self.plain_steps, steps_left):
                self.fixed_step = FixedStep(decoder.text, cache, x, self.lengths, self.mask, used)
        if self.fixed_step is not None:
            self.hidden = decoder.graphs.run(self.fixed_step, x)
            return
        if self.mask is not None:
            self.mask = F.pad(self.mask, (0, used + 1 - self.mask.shape[-1]))
        self.hidden = decoder.text(x, self.lengths[:, None], cache, used, self.mask, segments=1)
        self.lengths = self.lengths + 1
        self.plain_steps += 1


def plan_passes(rows: Sequence[DecodeRow], *, packed: bool) -> list[list[list[int]]]:
    """Forward passes, each a list of packs, each a list of row indices. A pack has rows of one
    prefix if ``packed``, else a single row. A pass has at most :data:`READ_TOKENS` tokens and
    :data:`PASS_TOKENS` pads."""
    passes: list[list[list[int]]] = []
    size = longest = total = 0
    for pack in pack_rows(rows) if packed else [[index] for index in range(len(rows))]:
        lengths = [rows[index].uncached_len for index in pack]
        size, longest, total = max(size, len(pack)), max(longest, *lengths), total + sum(lengths)
        tokens = size * longest * (len(passes[-1]) + 1) if passes else 0
        if not passes or tokens > READ_TOKENS or tokens - total > PASS_TOKENS:
            passes.append([])
            size, longest, total = len(pack), max(lengths), sum(lengths)
        passes[-1].append(pack)
    return passes


def pack_rows(rows: Sequence[DecodeRow]) -> list[list[int]]:
    """Row indices in packs of one prefix and similar lengths, largest packs first. A pack has no
    more tokens than its prefix, so that little masked attention is computed."""
    by_prefix: dict[int, list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].suffix)):
        by_prefix.setdefault(id(rows[index].prefix), []).append(index)
    packs = []
    for remaining in by_prefix.values():
        while remaining:
            longest = len(rows[remaining[0]].suffix)
            similar = [p for p in remaining if longest - len(rows[p].suffix) <= LENGTH_TOLERANCE]
            limit = max(1, rows[remaining[0]].prefix_len // longest)
            count = math.ceil(len(similar) / limit)  # as few packs as possible, of equal size
            size = math.ceil(len(similar) / count)
            packs.append(remaining[:size])
            remaining = remaining[size:]
    return sorted(packs, key=lambda pack: (-len(pack), -len(rows[pack[0]].suffix)))
