"""The synthetic world's questions as data set files of VLMEvalKit (its real columns), so that its
own code asks and grades them.

``pope`` and ``mmbench`` write what ``synthetic_pope`` and ``synthetic_vqa`` ask; the column
``native_id``, which the kit passes over, holds the native question's id. MMBench asks each question
once for every option, the options rotated (circular evaluation)."""

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
    """Rows of equal columns as one of the kit's files: tabs between cells, quotes where needed.

    Raises:
        ValueError: there is no row, or one has other columns than the first.
    """
    made = list(rows)
    if not made:
        raise ValueError(f"There is no row to write to {path}.")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(made[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)


def picture_cell(image: Image) -> str:
    """An image as the column ``image`` holds it: a PNG in base64, no pixel changed."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()


def pope(path: Path, split: str, limit: int | None = None) -> None:
    """``POPE.tsv``: as in the official file, an image stands in the first of its rows and the
    others name that row."""
    first: dict[str, int] = {}
    rows = []
    for index, item in enumerate(suite.pope(split, limit).items()):
        held = first.setdefault(item.cluster, index)
        rows.append(
            {
                "index": index,
                "image": picture_cell(item.picture()) if held == index else held,
                "question": item.text,
                "answer": "Yes" if item.truth.present else "No",
                "category": item.truth.setting,
                "native_id": item.id,
            }
        )
    write(path, rows)


def mmbench(path: Path, split: str, limit: int | None = None) -> None:
    """``MMBench_DEV_EN.tsv``: the visual questions but those of existence, with four options in
    every rotation."""
    rows = []
    asked = (
        item for item in suite.visual_questions(split, limit).items() if item.truth.kind in _CHOICES
    )
    for number, item in enumerate(asked):
        options = options_of(item.id, item.truth.kind, item.truth.answer)
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": number + turn * _ROTATION,
                    "image": number if turn else picture_cell(item.picture()),
                    "question": item.text,
                    **dict(zip(LETTERS, turned, strict=True)),
                    "answer": LETTERS[turned.index(item.truth.answer)],
                    "category": item.truth.kind,
                    "l2-category": "synthetic",
                    "split": "dev",
                    "native_id": item.id,
                }
            )
    write(path, rows)


def options_of(id: str, kind: str, answer: str) -> list[str]:
    """The right answer and three others of its kind, in an order that hangs on the question's id
    alone."""
    rng = Random(f"options {id}")
    others = [choice for choice in _CHOICES[kind] if choice != answer]
    options = [answer, *rng.sample(others, OPTIONS - 1)]
    rng.shuffle(options)
    return options


assert set(_CHOICES) | {"existence"} == set(language.KINDS)
