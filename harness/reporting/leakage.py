"""Finds benchmark images that were also drawn for training: identical pixels (sha256) or nearly the
same (``pool.difference_hash``).

Only stored hashes are compared: ``items.jsonl`` of every round's pairs with ``images.jsonl`` of
every benchmark. An image drawn from the pool counts even if it gave no pair. ``leaks.csv`` lists
every leak for inspection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.artifacts.results_folder import read_jsonl, write_bytes
from harness.artifacts.stored_files import is_stored
from harness.data.image_file import read_image
from harness.data.pool import difference_hash
from harness.errors import UserError
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults, load_results
from harness.reporting.stored import image_file

NEAR = 8
"""Two images are near duplicates if at most this many of the 64 bits of their hashes differ.

Measured on the synthetic world. False alarms: 1 in 20 million pairs of images from disjoint splits
(limit of 9 bits: 6, 10 bits: 22, 12 bits: 248). Share of changed copies found: all at JPEG quality
90, 93 % at 70, 82 % at 50, 89 % at twice the size, 46 % at half, 60 % with 2 % cropped off each
side. For photographs the rates are not measured."""

MIN_EDGES = 6
"""If a hash has fewer 1 bits (or 0 bits) than this, the image is nearly uniform. All blank images
have the same hash, so nearly uniform images are compared by pixels only."""

CHUNK = 256
"""Number of benchmark images compared at a time; limits memory."""

POOL = "the training pool"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A benchmark's image that is also in the pool; a line of ``leaks.csv``."""

    benchmark: str
    cluster: str
    image: str
    """The image's sha256."""
    kind: str
    """Either "exact" (the same pixels) or "near" (nearly the same)."""
    distance: int
    """Differing bits of the hashes, 0 to ``NEAR``."""
    item: str
    """The id of the pool image; if several match, the nearest."""
    labels: str
    """The rows that drew it."""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """All leaks of a study, and how much was compared."""

    found: tuple[Leak, ...]
    asked: Mapping[str, int]
    """Number of images of each benchmark."""
    unhashed: tuple[str, ...]
    """Benchmarks (or ``POOL``) stored without perceptual hashes; compared by pixels only."""
    trained: int
    """Number of images drawn for training."""

    def count(self, benchmark: str, kind: str) -> int:
        """The benchmark's leaked images of this kind."""
        leaks = (leak for leak in self.found if leak.kind == kind)
        return len({leak.image for leak in leaks if leak.benchmark == benchmark})

    def csv(self) -> bytes:
        names = [field.name for field in fields(Leak)]
        frame = pd.DataFrame([asdict(leak) for leak in self.found], columns=names)
        return frame.to_csv(index=False).encode()


def load_with_leaks(out: Path, *, exclude_leaks: bool = False) -> tuple[StudyResults, Leaks]:
    """The study's results, with notes about leaks in their facts, and the leaks. ``exclude_leaks``
    removes the questions about leaked images from every row before anything is computed.

    Raises:
        UserError: the folder holds no study, a file is broken, or every image leaked.
    """
    study = load_results(out)
    leaks = find(study)
    facts = {**study.facts, "leaks": sentences(leaks, excluded=exclude_leaks)}
    if not exclude_leaks or not leaks.found:
        return replace(study, facts=facts), leaks
    grades = study.grades
    asked = pd.MultiIndex.from_frame(grades[["benchmark", "cluster"]])
    leaked = asked.isin([(leak.benchmark, leak.cluster) for leak in leaks.found])
    if len(grades) and bool(leaked.all()):
        raise UserError(
            f"All benchmark images of {out} are in its training pool too; nothing is left without"
            " the leaks."
        )
    return replace(study, grades=grades[~leaked].reset_index(drop=True), facts=facts), leaks


def write(out: Path, leaks: Leaks) -> None:
    """Write ``leaks.csv``, one line per leak (only the header if there are none)."""
    write_bytes(out / "leaks.csv", leaks.csv())


def find(study: StudyResults) -> Leaks:
    """All benchmark images that a finished round of any row drew from its pool. A packed folder
    stores this list; otherwise it is computed."""
    stored = study.stored
    if (stored_leaks := stored.leaks()) is not None:
        found = tuple(Leak(**leak) for leak in stored_leaks["found"])
        return Leaks(
            **{**stored_leaks, "found": found, "unhashed": tuple(stored_leaks["unhashed"])}
        )
    trained, labels = _trained(study)
    hashes = {sha: dhash for sha, (_, dhash) in trained.items() if dhash}
    pool_shas, pool_bits = list(hashes), _bits(list(hashes.values()))
    leaks: list[Leak] = []
    images_asked: dict[str, int] = {}
    unhashed = [POOL] if len(hashes) < len(trained) else []
    for benchmark in study.benchmarks:
        folder = stored.folder(stored.results.questions(benchmark.name))
        benchmark_images = _benchmark_images(folder)
        shas = list(dict.fromkeys(sha for sha, _ in benchmark_images))
        hashed = _hashes(folder, shas)
        images_asked[benchmark.name] = len(shas)
        if len(hashed) < len(shas):
            unhashed.append(display_name(benchmark.name))
        nearest = dict(zip(hashed, _nearest(list(hashed.values()), pool_bits), strict=True))
        for sha, cluster in benchmark_images:
            distance, index = nearest.get(sha, (NEAR + 1, -1))
            if sha in trained:
                kind, distance, pool_sha = "exact", 0, sha
            elif distance <= NEAR:
                kind, pool_sha = "near", pool_shas[index]
            else:
                continue
            leaks.append(
                Leak(
                    benchmark=benchmark.name,
                    cluster=cluster,
                    image=sha,
                    kind=kind,
                    distance=int(distance),
                    item=trained[pool_sha][0],
                    labels=" / ".join(sorted(labels[pool_sha])),
                )
            )
    return Leaks(
        found=tuple(leaks), asked=images_asked, unhashed=tuple(unhashed), trained=len(trained)
    )


