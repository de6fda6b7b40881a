"""Images prepared for the vision tower, ahead of their use: a photograph takes a processor
milliseconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL.Image import Image
from torch import Tensor

from harness.engine.kv_cache import LruCache
from harness.errors import UserError
from harness.models.family import Family
from methods.interface import Corrupt

CACHE_BYTES = 2**28
"""Bytes of normalised images kept in main memory: about 200 images of 336 pixels."""

WORKERS = 4

PREFETCH = 48
"""Most images prepared ahead; a large one takes a dozen megabytes."""

PixelKey = tuple[str, str | None]
"""An image's content hash, and the key of the prompt for which it is corrupted (None: clean)."""


class PixelLoader:
    """Normalised images (C, H, W); clean ones are cached.

    Beside an accelerator, threads prepare them while it works. Each result depends on its image
    and key alone, so threads change no result."""

    def __init__(self, family: Family, device: torch.device) -> None:
        self.family = family
        self.cache: LruCache[str] = LruCache(CACHE_BYTES)
        self.threads = None if device.type == "cpu" else ThreadPoolExecutor(WORKERS, "pixels")
        self.pending: dict[PixelKey, Future[Tensor]] = {}
        self.queue: deque[PixelKey] = deque()

    def prefetch(
        self, keys: Iterable[PixelKey], images: Mapping[str, Image], corrupt: Corrupt | None
    ) -> None:
        """Start to prepare these images. Earlier ones that were not loaded are cancelled."""
        for future in self.pending.values():
            future.cancel()
        self.pending.clear()
        self.queue = deque(() if self.threads is None else dict.fromkeys(keys))
        self._submit(images, corrupt)

    def _submit(self, images: Mapping[str, Image], corrupt: Corrupt | None) -> None:
        while self.threads is not None and self.queue and len(self.pending) < PREFETCH:
            key = self.queue.popleft()
            self.pending[key] = self.threads.submit(
                self.prepare, key, images, self.cache.get(key[0]), corrupt
            )

    def load(
        self, keys: Iterable[PixelKey], images: Mapping[str, Image], corrupt: Corrupt | None
    ) -> list[Tensor]:
        """These images, in order. Raises what went wrong in a thread."""
        loaded = []
        for key in keys:
            future = self.pending.pop(key, None)
            if future is None and key in self.queue:
                self.queue.remove(key)
            self._submit(images, corrupt)
            if future is None:
                pixels = self.prepare(key, images, self.cache.get(key[0]), corrupt)
            else:
                pixels = future.result()
            if key[1] is None:
                self.cache.put(key[0], pixels)
            loaded.append(pixels)
        return loaded

    def prepare(
        self,
        key: PixelKey,
        images: Mapping[str, Image],
        cached: Tensor | None,
        corrupt: Corrupt | None,
    ) -> Tensor:
        pixels = self.family.pixels([images[key[0]]])[0] if cached is None else cached
        if corrupt is None or key[1] is None:
            return pixels
        corrupted = corrupt(pixels, key[1])
        if corrupted.shape != pixels.shape:
            raise UserError(
                f"corrupt returned shape {tuple(corrupted.shape)} for an image of"
                f" {tuple(pixels.shape)}; it must keep the shape."
            )
        return corrupted
