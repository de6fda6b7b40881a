"""Writes the synthetic questions as data set files of VLMEvalKit, so that the kit's own code asks
and grades them.

``pope`` and ``mmbench`` write the questions of ``synthetic_pope`` and ``synthetic_vqa``. The column
``native_id``, which the kit ignores, holds the native question's id. MMBench asks each question
once for every rotation of its options (circular evaluation)."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random

from PIL.Image import Image

from benchmarks.synthetic import language, suite
from benchmarks.synthetic.words import CATEGORIES, COLOURS, COLUMNS, NUMBERS, ROWS, SIDES, THEMES

OPTIONS = 4
LETTERS = "ABCD"
_ROTATION = 1_000_000
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "place": tuple(f"{row} {column}" for row in ROWS for column in COLUMNS),
    "what": CATEGORIES,
    "count": NUMBERS,
    "relation": SIDES,
    "scene": tuple(THEMES),
}


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows of equal columns as one of the kit's files: tabs between cells, quotes where
    needed.

    Raises:
        ValueError: there is no row, or a row has other columns than the first.
    """
    all_rows = list(rows)
    if not all_rows:
        raise ValueError(f"There is no row to write to {path}.")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(all_rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(all_rows)


def image_cell(image: Image) -> str:
    """An image as in the column ``image``: a lossless PNG in base64."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()


def pope(path: Path, split: str, limit: int | None = None) -> None:
    """Write ``POPE.tsv``. As in the official file, the first row of an image holds it and the
    others name that row."""
    first_indices: dict[str, int] = {}
    rows = []
    for index, item in enumerate(suite.pope(split, limit).items()):
        first_index = first_indices.setdefault(item.cluster, index)
        rows.append(
            {
                "index": index,
                "image": image_cell(item.load_image()) if first_index == index else first_index,
                "question": item.text,
                "answer": "Yes" if item.truth.present else "No",
                "category": item.truth.setting,
                "native_id": item.id,
            }
        )
    write(path, rows)


def mmbench(path: Path, split: str, limit: int | None = None) -> None:
    """Write ``MMBench_DEV_EN.tsv``: all visual questions but those of existence, with four options
    in every rotation."""
    rows = []
    items = (
        item for item in suite.visual_questions(split, limit).items() if item.truth.kind in _CHOICES
    )
    for number, item in enumerate(items):
        options = options_of(item.id, item.truth.kind, item.truth.answer)
        for shift in range(len(options)):
            rotated = options[shift:] + options[:shift]
            rows.append(
                {
                    "index": number + shift * _ROTATION,
                    "image": number if shift else image_cell(item.load_image()),
                    "question": item.text,
                    **dict(zip(LETTERS, rotated, strict=True)),
                    "answer": LETTERS[rotated.index(item.truth.answer)],
                    "category": item.truth.kind,
                    "l2-category": "synthetic",
                    "split": "dev",
                    "native_id": item.id,
                }
            )
    write(path, rows)


def options_of(id: str, kind: str, answer: str) -> list[str]:
    """The right answer and three others of its kind, in an order that depends on the question's id
    alone."""
    rng = Random(f"options {id}")
    wrong_options = [choice for choice in _CHOICES[kind] if choice != answer]
    options = [answer, *rng.sample(wrong_options, OPTIONS - 1)]
    rng.shuffle(options)
    return options


assert set(_CHOICES) | {"existence"} == set(language.KINDS)
