"""The page's images as data URIs: those of pools and benchmarks, and the corrupted images on which
SENA's rejected answers were given.

A corrupted image is not stored. It is computed again from the pair's trace (corruption, step, noise
key) on the preprocessed pixels, so it needs the base's image processor but no weights."""

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

from harness.artifacts.stored_files import read_bytes
from harness.data.image_file import read_image
from harness.data.open_pool import open_pool
from harness.data.pool import Pool, pixels_sha
from harness.errors import UserError
from harness.models.base_cards import BASES, BaseCard, find_base, source_of
from harness.models.llava import shape_image
from harness.models.own_code import without_own_code
from harness.models.qwen import unpatch
from methods.sena.corruption import CORRUPTIONS, STEPS, Corruption, corruption

OWN = "Give --own if this results folder is your own: then what its study.json names is read."
SIDE = 224
"""An embedded image's longer side at most, in pixels."""
SMALL = 128
"""Images up to this side are stored with full colour resolution, because single pixels are
visible."""


@dataclass(kw_only=True)
class Album:
    """Every image of a page once. ``uris``: data URIs, referred to by index. ``notes``: sentences
    about images that are not available, the first one for each pool and base. ``own``: the results
    folder is the user's own. Else only drawn pools and shipped base cards are opened, because a
    stranger's study.json can name any folder or hub repository."""

    own: bool = False
    uris: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    _kept: dict[tuple[str, str], int | None] = field(default_factory=dict)
    _pools: dict[str, tuple[Pool, frozenset[str]] | None] = field(default_factory=dict)
    _last: tuple[tuple[str, str], Image.Image] | None = None

    def clean(self, pool: str, id: str, sha: str | None) -> int | None:
        """The pool's image; None if it is not available, or no longer the one that was drawn
        (``sha`` of its pixels)."""
        if (pool, id) not in self._kept:
            image = self._image(pool, id)
            if image is not None and sha is not None and pixels_sha(image) != sha:
                sentence = (
                    f"Images of the pool {pool} have changed since the run, such as {id}; they are"
                    " left out."
                )
                self.notes.setdefault(pool, sentence)
                image, self._last = None, None
            self._kept[pool, id] = self._add(image)
        return self._kept[pool, id]

    def exported(self, path: Path) -> int | None:
        """A benchmark's exported image; None if it is not on this machine."""
        key = ("", path.name)  # the name is a hash of its pixels, the same in every benchmark
        if key not in self._kept:
            image = None
            if path.is_file():
                try:
                    image = read_image(io.BytesIO(read_bytes(path)))
                except Exception as error:  # a page without this image is better than none
                    sentence = f"Images of questions are left out, such as {path.name}: {error}"
                    self.notes.setdefault("exported", sentence)
            self._kept[key] = self._add(image)
        return self._kept[key]

    def corrupted(self, pool: str, id: str, base: str, trace: Mapping[str, Any]) -> int | None:
        """The image on which a rejected answer was given; None if the trace has none or the clean
        image is not available."""
        kind, step, key = trace.get("corruption"), trace.get("noise_step"), trace.get("noise_key")
        if kind not in CORRUPTIONS or not isinstance(key, str):
            return None
        if step is not None and not _is_step(step):
            return None
        if self._kept.get((pool, id)) is None or (image := self._image(pool, id)) is None:
            return None
        try:
            if not (self.own or base in BASES):
                raise UserError(f"the base {base} is not one of the shipped cards. {OWN}")
            corrupted = corrupted_image(image, find_base(base), kind, step or 1, key)
        except UserError as problem:
            self.notes.setdefault(base, f"Corrupted images are left out: {problem}")
            return None
        if kind == "diffusion":  # averaging pixels would weaken the noise
            return self._add(corrupted, Image.Resampling.NEAREST)
        return self._add(corrupted)

    def _image(self, spec: str, id: str) -> Image.Image | None:
        if self._last is not None and self._last[0] == (spec, id):
            return self._last[1]
        try:
            if spec not in self._pools:
                self._pools[spec] = None
                if not (self.own or spec.partition(":")[0] == "synthetic"):
                    raise UserError(f"the pool {spec} is not opened. {OWN}")
                pool = open_pool(spec)
                self._pools[spec] = (pool, frozenset(pool.ids))
            opened = self._pools[spec]
            if opened is None:
                return None
            if id not in opened[1]:
                raise UserError(f"the pool {spec} no longer has all images, such as {id!r}.")
            image = opened[0].image(id)
        except UserError as problem:
            self.notes.setdefault(spec, f"Images are left out: {problem}")
            return None
        self._last = ((spec, id), image)
        return image

    def _add(
        self, image: Image.Image | None, how: Image.Resampling = Image.Resampling.LANCZOS
    ) -> int | None:
        """The index of the image, made smaller ``how``."""
        if image is None:
            return None
        image = _smaller(image, how)
        content = io.BytesIO()
        quality = {"quality": 75, "subsampling": 2}
        if max(image.size) <= SMALL:
            quality = {"quality": 85, "subsampling": 0}
        image.convert("RGB").save(content, format="JPEG", **quality)
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
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, how)


def corrupted_image(
    image: Image.Image, card: BaseCard, kind: Corruption, step: int, key: str
) -> Image.Image:
    """The image as the model was given it under this corruption, in 8 bits: resized and shaped by
    the base's image processor, corrupted in normalised pixels, clipped to the range of colours.

    Raises:
        UserError: the base's settings are not on this machine, or the corruption replaced the image
            by another one.
    """
    if kind == "another":
        raise UserError("the corruption replaced the image by another image of the round.")
    processor = image_processor(card)
    inputs = processor(images=shape_image(image, processor), return_tensors="pt")
    if "image_grid_thw" in inputs:  # Qwen2.5-VL's patches
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        pixels = unpatch(inputs["pixel_values"], rows, columns, processor)
    else:
        pixels = inputs["pixel_values"][0]
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    corrupted = (corruption(kind, step)(pixels, key) * std + mean) * 255
    colours = corrupted.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy())


@cache
def image_processor(card: BaseCard) -> Any:
    """The base's image processor, from the base's folder or the local cache of a hub model.

    Raises:
        UserError: its settings are not on this machine.
    """
    from transformers import AutoImageProcessor

    options = {} if card.revision is None else {"revision": card.revision}
    try:
        with without_own_code(source_of(card)):
            processor = AutoImageProcessor.from_pretrained(
                source_of(card),
                backend="pil",
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the image processor of base {card.name!r} is not on this machine; a run fetches it."
        ) from error
    card.apply_to_images(processor)
    return processor
