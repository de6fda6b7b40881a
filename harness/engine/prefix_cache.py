"""What prompts about one image share: its features (one pass of the image tower) and the keys and
values of the prompt up to the image's last patch (one pass of the language model). Both are kept
between calls, the oldest leaving first, and so are the texts that a search may go on from
(texts.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from harness.engine.backbone import Backbone
from harness.engine.batching import Batches
from harness.engine.continuation_cache import Texts
from harness.engine.kv_cache import KeyValues
from harness.engine.lru import Lru
from harness.engine.pixels import Pixels
from harness.models.family import Family, Span
from methods.interface import Corrupt


@dataclass(frozen=True, kw_only=True)
class Head:
    """A prompt's beginning up to its image: what is shared by all prompts where it is equal.

    ``picture`` is the content's hash; ``noise`` the prompt's key where the image is corrupted for
    that prompt alone;
    ``ids`` the tokens up to the image token, which is the last and stands for the tokens of
    ``span``."""

    picture: str
    noise: str | None
    ids: tuple[int, ...]
    span: Span

    @property
    def length(self) -> int:
        """Tokens, the image's among them."""
        return len(self.ids) - 1 + self.span.tokens

    @property
    def next(self) -> int:
        """The position of the first token behind it."""
        return len(self.ids) - 1 + self.span.steps


READ = 8192
"""Most tokens of heads in one forward pass: many more than it takes to be bound by arithmetic, few
enough for little memory."""


class Sharing:
    """Features and prefixes of images under one model; ``limit`` bytes of prefixes are kept, a
    sixteenth of features: they are needed again only where the prefix was forgotten. Half as many
    bytes of texts are kept, until a call's own (corrupted) images need the room."""

    def __init__(
        self, model: Any, family: Family, embed: Callable[[Tensor], Tensor], limit: int
    ) -> None:
        self.family, self.embed = family, embed
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.features: Lru[str] = Lru(limit // 16)
        self.prefixes: Lru[Head] = Lru(limit)
        self.texts = Texts(limit // 2)
        self.pixels = Pixels(family, self.device)
        self.reads = Batches(
            READ
        )  # in tokens; when heads do not fit, the rows that answers are written in may fit all the same
        self.pictures_seen = 0

    def clear(self) -> None:
        self.features.clear()
        self.prefixes.clear()
        self.texts.clear()

    def keys_and_values(
        self,
        heads: Sequence[Head],
        pictures: dict[str, Image],
        text: Backbone,
        batches: Batches,
        corrupt: Corrupt | None,
    ) -> dict[Head, Tensor]:
        """For each distinct head its keys and values (layers, 2, H, P, D), P its tokens with the
        image's patches.

        ``pictures`` finds an image by its content's hash.
        """
        if corrupt is not None:
            self.texts.clear()
        wanted = dict.fromkeys(heads)
        found = {head: kept for head in wanted if (kept := self.prefixes.get(head)) is not None}
        # Heads of one length run together; where a family's images have one size, this is one
        # group.
        absent = sorted((head for head in wanted if head not in found), key=alike)

        def run(batch: Sequence[Head]) -> list[Tensor]:
            return self.prefill(batch, self.features_of(batch, pictures, corrupt), text)

        looks = [(head.picture, head.noise) for head in absent]
        self.pixels.ahead(
            (look for look in looks if look[1] is not None or look[0] not in self.features.kept),
            pictures,
            corrupt,
        )
        longest = max((head.length for head in absent), default=1)
        tokens = max(longest, READ // batches.size)  # not more heads at once than rows either
        for head, value in zip(
            absent, self.reads.run(absent, run, alike, rows=tokens), strict=True
        ):
            found[head] = value
            if head.noise is None:
                self.prefixes.put(head, value)
        return found

    def prefill(self, heads: Sequence[Head], features: Tensor, text: Backbone) -> list[Tensor]:
        """Keys and values of heads alike in lengths, whose image token is replaced by the features
        (B, N, width)."""
        before = torch.tensor(
            [head.ids[:-1] for head in heads], device=self.device, dtype=torch.long
        )
        x = torch.cat([self.embed(before), features.to(self.dtype)], 1)
        cache = KeyValues(text.empty(len(heads), x.shape[1]))
        places = torch.stack([head.span.positions(before.shape[1]) for head in heads], 1).to(
            self.device
        )  # (axes, B, S)
        text(x, places[0] if len(places) == 1 else places, cache, 0, None, last=1)
        # A tensor an image, so that forgetting one frees its memory.
        return [torch.stack([layer[:, row] for layer in cache.layers]) for row in range(len(heads))]

    def features_of(
        self, heads: Sequence[Head], pictures: dict[str, Image], corrupt: Corrupt | None
    ) -> Tensor:
        """Projected patch features (B, N, width); a clean image's are looked up, a corrupted
        one's are its prompt's own."""
        distinct = dict.fromkeys((head.picture, head.noise) for head in heads)
        found = {
            pair: kept
            for pair in distinct
            if pair[1] is None and (kept := self.features.get(pair[0])) is not None
        }
        absent = [pair for pair in distinct if pair not in found]
        if absent:
            pixels = self.pixels.of(absent, pictures, corrupt)
            self.pictures_seen += len(absent)
            for pair, value in zip(
                absent, self.family.project(self.family.encode(pixels)), strict=True
            ):
                found[pair] = value
                if pair[1] is None:
                    self.features.put(pair[0], value.clone())
        return torch.stack([found[head.picture, head.noise] for head in heads])


def alike(head: Head) -> tuple[int, int]:
    """What heads that run together have in common: the length of the text and of the image."""
    return len(head.ids), head.span.tokens


def content(image: Image) -> str:
    """An image's identity: the hash of its mode, size and pixels (and palette)."""
    digest = hashlib.sha256(
        f"{image.mode} {image.size} {image.getpalette() if image.mode == 'P' else ''}".encode()
    )
    digest.update(image.tobytes())
    return digest.hexdigest()
