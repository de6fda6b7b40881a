"""The page's images as data URIs: a pool's own, and what SENA's rejected answers were given in
their place.

A corrupted image is not stored; it is made again from the pair's trace (corruption, step, noise
key) on the very pixels the model saw, so it needs the base's image processor but no weights."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from harness.data.open_pool import open_pool
from harness.data.pool import Pool, pixels_sha, read_image
from harness.errors import UserError
from harness.models.base_cards import BaseCard, find_base, limit_image_size, source_of
from harness.models.qwen import unpatch
from methods.sena.corruption import CORRUPTIONS, STEPS, Corruption, corruption

SIDE = 224
"""The longer side an image is embedded with, at most (pixels)."""
SMALL = 128
"""Up to this side each pixel is seen, so its colour is kept too."""


@dataclass(kw_only=True)
class Album:
    """Every image of a page once: ``uris`` are data URIs, named by their index. ``notes`` are
    sentences about what is not there, and why: the first for each pool and base."""

    uris: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    _kept: dict[tuple[str, str], int | None] = field(default_factory=dict)
    _pools: dict[str, tuple[Pool, frozenset[str]] | None] = field(default_factory=dict)
    _last: tuple[tuple[str, str], Image.Image] | None = None

    def clean(self, pool: str, id: str, sha: str | None) -> int | None:
        """The pool's image; None where it cannot be had, or is no longer the one that was drawn
        (``sha`` of its pixels)."""
        if (pool, id) not in self._kept:
            image = self._image(pool, id)
            if image is not None and sha is not None and pixels_sha(image) != sha:
                self._say(
                    pool,
                    f"Images of the pool {pool} have changed since the run, such as {id}; they"
                    " are left out.",
                )
                image, self._last = None, None
            self._kept[pool, id] = (
                None if image is None else self._add(_smaller(image, Image.Resampling.LANCZOS))
            )
        return self._kept[pool, id]

    def exported(self, path: Path) -> int | None:
        """A benchmark's image, as its questions were exported; None where it is not on this
        machine."""
        key = ("", path.name)  # named by its pixels: the same in every benchmark
        if key not in self._kept:
            image = None
            if path.is_file():
                try:
                    image = read_image(path)
                except Exception as error:  # a broken file is no reason for no page
                    self._say(
                        "exported",
                        f"Images of questions are left out, such as {path.name}: {error}",
                    )
            self._kept[key] = (
                None if image is None else self._add(_smaller(image, Image.Resampling.LANCZOS))
            )
        return self._kept[key]

    def corrupted(self, pool: str, id: str, base: str, trace: Mapping[str, Any]) -> int | None:
        """The image a rejected answer was given on; None where the trace tells of none or the
        clean one cannot be had."""
        kind, step, key = trace.get("corruption"), trace.get("noise_step"), trace.get("noise_key")
        if (
            kind not in CORRUPTIONS
            or not isinstance(key, str)
            or not (step is None or _is_step(step))
        ):
            return None
        if self._kept.get((pool, id)) is None or (image := self._image(pool, id)) is None:
            return None
        try:
            made = corrupted_picture(image, find_base(base), kind, step or 1, key)
        except UserError as problem:
            self._say(base, f"Corrupted images are left out: {problem}")
            return None
        # Averaging would weaken the noise that is to be shown.
        return self._add(
            _smaller(
                made, Image.Resampling.NEAREST if kind == "diffusion" else Image.Resampling.LANCZOS
            )
        )

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
                raise UserError(f"the pool {spec} no longer has all of them, such as {id!r}.")
            image = opened[0].image(id)
        except UserError as problem:
            self._say(spec, f"Images are left out: {problem}")
            return None
        self._last = ((spec, id), image)
        return image

    def _say(self, about: str, sentence: str) -> None:
        self.notes.setdefault(about, sentence)

    def _add(self, image: Image.Image) -> int:
        content = io.BytesIO()
        small = max(image.size) <= SMALL
        image.convert("RGB").save(
            content, format="JPEG", quality=85 if small else 75, subsampling=0 if small else 2
        )
        self.uris.append(data_uri("image/jpeg", content.getvalue()))
        return len(self.uris) - 1


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < STEPS


def _smaller(image: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), how
    )


def corrupted_picture(
    image: Image.Image, card: BaseCard, kind: Corruption, step: int, key: str
) -> Image.Image:
    """The image as the model saw it under this corruption, in 8 bits: resized and cropped by the
    base's image processor, corrupted in its normalised pixels, and cut off where it leaves the
    range of colours.

    Raises:
        UserError: the base's settings are not on this machine, or the model was shown another
            image instead.
    """
    if kind == "another":
        raise UserError("the model was shown another image of the round here.")
    processor = image_processor(card)
    read = processor(images=image.convert("RGB"), return_tensors="pt")
    if "image_grid_thw" in read:  # Qwen2.5-VL's patches
        _, rows, columns = read["image_grid_thw"][0].tolist()
        pixels = unpatch(read["pixel_values"], rows, columns, processor)
    else:
        pixels = read["pixel_values"][0]
    mean, spread = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    made = (corruption(kind, step)(pixels, key) * spread + mean) * 255
    return Image.fromarray(
        made.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    )


@cache
def image_processor(card: BaseCard) -> Any:
    """The base's image processor: settings alone, from the base's folder or what is on this machine
    of a hub model.

    Raises:
        UserError: they are not on this machine.
    """
    from transformers import AutoImageProcessor

    options = {} if card.revision is None else {"revision": card.revision}
    try:
        found = AutoImageProcessor.from_pretrained(
            source_of(card), backend="pil", local_files_only=True, **options
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the image processor of base {card.name!r} is not on this machine; a run fetches it."
        ) from error
    limit_image_size(found, card)
    return found
