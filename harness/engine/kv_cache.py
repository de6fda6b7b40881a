"""Keys and values of a batch, and heads (a prompt's beginning up to its image) that several rows
read in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class SharedHeads:
    """Keys and values of G heads of P positions, a tensor (2, G, H, P, D) a layer, and which row
    reads which.

    The queries of a head's rows are put together, so that the head is read once, not once a row.
    """

    def __init__(self, layers: list[Tensor], owners: Sequence[int]) -> None:
        self.layers, self.owners = layers, list(owners)
        counts = [0] * layers[0].shape[1]
        within = []
        for owner in self.owners:
            within.append(counts[owner])
            counts[owner] += 1
        self.most = max(counts)
        device = layers[0].device
        self.owner = torch.tensor(self.owners, device=device)
        self.slot = torch.tensor(
            [g * self.most + place for g, place in zip(self.owners, within, strict=True)],
            device=device,
        )

    @property
    def length(self) -> int:
        return self.layers[0].shape[3]

    def of_rows(self, rows: Sequence[int]) -> SharedHeads:
        """The heads of some of the rows; heads without a row are dropped when they are half of all,
        so that what is copied is never more than what there was."""
        left = [self.owners[row] for row in rows]
        used = sorted(set(left))
        if 2 * len(used) > self.layers[0].shape[1]:
            return SharedHeads(self.layers, left)
        chosen = torch.tensor(used, device=self.owner.device)
        return SharedHeads(
            [layer.index_select(1, chosen) for layer in self.layers],
            [used.index(owner) for owner in left],
        )

    def attend(self, layer: int, query: Tensor, tail: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of S new positions a row, (B, S, Hq, D), over head and tail (2, B, H, T, D),
        with one dense softmax.

        ``mask`` (B, 1, S, T) is for the tail.
        """
        heads = self.layers[layer]
        key_heads, length, size = heads.shape[2:]
        rows, new, many = query.shape[:3]
        per = many // key_heads * new  # queries of a key head: S for each of its query heads
        query = (
            (query * size**-0.5)
            .view(rows, new, key_heads, -1, size)
            .permute(0, 2, 3, 1, 4)
            .reshape(rows, key_heads, per, size)
        )
        near = query @ tail[0].transpose(-1, -2)  # (B, H, per, T)
        if mask is not None:
            near = (near.view(rows, key_heads, -1, new, near.shape[-1]) + mask[:, :, None]).view(
                near.shape
            )
        far = self.ungroup(self.group(query) @ heads[0].transpose(-1, -2), per)  # (B, H, per, P)
        weights = torch.cat([far, near], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
        seen = weights[..., length:] @ tail[1] + self.ungroup(
            self.group(weights[..., :length]) @ heads[1], per
        )
        return (
            seen.view(rows, key_heads, -1, new, size)
            .permute(0, 3, 1, 2, 4)
            .reshape(rows, new, many, size)
        )

    def group(self, x: Tensor) -> Tensor:
        """Rows (B, H, per, E) put together by head: (G, H, most * per, E); places without a row
        hold zeros."""
        _, key_heads, per, size = x.shape
        padded = x.new_zeros(self.layers[0].shape[1] * self.most, key_heads, per, size).index_copy_(
            0, self.slot, x
        )
        return (
            padded.view(-1, self.most, key_heads, per, size)
            .transpose(1, 2)
            .reshape(-1, key_heads, self.most * per, size)
        )

    def ungroup(self, x: Tensor, per: int) -> Tensor:
        """The inverse of :meth:`group`."""
        groups, key_heads, _, size = x.shape
        apart = (
            x.view(groups, key_heads, self.most, per, size)
            .transpose(1, 2)
            .reshape(-1, key_heads, per, size)
        )
        return apart.index_select(0, self.slot)


class KeyValues:
    """Keys and values of B rows, a tensor (2, B, H, capacity, D) a layer; the caller knows how much
    of it is filled.

    A row's head is either in ``heads``, one copy for all its rows, or in the first ``offset``
    positions of the row itself."""

    def __init__(
        self, layers: list[Tensor], offset: int = 0, heads: SharedHeads | None = None
    ) -> None:
        self.layers, self.offset, self.heads = layers, offset, heads

    @property
    def room(self) -> int:
        """Positions behind the head."""
        return self.layers[0].shape[3] - self.offset

    @property
    def length(self) -> int:
        """Positions of the head, wherever it is kept."""
        return self.offset if self.heads is None else self.heads.length

    def resize(self, rows: Sequence[int] | None, used: int, room: int) -> None:
        """Keep the first ``used`` positions behind the head of the chosen rows (None: all), with
        another room."""
        used, capacity = self.offset + used, self.offset + room
        chosen = None if rows is None else torch.tensor(rows, device=self.layers[0].device)
        for index, old in enumerate(self.layers):
            kept = (
                old[:, :, :, :used]
                if chosen is None
                else old[:, :, :, :used].index_select(1, chosen)
            )
            new = old.new_empty(*kept.shape[:3], capacity, old.shape[4])
            new[:, :, :, :used] = kept
            self.layers[index] = new  # frees the old layer before the next one is copied
        if rows is not None and self.heads is not None:
            self.heads = self.heads.of_rows(rows)

    def full_mask(
        self, mask: Tensor | None, rows: int, length: int, start: int, like: Tensor
    ) -> Tensor | None:
        """The tail's mask widened by the head; None where plain causal or full attention says the
        same."""
        if mask is not None:
            return F.pad(mask, (self.length, 0)) if self.length else mask
        if length == 1 or self.length + start == 0:
            return None
        return causal_mask(rows, length, self.length + start + length, like)


def causal_mask(rows: int, length: int, end: int, like: Tensor) -> Tensor:
    """An additive mask (rows, 1, length, end): the new positions see all that came before them, and
    themselves."""
    new = torch.arange(end - length, end, device=like.device)
    hidden = torch.arange(end, device=like.device)[None] > new[:, None]
    return additive(hidden, like.dtype)[None, None].expand(rows, 1, -1, -1)


def additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros, and the lowest number where ``hidden``: not -inf, so that a pad that sees nothing
    stays finite."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
        hidden, torch.finfo(dtype).min
    )
