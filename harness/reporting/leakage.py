"""Images that were trained on and asked about: the same pixels (sha256), or nearly the same
(``pool.difference_hash``).

Only what was stored is compared: ``items.jsonl`` of every round's pairs with ``images.jsonl`` of
every benchmark. An image counts once it was drawn from the pool, whether or not it gave a pair.
Every find is listed in ``leaks.csv`` to be looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.artifacts.results_folder import Results, read_jsonl, write_bytes
from harness.data.pool import difference_hash, read_image
from harness.errors import UserError
from harness.reporting import stored
from harness.reporting.results import Records, read, shown

NEAR = 8
"""Bits of 64 that two nearly equal images may differ by. Measured on the synthetic world: between
disjoint splits 1 of 20 million pairs of images is that near (6 at 9 bits, 22 at 10, 248 at 12);
of its images saved again, that near to themselves are all at JPEG quality 90, 93 % at 70, 82 % at
50, 89 % at twice the size, 46 % at half, 60 % with 2 % cropped off each side. On photographs the
rates are not measured: look at what is listed."""

FLAT = 6
"""An image with fewer changes of brightness than this (or with fewer falls) is compared by its
pixels alone: all blank images have the same hash."""

CHUNK = 256
POOL = "the training pool"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A benchmark's image that the pool has too; ``distance`` in bits (0 to ``NEAR``; "exact":
    the same pixels).

    ``labels``: the rows whose rounds drew it. ``item``: the pool's image, of several the nearest.
    """

    benchmark: str
    cluster: str
    picture: str
    kind: str
    distance: int
    item: str
    labels: str


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """``found``, one a benchmark's image; ``asked``: images a benchmark; ``trained``: images
    drawn for training;
    ``unhashed``: what could be compared by pixels alone, because its folder was written without
    perceptual hashes."""

    found: tuple[Leak, ...]
    asked: Mapping[str, int]
    unhashed: tuple[str, ...]
    trained: int

    def clusters(self, benchmark: str) -> set[str]:
        return {leak.cluster for leak in self.found if leak.benchmark == benchmark}

    def count(self, benchmark: str, kind: str) -> int:
        """Images of the benchmark that leaked in this way, "exact" or "near"."""
        return len(
            {
                leak.picture
                for leak in self.found
                if (leak.benchmark, leak.kind) == (benchmark, kind)
            }
        )

    def csv(self) -> bytes:
        buffer = io.StringIO()
        names = [field.name for field in fields(Leak)]
        pd.DataFrame([asdict(leak) for leak in self.found], columns=names).to_csv(
            buffer, index=False
        )
        return buffer.getvalue().encode()


def opened(out: Path, *, exclude_leaks: bool = False) -> tuple[Records, Leaks]:
    """The study's records with what leaked in their facts; ``exclude_leaks`` leaves the leaked
    images' questions out of all rows, so that everything after is recomputed without them.

    Raises:
        UserError: the folder holds no study, a record is broken, or no image of any benchmark is
            left.
    """
    records = read(out)
    leaks = find(Results(out), records)
    facts = {**records.facts, "leaks": sentences(leaks, excluded=exclude_leaks)}
    if not exclude_leaks or not leaks.found:
        return replace(records, facts=facts), leaks
    grades = records.grades
    leaked = pd.Series(False, index=grades.index)
    for benchmark in leaks.asked:
        leaked |= (grades["benchmark"] == benchmark) & grades["cluster"].isin(
            leaks.clusters(benchmark)
        )
    if len(grades) and bool(leaked.all()):
        raise UserError(
            f"Every image that {out} asks about is in its training pool too; nothing is left"
            " without the leaks."
        )
    return replace(records, grades=grades[~leaked].reset_index(drop=True), facts=facts), leaks


def write(out: Path, leaks: Leaks) -> None:
    """Write ``leaks.csv``, a line a leaked image (only the head where there is none)."""
    write_bytes(out / "leaks.csv", leaks.csv())


def find(results: Results, records: Records) -> Leaks:
    """Every benchmark image that a finished round of any row drew from its pool; of a packed
    folder, what was found before."""
    if (known := stored.opened(results.out).leaks()) is not None:
        return Leaks(
            found=tuple(Leak(**leak) for leak in known["found"]),
            asked=known["asked"],
            unhashed=tuple(known["unhashed"]),
            trained=known["trained"],
        )
    trained, labels = _trained(results, records)
    hashes = {sha: hash for sha, (_, hash) in trained.items() if hash}
    keys, pool = list(hashes), _bits(list(hashes.values()))
    found: list[Leak] = []
    asked: dict[str, int] = {}
    unhashed = [POOL] if len(hashes) < len(trained) else []
    for benchmark in records.benchmarks:
        places = _pictures(results.questions(benchmark.name))
        pictures = list(dict.fromkeys(sha for sha, _ in places))
        hashed = _hashes(results.questions(benchmark.name), pictures)
        asked[benchmark.name] = len(pictures)
        if len(hashed) < len(pictures):
            unhashed.append(shown(benchmark.name))
        nearest = dict(zip(hashed, _nearest(list(hashed.values()), pool), strict=True))
        for sha, cluster in places:
            distance, place = nearest.get(sha, (NEAR + 1, -1))
            if sha in trained:
                kind, distance, other = "exact", 0, sha
            elif distance <= NEAR:
                kind, other = "near", keys[place]
            else:
                continue
            found.append(
                Leak(
                    benchmark=benchmark.name,
                    cluster=cluster,
                    picture=sha,
                    kind=kind,
                    distance=int(distance),
                    item=trained[other][0],
                    labels=" / ".join(sorted(labels[other])),
                )
            )
    return Leaks(found=tuple(found), asked=asked, unhashed=tuple(unhashed), trained=len(trained))


