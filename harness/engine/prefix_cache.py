"""What prompts about one image share: the image's features (one pass of the vision tower) and the
keys and values of the prompt up to the image's last patch (one pass of the language model). Both
are kept between calls, as are suffixes (``ContinuationCache``)."""

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
from harness.engine.decode_state import READ_TOKENS, ContinuationCache
from harness.engine.kv_cache import KVCache, LruCache
from harness.engine.pixels import PixelLoader
from harness.models.family import Family, Span
from methods.interface import Corrupt


@dataclass(frozen=True, kw_only=True)
class ImagePrefix:
    """A prompt's beginning up to and including its image. Prompts with equal prefixes share one
    copy of its keys and values."""

    image: str
    """The image's content hash."""
    corruption_key: str | None
    """The prompt's key, where the image is corrupted for this prompt alone."""
    ids: tuple[int, ...]
    """Token ids; the last one is the image token and stands for the tokens of ``span``."""
    span: Span

    @property
    def length(self) -> int:
        """Tokens, the image's included."""
        return len(self.ids) - 1 + self.span.tokens

    @property
    def next_position(self) -> int:
        """The position of the first token behind the prefix."""
        return len(self.ids) - 1 + self.span.steps


class PrefixCache:
    """Features and prefixes of images under one model.

    ``limit`` bounds the bytes of prefixes. A sixteenth of it bounds features, which are needed
    again only if their prefix was dropped, and half of it suffixes. Half of
    ``batch_bytes``, a batch's (None: no limit), bounds what one pass reads and then copies."""

    def __init__(
        self,
        model: Any,
        family: Family,
        embed: Callable[[Tensor], Tensor],
        limit: int,
        batch_bytes: int | None,
    ) -> None:
        self.family, self.embed = family, embed
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.features: LruCache[str] = LruCache(limit // 16)
        self.prefixes: LruCache[ImagePrefix] = LruCache(limit)
        self.continuations = ContinuationCache(limit // 2)
        self.pixels = PixelLoader(family, self.device)
        # In tokens. Halved apart from the decoding batches, which may fit where this does not.
        self.batches = Batches(READ_TOKENS, None if batch_bytes is None else batch_bytes // 2)
        self.images_encoded = 0

    def clear(self) -> None:
        self.features.clear()
        self.prefixes.clear()
        self.continuations.clear()

    def keys_and_values(
        self,
        prefixes: Sequence[ImagePrefix],
        images: dict[str, Image],
        text: Backbone,
        max_rows: int,
        corrupt: Corrupt | None,
    ) -> dict[ImagePrefix, Tensor]:
        """Keys and values (layers, 2, H, P, D) of each distinct prefix of P tokens.

        ``images`` holds the images by content hash. At most ``max_rows`` prefixes are read in one
        pass. Prefixes of corrupted images are not cached; they take the suffixes' memory."""
        if corrupt is not None:
            self.continuations.clear()
        distinct = dict.fromkeys(prefixes)
        result = {
            prefix: cached
            for prefix in distinct
            if (cached := self.prefixes.get(prefix)) is not None
        }
        # Only prefixes of equal lengths are read together.
        missing = sorted((prefix for prefix in distinct if prefix not in result), key=batch_key)
        keys = ((prefix.image, prefix.corruption_key) for prefix in missing)
        unread = (key for key in keys if key[1] is not None or key[0] not in self.features.entries)
        self.pixels.prefetch(unread, images, corrupt)

        def prefill_batch(batch: Sequence[ImagePrefix]) -> list[Tensor]:
            return self.prefill(batch, self.features_of(batch, images, corrupt), text)

        longest = max((prefix.length for prefix in missing), default=1)
        rows = max(longest, READ_TOKENS // max_rows)
        position_bytes = sum(layer.nbytes for layer in text.allocate(1, 1))
        values = self.batches.run(
            missing,
            prefill_batch,
            batch_key,
            rows=rows,
            cache_bytes=lambda prefix: prefix.length * position_bytes,
        )
        for prefix, value in zip(missing, values, strict=True):
            result[prefix] = value
            if prefix.corruption_key is None:
                self.prefixes.put(prefix, value)
        return result

    def prefill(
        self, prefixes: Sequence[ImagePrefix], features: Tensor, text: Backbone
    ) -> list[Tensor]:
        """Keys and values of prefixes of equal lengths, with the features (B, N, width) in place of
        the image token."""
        prefix_ids = [prefix.ids[:-1] for prefix in prefixes]
        ids = torch.tensor(prefix_ids, device=self.device, dtype=torch.long)
        x = torch.cat([self.embed(ids), features.to(self.dtype)], 1)
        cache = KVCache(text.allocate(len(prefixes), x.shape[1]))
        positions = torch.stack([prefix.span.positions(ids.shape[1]) for prefix in prefixes], 1)
        positions = positions.to(self.device)  # (axes, B, S)
        positions = positions[0] if len(positions) == 1 else positions
        text(x, positions, cache, 0, None, segments=1)
        # One tensor an image, so that dropping it frees its memory.
        return [
            torch.stack([layer[:, row] for layer in cache.layers]) for row in range(len(prefixes))
        ]

    def features_of(
        self, prefixes: Sequence[ImagePrefix], images: dict[str, Image], corrupt: Corrupt | None
    ) -> Tensor:
        """Projected patch features (B, N, width). Those of clean images are cached."""
        distinct = dict.fromkeys((prefix.image, prefix.corruption_key) for prefix in prefixes)
        features = {
            key: cached
            for key in distinct
            if key[1] is None and (cached := self.features.get(key[0])) is not None
        }
        missing = [key for key in distinct if key not in features]
        if missing:
            pixels = self.pixels.load(missing, images, corrupt)
            self.images_encoded += len(missing)
            projected = self.family.project(self.family.encode(pixels))
            for key, value in zip(missing, projected, strict=True):
                features[key] = value
                if key[1] is None:
                    self.features.put(key[0], value.clone())
        return torch.stack([features[prefix.image, prefix.corruption_key] for prefix in prefixes])


def batch_key(prefix: ImagePrefix) -> tuple[int, int]:
    """Prefixes with equal keys can be read in one pass: text and image have equal lengths."""
    return len(prefix.ids), prefix.span.tokens


def content_hash(image: Image) -> str:
    """A hash of an image's mode, size, palette and pixels."""
    palette = image.getpalette() if image.mode == "P" else ""
    digest = hashlib.sha256(f"{image.mode} {image.size} {palette}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
