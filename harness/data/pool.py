"""A pool of images for training: sampling, hashes, and the fields that a method may see.

harness/data/open_pool.py opens pools; the layouts have files of their own. The sample of a round
depends on the run's seed and the round, never on the method: all methods learn from the same
images in the same order, and each round draws new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from harness.artifacts.environment import cores
from harness.artifacts.fingerprint import fingerprint
from harness.data.image_file import UnreadableImage, read_image, treatments
from harness.errors import UserError
from methods.interface import Field, GroundTruth, Item


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """One image of a round: its id, two hashes, and the pool's texts for it."""

    id: str
    sha256: str
    """``pixels_sha`` of the image."""
    dhash: str
    """``difference_hash`` of the image."""
    question: str | None
    reference: str | None
    treatments: tuple[str, ...] = ()
    """What the reader did to the image (harness/data/image_file.py)."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The images of one round, in order, and the unreadable ones as ``(id, reason)``."""

    images: tuple[DrawnImage, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(image.id for image in self.images)

    def fingerprint(self, needs: frozenset[Field]) -> str:
        """Fingerprint of the ids, the images, and those texts that the method needs.

        Raises:
            UserError: an image has no usable text of a kind that the method needs.
        """
        texts = [field for field in ("question", "reference") if field in needs]
        for field in texts:
            if missing := [image.id for image in self.images if getattr(image, field) is None]:
                raise UserError(
                    f"{len(missing)} of {len(self.images)} drawn images, such as {missing[0]}, have"
                    f" no usable {field}, which the method needs: it is missing, blank, no text, or"
                    " has a token such as <image> inside; mend these rows or take them out."
                )
        return fingerprint(
            [
                [image.id, image.sha256, *(getattr(image, field) for field in texts)]
                for image in self.images
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Images with their texts. Images are read on demand: a pool may be larger than memory.

    The pool keeps no image. A caller that reads one often wraps ``read`` in a cache
    (``dataclasses.replace``).
    """

    spec: str
    """The pool's name, as ``open_pool`` takes it."""
    ids: tuple[str, ...]
    """All ids, in the pool's own order."""
    fields: frozenset[Field]
    """The fields that every item has."""
    read: Callable[[str], Item]
    """Reads and decodes one item, with every field the pool has; raises UnreadableImage."""
    ground_truth: GroundTruth | None = None
    """The exact truth about the images, where the pool has it."""
    order: Callable[[int], tuple[str, ...]] | None = None
    """The ids in a seed's order; None: sorted by a hash (``seed_order``)."""

    def check(self, needs: frozenset[Field], method: str) -> None:
        """Check that the pool has what a method needs.

        Raises:
            UserError: a field is missing.
        """
        if missing := sorted(needs - self.fields - {"scorer"}):
            raise UserError(
                f"{method} needs {' and '.join(missing)} with each image, but the pool {self.spec}"
                f" has {' and '.join(sorted(self.fields))} only; give a .jsonl manifest with lines"
                ' {"image": ..., "question": ..., "reference": ...}.'
            )

    def check_size(self, n: int, seed: int, rounds: int) -> None:
        """Check that the pool has ``n`` fresh images for each round.

        Raises:
            UserError: it is too small.
        """
        size = len(self.order(seed) if self.order else self.ids)
        if n * rounds > size:
            raise UserError(
                f"The pool {self.spec} holds {size}"
                f" images{' in its proportions' if self.order else ''}; {rounds}"
                f" round{'s' if rounds > 1 else ''} of {n} fresh ones need {n * rounds}. Give fewer"
                " --images or --rounds, or a larger pool."
            )

    def draw(self, n: int, seed: int, round: int) -> Drawn:
        """The images of a round (from 1): its ``n`` ids in the seed's order, less unreadable ones.

        Raises:
            UserError: the pool is too small for so many rounds, or no image can be read.
        """
        self.check_size(n, seed, round)
        ids = self.order(seed) if self.order else seed_order(self.ids, seed)
        ids = ids[n * (round - 1) : n * round]
        with ThreadPoolExecutor(max_workers=min(16, cores())) as threads:
            results = list(threads.map(self._draw_one, ids))
        images = tuple(result for result in results if isinstance(result, DrawnImage))
        pairs = zip(ids, results, strict=True)
        skipped = tuple((id, result) for id, result in pairs if isinstance(result, str))
        if not images:
            raise UserError(
                f"None of the {n} images drawn from {self.spec} can be read; the first:"
                f" {skipped[0][0]}: {skipped[0][1]}."
            )
        return Drawn(images=images, skipped=skipped)

    def _draw_one(self, id: str) -> DrawnImage | str:
        """The image's hashes and texts, or the reason why it cannot be read."""
        try:
            item = self.read(id)
        except UnreadableImage as error:
            return str(error)
        return DrawnImage(
            id=id,
            sha256=pixels_sha(item.image),
            dhash=difference_hash(item.image),
            question=item.question,
            reference=item.reference,
            treatments=treatments(item.image),
        )

    def items(
        self, ids: Sequence[str], needs: frozenset[Field], among: Sequence[str] = ()
    ) -> list[Item]:
        """The items of these ids, in order. Fields that are not in ``needs`` are None.

        Args:
            among: the round's ids; each item's ``another`` image is drawn from them.

        Raises:
            UserError: an image can no longer be read.
        """
        try:
            items = [self.read(id) for id in ids]
        except UnreadableImage as error:
            raise UserError(
                f"An image of the pool {self.spec} has changed during the run ({error}); restore"
                " it and run again."
            ) from None
        return [
            Item(
                id=item.id,
                image=item.image,
                question=item.question if "question" in needs else None,
                reference=item.reference if "reference" in needs else None,
                another=partial(self.image, other_id(item.id, among)) if len(among) > 1 else None,
            )
            for item in items
        ]

    def image(self, id: str) -> Image.Image:
        return self.items([id], frozenset())[0].image


@dataclass(frozen=True)
class PoolFile:
    """An image's file and its texts."""

    path: Path
    question: str | None = None
    reference: str | None = None


def pool_of_files(spec: str, files: Mapping[str, PoolFile]) -> Pool:
    """The pool of these images, by id."""

    def read(id: str) -> Item:
        file = files[id]
        image = read_image(file.path)
        return Item(id=id, image=image, question=file.question, reference=file.reference)

    # A field counts only where every image has it: a method that needs it could not use the rest.
    fields = fields_of(
        question=all(file.question for file in files.values()),
        reference=all(file.reference for file in files.values()),
    )
    return Pool(spec=spec, ids=tuple(files), fields=fields, read=read)


def fields_of(*, question: bool, reference: bool) -> frozenset[Field]:
    """The fields of a pool's images, which may have these texts."""
    fields: set[Field] = {"image"}
    fields |= {"question"} if question else set()
    fields |= {"reference"} if reference else set()
    return frozenset(fields)


def other_id(id: str, among: Sequence[str]) -> str:
    """Another of these ids, drawn by a hash of ``id``."""
    digest = hashlib.sha256(f"another/{id}".encode()).digest()
    step = 1 + int.from_bytes(digest[:8], "big") % (len(among) - 1)
    return among[(among.index(id) + step) % len(among)]


@lru_cache(maxsize=16)
def seed_order(ids: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The ids sorted by a hash of seed and id: added or removed images leave the rest in order."""
    return tuple(sorted(ids, key=lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest()))


def pixels_sha(image: Image.Image) -> str:
    """SHA-256 (hex) of an image's size and RGB pixels; lossless file formats agree."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> str:
    """64 bits (hex): where brightness rises from left to right on a 9 x 8 grid.

    It hardly changes when an image is saved again or resized. Source: N. Krawetz, "Kind of Like
    That" (2013).
    """
    grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()
