"""The page's pictures as data URIs: a pool's own, and what SENA's rejected answers were given in their place.

A corrupted picture is not stored; it is made again from the pair's trace (corruption, step, noise key) on the very pixels the
model saw, so it needs the base's image processor but no weights.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from PIL import Image

from harness.bases import find_base, source_of
from harness.errors import Problem
from harness.pool import Pool, open_pool, pixels_sha
from methods.sena.corruption import CORRUPTIONS, STEPS, corruption

SIDE = 224
"""The longer side a picture is embedded with, at most (pixels)."""


@dataclass(kw_only=True)
class Album:
    """Every picture of a page once: ``uris`` are data URIs, named by their index. ``notes`` are sentences about what is not
    there, and why."""

    uris: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    _kept: dict[tuple[str, str], int | None] = field(default_factory=dict)
    _pools: dict[str, tuple[Pool, frozenset[str]] | None] = field(default_factory=dict)
    _last: tuple[tuple[str, str], Image.Image] | None = None

    def clean(self, pool: str, id: str, sha: str | None) -> int | None:
        """The pool's picture; None where it cannot be had, or is no longer the one that was drawn (``sha`` of its pixels)."""
        if (pool, id) not in self._kept:
            image = self._image(pool, id)
            if image is not None and sha is not None and pixels_sha(image) != sha:
                self._say(f"Pictures of the pool {pool} have changed since the run, such as {id}; they are left out.")
                image, self._last = None, None
            self._kept[pool, id] = None if image is None else self._add(_smaller(image, Image.Resampling.LANCZOS), 90)
        return self._kept[pool, id]

    def corrupted(self, pool: str, id: str, base: str, trace: Mapping[str, Any]) -> int | None:
        """The picture a rejected answer was given on; None where the trace tells of none or the clean one cannot be had."""
        kind, step, key = trace.get("corruption"), trace.get("noise_step"), trace.get("noise_key")
        if kind not in CORRUPTIONS or not isinstance(key, str) or not (step is None or _is_step(step)):
            return None
        if self._kept.get((pool, id)) is None or (image := self._image(pool, id)) is None:
            return None
        try:
            read = pixels_of(base)
        except Problem as problem:
            self._say(f"Corrupted pictures are left out: {problem}")
            return None
        pixels, mean, spread = read(image)
        made = corruption(kind, step or 1)(pixels, key) * spread + mean
        eight = (made * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        # Averaging would weaken the noise that is to be shown.
        how = Image.Resampling.NEAREST if kind == "diffusion" else Image.Resampling.LANCZOS
        return self._add(_smaller(Image.fromarray(eight), how), 80)

    def _image(self, spec: str, id: str) -> Image.Image | None:
        if self._last is not None and self._last[0] == (spec, id):
            return self._last[1]
        try:
            if spec not in self._pools:
                self._pools[spec] = None
                pool = open_pool(spec)
                self._pools[spec] = (pool, frozenset(pool.ids))
            opened = self._pools[spec]
            if opened is None:
                return None
            if id not in opened[1]:
                raise Problem(f"the pool {spec} has no picture {id!r} any more.")
            image = opened[0].image(id)
        except Problem as problem:
            self._say(f"Pictures are left out: {problem}")
            return None
        self._last = ((spec, id), image)
        return image

    def _say(self, sentence: str) -> None:
        self.notes[sentence] = None

    def _add(self, image: Image.Image, quality: int) -> int:
        content = io.BytesIO()
        image.convert("RGB").save(content, format="WEBP", quality=quality, method=4)
        self.uris.append(data_uri("image/webp", content.getvalue()))
        return len(self.uris) - 1


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < STEPS


def _smaller(image: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


Read = Callable[[Image.Image], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@cache
def pixels_of(base: str) -> Read:
    """A function from a picture to its normalised pixels ``(3, H, W)`` and the mean and spread, each ``(3, 1, 1)``.

    Only the image processor's settings are read, from the base's folder or what is on this machine of a hub model.

    Raises:
        Problem: the base is unknown or its settings are not on this machine.
    """
    from transformers import AutoImageProcessor

    card = find_base(base)
    options = {} if card.revision is None else {"revision": card.revision}
    try:
        processor = AutoImageProcessor.from_pretrained(source_of(card), backend="pil", local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise Problem(f"the image processor of base {base!r} is not on this machine; load the base once with run.") from error
    mean, spread = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))

    def read(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0], mean, spread

    return read
