"""Image pools: the synthetic world, a folder of images or a JSONL manifest; sampling, hashes, and
hiding what is not declared.

A pool is sampled by the run's seed and the round alone, never by the method: all methods learn from
the same images in the same order, and each round draws fresh ones."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.artifacts.fingerprint import cores, fingerprint
from harness.errors import UserError
from methods.interface import Field, GroundTruth, Item

WORLD_SIZE = 100_000
"""Images the world's pool offers; it is drawn, not stored, so this is only where the sampling
ends."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
KEYS = frozenset({"id", "image", "question", "reference", "sha256"})

# An image of more pixels than PIL's limit is refused like any broken one, rather than decoded with
# a warning.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class UnreadableImage(Exception):  # noqa: N818  (a fact about one image; it is skipped and counted)
    """One image of the pool cannot be opened, and why."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A drawn image: its id, the sha256 of its pixels, its ``difference_hash``, and the texts
    that the pool has beside it."""

    id: str
    sha256: str
    dhash: str
    question: str | None
    reference: str | None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one round sees, in order, and the images skipped as ``(id, why)``."""

    seen: tuple[Seen, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(one.id for one in self.seen)

    def fingerprint(self, needs: frozenset[Field]) -> str:
        """Of ids, images and those texts that the method is shown: another question matters to no
        method that asks its own."""
        texts = [field for field in ("question", "reference") if field in needs]
        return fingerprint(
            [[one.id, one.sha256, *(getattr(one, field) for field in texts)] for one in self.seen]
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """``read(id)`` gives an item with every field the pool has; ``fields`` says which those are.
    ``judge`` is there where the pool knows the exact truth about its images.

    Images are read when they are asked for and not kept: a pool may be larger than memory.
    """

    spec: str
    ids: tuple[str, ...]
    fields: frozenset[Field]
    read: Callable[[str], Item]
    judge: GroundTruth | None = None
    order: Callable[[int], tuple[str, ...]] | None = None
    """The pool in a seed's order, where it is not that of the hashed ids (a mixture's
    proportions)."""

    def check(self, needs: frozenset[Field], method: str) -> None:
        """
        Raises:
            UserError: the method needs what this pool has not.
        """
        if missing := sorted(needs - self.fields - {"scorer"}):
            has = " and ".join(sorted(self.fields))
            raise UserError(
                f"{method} needs {' and '.join(missing)} with each image, but the pool"
                f' {self.spec} has {has} only; give a .jsonl manifest with lines {{"image": ...,'
                ' "question": ..., "reference": ...}.'
            )

    def draw(self, n: int, seed: int, round: int) -> Drawn:
        """The ``n`` images of this round (from 1): the round's slice of the pool in the seed's
        order, less unreadable ones.

        Raises:
            UserError: the pool is too small for so many rounds, or none of the images can be
                read.
        """
        whole = self.order(seed) if self.order else ordered(self.ids, seed)
        if n * round > len(whole):
            raise UserError(
                f"The pool {self.spec} holds {len(whole)}"
                f" images{' in its proportions' if self.order else ''}; {round}"
                f" round{'s' if round > 1 else ''} of {n} fresh ones need {n * round}. Give fewer"
                " --images or --rounds, or a larger pool."
            )
        order = whole[n * (round - 1) : n * round]
        with ThreadPoolExecutor(max_workers=min(16, cores())) as threads:
            looked = list(threads.map(self._look, order))
        seen = tuple(one for one in looked if isinstance(one, Seen))
        skipped = tuple(
            (id, one) for id, one in zip(order, looked, strict=True) if isinstance(one, str)
        )
        if not seen:
            raise UserError(
                f"None of the {n} images drawn from {self.spec} can be read; the first:"
                f" {skipped[0][0]}: {skipped[0][1]}."
            )
        return Drawn(seen=seen, skipped=skipped)

    def _look(self, id: str) -> Seen | str:
        """The image's hash and texts, or why it cannot be read."""
        try:
            item = self.read(id)
        except UnreadableImage as error:
            return str(error)
        hashes = {"sha256": pixels_sha(item.image), "dhash": difference_hash(item.image)}
        return Seen(id=id, **hashes, question=item.question, reference=item.reference)

    def items(
        self, ids: Sequence[str], needs: frozenset[Field], among: Sequence[str] = ()
    ) -> list[Item]:
        """These items, in order, with every field hidden (None) that the method did not declare.

        ``among``: the round's ids, of which each item's ``another`` image is drawn.

        Raises:
            UserError: an image could be read when it was drawn and cannot now.
        """
        try:
            full = [self.read(id) for id in ids]
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
                another=partial(self.image, other_of(item.id, among)) if len(among) > 1 else None,
            )
            for item in full
        ]

    def image(self, id: str) -> Image.Image:
        return self.items([id], frozenset())[0].image


