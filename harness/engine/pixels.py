"""Images made ready for the tower, ahead of their turn: for a photograph that takes a processor
milliseconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL.Image import Image
from torch import Tensor

from harness.engine.lru import Lru
from harness.errors import UserError
from harness.models.family import Family
from methods.interface import Corrupt

KEPT = 2**28
"""Bytes of normalised images kept in the processor's memory: about 200 images of 336 pixels."""
WORKERS = 4
AHEAD = 48
"""Images made ahead at most: a large one takes a dozen megabytes."""

Look = tuple[str, str | None]
"""An image by its content's hash, and the key of the prompt for which alone it is corrupted (None:
it is not)."""


class Pixels:
    """Normalised images (C, H, W), clean ones kept. Beside an accelerator they are made in
    threads while it works; each is made from its own image and key alone, so the threads change
    nothing."""

    def __init__(self, family: Family, device: torch.device) -> None:
        self.family = family
        self.kept: Lru[str] = Lru(KEPT)
        self.threads = None if device.type == "cpu" else ThreadPoolExecutor(WORKERS, "pixels")
        self.coming: dict[Look, Future[Tensor]] = {}
        self.later: deque[Look] = deque()

    def ahead(
        self, looks: Iterable[Look], pictures: Mapping[str, Image], corrupt: Corrupt | None
    ) -> None:
        """Begin to make these; what was begun before and not fetched is forgotten."""
        for late in self.coming.values():
            late.cancel()
        self.coming.clear()
        self.later = deque(() if self.threads is None else dict.fromkeys(looks))
        self.begin(pictures, corrupt)

    def begin(self, pictures: Mapping[str, Image], corrupt: Corrupt | None) -> None:
        while self.threads is not None and self.later and len(self.coming) < AHEAD:
            look = self.later.popleft()
            self.coming[look] = self.threads.submit(
                self.make, look, pictures, self.kept.get(look[0]), corrupt
            )

    def of(
        self, looks: Iterable[Look], pictures: Mapping[str, Image], corrupt: Corrupt | None
    ) -> list[Tensor]:
        """These images, in order. What goes wrong in a thread is raised here."""
        found = []
        for look in looks:
            begun = self.coming.pop(look, None)
            if begun is None and look in self.later:
                self.later.remove(look)  # it is made here and now
            self.begin(pictures, corrupt)
            one = (
                self.make(look, pictures, self.kept.get(look[0]), corrupt)
                if begun is None
                else begun.result()
            )
            if look[1] is None:
                self.kept.put(look[0], one)
            found.append(one)
        return found

    def make(
        self,
        look: Look,
        pictures: Mapping[str, Image],
        kept: Tensor | None,
        corrupt: Corrupt | None,
    ) -> Tensor:
        picture = self.family.pixels([pictures[look[0]]])[0] if kept is None else kept
        return picture if corrupt is None else corrupted(corrupt, picture, look[1])


def corrupted(corrupt: Corrupt, picture: Tensor, key: str | None) -> Tensor:
    if key is None:  # a head without noise is never corrupted
        return picture
    result = corrupt(picture, key)
    if result.shape != picture.shape:
        raise UserError(
            f"corrupt returned shape {tuple(result.shape)} for an image of {tuple(picture.shape)};"
            " it must keep the shape."
        )
    return result