def _trained(study: StudyResults) -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """(item, perceptual hash) of every drawn image by its sha256, and the rows that drew it."""
    drawn: dict[str, tuple[str, str]] = {}
    labels: dict[str, set[str]] = {}
    for row in study.rows:
        for seed, number in row.trainings:
            stage = study.stored.results.pairs(row.label, seed, number)
            done = study.stored.done(stage)
            for item in study.stored.lines(stage, "items.jsonl") if done else []:
                sha = str(item["sha256"])
                drawn.setdefault(sha, (str(item["id"]), str(item.get("dhash", ""))))
                labels.setdefault(sha, set()).add(row.label)
    return drawn, labels


def _benchmark_images(folder: Path) -> list[tuple[str, str]]:
    """(sha256, cluster) of a benchmark's images; an image may be in several clusters."""
    path = folder / "questions.jsonl"
    rows = read_jsonl(path) if is_stored(path) else []
    pairs = (
        (name.removesuffix(".png"), str(row["cluster"])) for row in rows for name in row["images"]
    )
    return list(dict.fromkeys(pairs))


def _hashes(folder: Path, shas: Sequence[str]) -> dict[str, str]:
    """The images' perceptual hashes, stored or (in an older folder) computed from the images that
    are still there."""
    for name in ("images.jsonl", "pictures.jsonl"):  # the present name, then the old one
        if is_stored(folder / name):
            hash_of = {str(row["sha256"]): str(row["dhash"]) for row in read_jsonl(folder / name)}
            return {sha: hash_of[sha] for sha in shas if sha in hash_of}
    files = {sha: image_file(folder / "images", f"{sha}.png") for sha in shas}
    return {sha: difference_hash(read_image(file)) for sha, file in files.items() if file.exists()}


def _bits(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(dhash, 16) for dhash in hashes], dtype=np.uint64)


def _nearest(hashes: Sequence[str], pool: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """For each benchmark hash: the distance in bits to the nearest pool image and its index."""
    nearest: list[tuple[int, int]] = []
    bits = _bits(hashes)
    textured = np.flatnonzero(_textured(pool))
    if not len(textured):
        return [(NEAR + 1, -1)] * len(bits)
    for start in range(0, len(bits), CHUNK):
        chunk = bits[start : start + CHUNK]
        distances = np.bitwise_count(chunk[:, None] ^ pool[textured])
        least = np.where(_textured(chunk), distances.min(axis=1), NEAR + 1)
        indices = textured[distances.argmin(axis=1)]
        nearest += zip(least.tolist(), indices.tolist(), strict=True)
    return nearest


def _textured(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    ones = np.bitwise_count(hashes)
    return np.asarray((ones >= MIN_EDGES) & (ones <= 64 - MIN_EDGES), dtype=np.bool_)


def sentences(leaks: Leaks, *, excluded: bool) -> tuple[str, ...]:
    """For the notes: leaks by benchmark, missing hashes, and excluded images."""
    if not leaks.trained:
        return ()
    counts, left_out = [], []
    for name, images in ((name, images) for name, images in leaks.asked.items() if images):
        exact, near = leaks.count(name, "exact"), leaks.count(name, "near")
        benchmark = display_name(name)
        near_text = f"{near:,}" if {benchmark, POOL}.isdisjoint(leaks.unhashed) else "unknown"
        counts.append(f"{benchmark} {exact:,} exact, {near_text} near, of {images:,} images")
        left_out.append(f"{benchmark} {exact + near:,} of {images:,}")
    lines = [
        f"Leaks: benchmark images that are also among the {leaks.trained:,} images drawn for"
        f" training. Exact: the same pixels. Near: difference hashes differ in at most {NEAR} of 64"
        f" bits. leaks.csv lists all. {'; '.join(counts)}."
    ]
    if leaks.unhashed:
        lines.append(
            "Near duplicates are unknown where images were stored without perceptual hashes:"
            f" {', '.join(leaks.unhashed)}."
        )
    if excluded:
        lines.append(
            f"Leaked images are left out of every row, with all their questions:"
            f" {', '.join(left_out)}."
        )
    elif leaks.found:
        lines.append(
            "Leaked images are included in the numbers above; --exclude-leaks recomputes everything"
            " without them."
        )
    return tuple(lines)