def other_of(id: str, among: Sequence[str]) -> str:
    """Another of these ids, drawn by the id itself."""
    step = 1 + int.from_bytes(hashlib.sha256(f"another/{id}".encode()).digest()[:8], "big") % (
        len(among) - 1
    )
    return among[(among.index(id) + step) % len(among)]


@lru_cache(maxsize=16)
def ordered(ids: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The pool in the seed's order. Sorting by a hash keeps the order of the rest when images are
    added or taken away."""
    return tuple(sorted(ids, key=lambda id: hashlib.sha256(f"{seed}/{id}".encode()).digest()))


def pixels_sha(image: Image.Image) -> str:
    """The sha256 (hex) of an RGB image's size and pixels: the same for every file format that
    keeps them."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> str:
    """64 bits (hex) of how brightness changes from left to right on a 9 x 8 grid: nearly the same
    for an image saved again or resized. Source: N. Krawetz, "Kind of Like That" (2013)."""
    grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()


def read_image(path: Path | BinaryIO) -> Image.Image:
    """An image file (or an open one) as RGB, wholly decoded.

    Raises:
        UnreadableImage: the file is missing, broken, no image, or larger than PIL's limit on
            pixels.
    """
    try:
        with Image.open(path) as image:
            return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImage("not an image that PIL can open") from None
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    # decoders raise OSError, SyntaxError, ValueError, struct.error, DecompressionBomb...
    except Exception as error:
        raise UnreadableImage(f"{type(error).__name__}: {error}") from None


def open_pool(spec: str) -> Pool:
    """A pool by its name: ``world`` or ``world:<split>``, a folder of images, a ``.jsonl``
    manifest, or one of harness/pools (``llava:``, ``coco:``, ``hub:``, ``mix:``).

    Raises:
        UserError: there is no such pool, the folder has no image, or a line of the manifest is
            wrong (file and line).
    """
    name, _, split = spec.partition(":")
    if name == "synthetic":
        return _world(spec, split or "pool")
    if name in ("llava", "coco", "hub", "mix"):
        from harness.data import hub_datasets as hub
        from harness.data import llava_coco as texts
        from harness.data import mixture as mix

        return {
            "llava": texts.llava_pool,
            "coco": texts.coco_pool,
            "hub": hub.hub_pool,
            "mix": mix.mix_pool,
        }[name](spec)
    path = Path(spec)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".jsonl" and path.is_file():
        return _manifest(path)
    raise UserError(
        f"There is no pool {spec!r}; give synthetic, an existing folder of images, an existing"
        " .jsonl manifest, llava:<json>:<folder>, coco:<json>:<folder>, hub:<name>, or"
        " mix:<pool>=<weight>,... of them."
    )


def _world(spec: str, split: str) -> Pool:
    from benchmarks.synthetic.suite import synthetic_item

    if split not in ("train", "pool", "dev"):
        raise UserError(
            f"There is no synthetic pool {spec!r}; known: synthetic (its pool split),"
            " synthetic:dev, synthetic:train."
        )

    def read(id: str) -> Item:
        _, image, question, reference = synthetic_item(split, _index(id))
        return Item(id=id, image=image, question=question, reference=reference)

    ids = tuple(f"{split}-{index:05d}" for index in range(WORLD_SIZE))
    fields: frozenset[Field] = frozenset({"image", "question", "reference", "ground_truth"})
    return Pool(spec=spec, ids=ids, fields=fields, read=read, judge=SyntheticTruth(split))


def _index(id: str) -> int:
    return int(id.rpartition("-")[2])


@dataclass(frozen=True)
class SyntheticTruth:
    """Counts a caption's errors against the scene that its image was drawn from."""

    split: str

    def errors(self, item: str, answers: Sequence[str]) -> list[float]:
        from benchmarks.synthetic.scene import scene
        from benchmarks.synthetic.truth import account_errors

        truth = scene(self.split, _index(item))
        return [float(account_errors(answer, truth)) for answer in answers]


def _folder(folder: Path) -> Pool:
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
    }
    if not found:
        raise UserError(
            f"The folder {folder} holds no image; its files must end in"
            f" {' '.join(sorted(SUFFIXES))}."
        )

    def read(id: str) -> Item:
        return Item(id=id, image=read_image(found[id]))

    return Pool(spec=str(folder), ids=tuple(sorted(found)), fields=frozenset({"image"}), read=read)