def _trained(
    results: Results, records: Records
) -> tuple[dict[str, tuple[str, str]], dict[str, set[str]]]:
    """(item, perceptual hash) of every drawn image by its sha256, and the rows that drew it."""
    drawn: dict[str, tuple[str, str]] = {}
    labels: dict[str, set[str]] = {}
    for row in records.rows:
        for seed in row.seeds:
            for number in range(1, row.rounds + 1):
                folder = results.pairs(row.label, seed, number)
                if (folder / "DONE").exists() and (folder / "items.jsonl").exists():
                    for item in read_jsonl(folder / "items.jsonl"):
                        sha = str(item["sha256"])
                        drawn.setdefault(sha, (str(item["id"]), str(item.get("dhash", ""))))
                        labels.setdefault(sha, set()).add(row.label)
    return drawn, labels


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """(sha256, cluster) of every image asked about; an image may stand in several clusters."""
    path = folder / "questions.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    return list(
        dict.fromkeys(
            (name.removesuffix(".png"), str(row["cluster"]))
            for row in rows
            for name in row["images"]
        )
    )


def _hashes(folder: Path, pictures: Sequence[str]) -> dict[str, str]:
    """The images' stored hashes; for a folder written before they were stored, of the images
    that still lie there."""
    path = folder / "images.jsonl"
    if path.exists():
        stored = {str(row["sha256"]): str(row["dhash"]) for row in read_jsonl(path)}
        return {sha: stored[sha] for sha in pictures if sha in stored}
    files = {sha: folder / "images" / f"{sha}.png" for sha in pictures}
    return {sha: difference_hash(read_image(file)) for sha, file in files.items() if file.exists()}


def _bits(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(hash, 16) for hash in hashes], dtype=np.uint64)


def _nearest(asked: Sequence[str], pool: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """For each asked image the smallest distance in bits to a pool image and that image's
    place."""
    found: list[tuple[int, int]] = []
    mine = _bits(asked)
    busy = np.flatnonzero(_busy(pool))
    for start in range(0, len(mine), CHUNK):
        some = mine[start : start + CHUNK]
        if not len(busy):
            found += [(NEAR + 1, -1)] * len(some)
            continue
        distances = np.bitwise_count(some[:, None] ^ pool[busy][None, :])
        places = distances.argmin(axis=1)
        least = np.where(_busy(some), distances[np.arange(len(some)), places], NEAR + 1)
        found += [
            (int(distance), int(busy[place])) for distance, place in zip(least, places, strict=True)
        ]
    return found


def _busy(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    ones = np.bitwise_count(hashes)
    return np.asarray((ones >= FLAT) & (ones <= 64 - FLAT), dtype=np.bool_)


def sentences(leaks: Leaks, *, excluded: bool) -> tuple[str, ...]:
    """What the notes say: counts a benchmark, what could not be compared, what was left out."""
    if not leaks.trained:
        return ()
    names = [benchmark for benchmark in leaks.asked if leaks.asked[benchmark]]
    unknown = [name for name in names if {shown(name), POOL} & set(leaks.unhashed)]
    counted = ", ".join(
        f"{shown(name)} {leaks.count(name, 'exact'):,} exact and"
        f" {'unknown' if name in unknown else format(leaks.count(name, 'near'), ',')} near of"
        f" {leaks.asked[name]:,}"
        for name in names
    )
    lines = [
        f"Images of a benchmark that are also among the {leaks.trained:,} drawn for training"
        f" (exact: the same pixels; near: difference hashes at most {NEAR} of 64 bits apart; listed"
        f" in leaks.csv): {counted}."
    ]
    if leaks.unhashed:
        lines.append(
            "Near duplicates are unknown where images were stored without perceptual hashes:"
            f" {', '.join(leaks.unhashed)}."
        )
    if excluded:
        left = ", ".join(
            f"{shown(name)} {leaks.count(name, 'exact') + leaks.count(name, 'near'):,} of"
            f" {leaks.asked[name]:,}"
            for name in names
        )
        lines.append(
            f"Left out of every row because they leaked (all questions of such an image): {left}."
        )
    elif leaks.found:
        lines.append(
            "They are part of the numbers above; --exclude-leaks recomputes everything without"
            " them."
        )
    return tuple(lines)
