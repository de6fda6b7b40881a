"""A pool from a JSONL manifest: one image a line, with its texts.

A line is ``{"image", "question", "reference", "id", "sha256"}``; all but ``image`` are optional.
``image`` is a path relative to the manifest and serves as ``id`` where none is given. ``sha256``
is the ``pixels_sha`` that the image must have.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.files import is_file
from harness.data.pool import Pool, PoolFile, pixels_sha, pool_of_files
from harness.data.text_file import BadText, checked_text, parse_json, read_text
from harness.errors import UserError
from methods.interface import Item

KEYS = frozenset({"id", "image", "question", "reference", "sha256"})
TEXTS = ("question", "reference")
SHAPE = (
    'a line is {"image": "path below the manifest", "question": "...", "reference": "...",'
    ' "id": "...", "sha256": "..."}, all but image optional.'
)


def manifest_pool(path: Path) -> Pool:
    """The manifest's images.

    Raises:
        UserError: the manifest is empty, or a line is wrong (its number is named).
    """
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parse_row(line, where)
        if row["id"] in rows:
            raise UserError(
                f"{where}: the id {row['id']!r} is there already; give each line an id of its own."
            )
        if not is_file(path.parent / row["image"]):
            raise UserError(
                f"{where}: there is no image {row['image']!r}; paths are relative to the manifest."
            )
        rows[row["id"]] = row
    if not rows:
        raise UserError(
            f'The manifest {path} is empty; each line is an image, such as {{"image": "a.png",'
            ' "question": "..."}.'
        )

    files = {
        id: PoolFile(path.parent / row["image"], row.get("question"), row.get("reference"))
        for id, row in rows.items()
    }
    pool = pool_of_files(str(path), files)

    def read(id: str) -> Item:
        row, item = rows[id], pool.read(id)
        if (expected_sha := row.get("sha256")) and expected_sha != pixels_sha(item.image):
            raise UserError(
                f"{path}: the image {row['image']!r} differs from the sha256 in its line"
                f" ({expected_sha[:12]}...); restore it, or take sha256 out of the line."
            )
        return item

    return replace(pool, read=read)


def _parse_row(line: str, where: str) -> dict[str, str]:
    """One line of a manifest, checked, with its ``id``."""
    row = parse_json(line, where, SHAPE)
    if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not row["image"]:
        raise UserError(f"{where}: no image; {SHAPE}")
    if unknown := sorted(set(row) - KEYS):
        raise UserError(f"{where}: unknown {', '.join(map(repr, unknown))}; {SHAPE}")
    texts = {key: value for key, value in row.items() if value is not None}
    for key, value in texts.items():
        try:
            # A file's name may have blanks at its ends.
            text = checked_text(value)
            texts[key] = text if key in TEXTS else value
        except BadText as error:
            raise UserError(f"{where}: {key} {error}; {SHAPE}") from None
    return {"id": row["image"], **texts}