def _manifest(path: Path) -> Pool:
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1
    ):
        if line.strip():
            row = _row(line, f"{path}, line {number}")
            if row["id"] in rows:
                raise UserError(
                    f"{path}, line {number}: the id {row['id']!r} is there already; give each line"
                    " an id of its own."
                )
            if not (path.parent / row["image"]).is_file():
                raise UserError(
                    f"{path}, line {number}: there is no image {row['image']!r}; paths are"
                    " relative to the manifest."
                )
            rows[row["id"]] = row
    if not rows:
        raise UserError(
            f'The manifest {path} is empty; each line is an image, such as {{"image": "a.png",'
            ' "question": "..."}.'
        )

    def read(id: str) -> Item:
        row = rows[id]
        image = read_image(path.parent / row["image"])
        if (stated := row.get("sha256")) and stated != pixels_sha(image):
            raise UserError(
                f"{path}: the image {row['image']!r} is not the one that its line means (sha256"
                f" {stated[:12]}...); restore it, or take sha256 out of the line."
            )
        return Item(
            id=id, image=image, question=row.get("question"), reference=row.get("reference")
        )

    # A field counts only where every line has it: a method that needs it could not use the others.
    fields: set[Field] = {"image"}
    fields |= {
        field for field in ("question", "reference") if all(field in row for row in rows.values())
    }
    return Pool(spec=str(path), ids=tuple(rows), fields=frozenset(fields), read=read)


def _row(line: str, where: str) -> dict[str, str]:
    """One line of a manifest, with its ``id`` (the image's path unless given)."""
    shape = (
        'a line is {"image": "path below the manifest", "question": "...", "reference": "...",'
        ' "id": "...", "sha256": "..."}'
    )
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); {shape}, all but image optional.") from None
    if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not row["image"]:
        raise UserError(f"{where}: no image; {shape}, all but image optional.")
    if odd := sorted(set(row) - KEYS):
        raise UserError(
            f"{where}: unknown {', '.join(map(repr, odd))}; {shape}, all but image optional."
        )
    if wrong := sorted(
        key
        for key, value in row.items()
        if value is not None and not (isinstance(value, str) and value)
    ):
        raise UserError(
            f"{where}: {' and '.join(wrong)} must be text that is not empty; {shape}, all but image"
            " optional."
        )
    kept = {key: value for key, value in row.items() if value is not None}
    return {"id": row["image"], **kept}
