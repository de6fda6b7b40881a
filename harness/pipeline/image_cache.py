"""Decoded images in memory, so that a round decodes each of its images once.

Drawing, making pairs and training ask for the same images. The cache is bounded: what does not fit
is decoded again whenever it is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from PIL.Image import Image

from harness.artifacts.stored_files import read_bytes, unreadable
from harness.data.image_file import UnreadableImage, read_image
from harness.errors import UserError

T = TypeVar("T")

Key = tuple[str, str]
"""(pool or folder of questions, the image's id there)."""

IMAGE_CACHE_BYTES = 512 * 2**20
"""Most bytes of decoded images that one process keeps: about 400 photographs of 640 x 480, or all
images of the synthetic base. PIL keeps four bytes a pixel."""


@dataclass
class ImageCache:
    """Keeps what it is given until ``limit`` bytes are full. Then only images of the present round
    (:meth:`begin_round`) are taken in, in place of images of other rounds."""

    limit: int = IMAGE_CACHE_BYTES
    _kept: dict[Key, tuple[Any, int]] = field(default_factory=dict)
    _round: frozenset[Key] = frozenset()
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def begin_round(self, keys: Iterable[Key]) -> None:
        """Name the images of the round that is worked on now."""
        self._round = frozenset(keys)

    def get(self, key: Key, load: Callable[[], T], image_of: Callable[[T], Image]) -> T:
        """The value under ``key``, loaded if it is not here. ``image_of`` gives its image, whose
        size counts. Threads may call this at once."""
        kept = self._kept.get(key)
        if kept is not None:
            value: T = kept[0]
            return value
        value = load()
        image = image_of(value)
        self._keep(key, value, 4 * image.width * image.height)
        return value

    def _keep(self, key: Key, value: object, size: int) -> None:
        with self._lock:
            if key in self._kept:
                return
            if self._bytes + size > self.limit and key in self._round:
                for other in [other for other in self._kept if other not in self._round]:
                    self._bytes -= self._kept.pop(other)[1]
                    if self._bytes + size <= self.limit:
                        break
            if self._bytes + size <= self.limit:
                self._kept[key] = (value, size)
                self._bytes += size


def exported_image(cache: ImageCache, questions: Path, name: str) -> Image:
    """The image of that name in an export's folder.

    Raises:
        UserError: the file is missing, broken or not the exported one, or its name leads elsewhere.
    """
    if name != Path(name).name or name.startswith("."):
        raise UserError(f"{name!r} in {questions / 'questions.jsonl'} is no image's file name.")
    path = questions / "images" / name

    def read() -> Image:
        try:
            return read_image(io.BytesIO(read_bytes(path)))
        except UnreadableImage as error:
            raise unreadable(path, "as an exported image", error) from None

    return cache.get((str(questions), name), read, lambda image: image)
