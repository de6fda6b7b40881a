"""MMBench dev EN (Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", arXiv
2307.06281): the official TSV, columns index, question, hint, A to D, answer, category, l2-category
and a base64 ``image`` (or the index of the row that has it).

Rows whose index is a million or more are rotations of the row with the same last six digits. A file
without such rows is rotated here. Grading is ``choice.py``'s."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image

from benchmarks import files, grading
from benchmarks.choice import LETTERS, Choice, choice_benchmark, prompt, rotated
from benchmarks.grading import Graded, Item

FILE = "MMBench_DEV_EN.tsv"
DATA = files.LocalData(
    name="mmbench", files=(FILE,), get="github.com/open-compass/MMBench, the link of MMBench DEV EN"
)
ROUND = 1_000_000
LONGEST_REFERENCE = 64
"""An image field no longer than this is the index of another row."""

Row = tuple[str, Mapping[str, str]]
"""A place in the file, and the row's fields."""


def load(split: str, limit: int | None, data: Path | None) -> Graded[Choice]:
    """
    Raises:
        ValueError: the file is missing or broken (with the line), or another split than test is
            asked for (its answers are public for its dev part alone; here that is what is tested
            on).
    """
    folder = DATA.folder("mmbench_dev_en", data)
    grading.only_test_split("mmbench_dev_en", split)
    rows = _rows(folder / FILE)
    groups: defaultdict[int, list[tuple[int, Row]]] = defaultdict(list)
    for index, row in rows.items():
        groups[index % ROUND].append((index, row))
    given = any(index >= ROUND for index in rows)
    items = [
        item
        for some in groups.values()
        for item in (_given(some, rows) if given else _made(some[0], rows))
    ]
    some, source = grading.fixed(grading.few_pictures(items, limit), "mmbench-dev-en")
    categories = tuple(sorted({item.truth.category for item in items}))
    return choice_benchmark(name="mmbench_dev_en", source=source, items=some, categories=categories)


def _rows(path: Path) -> dict[int, Row]:
    csv.field_size_limit(2**31 - 1)  # images are fields
    reader = csv.reader(io.StringIO(files.read_text(path), newline=""), delimiter="\t", strict=True)
    found: dict[int, Row] = {}
    header: list[str] = []
    try:
        for values in reader:
            place = f"{path}, line {reader.line_num}"
            if not header:
                header = values
                if lost := [
                    name
                    for name in ("index", "question", "A", "B", "answer", "image")
                    if name not in header
                ]:
                    raise ValueError(f"{place}: there is no column {lost[0]!r}; {files.AGAIN}.")
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"{place}: {len(values)} fields, not {len(header)}; the file is cut off or no"
                    f" TSV; {files.AGAIN}."
                )
            row = dict(zip(header, values, strict=True))
            index = re.fullmatch(r"(\d+)(?:\.0)?", row["index"])
            if index is None:
                raise ValueError(
                    f"{place}: the index is {row['index']!r}; it must be a number; {files.AGAIN}."
                )
            if int(index[1]) in found:
                raise ValueError(
                    f"{place}: the index {index[1]} is there already ({found[int(index[1])][0]});"
                    f" {files.AGAIN}."
                )
            for name in set(header) - {"image"}:
                files.clean(place, row[name], name)
            found[int(index[1])] = (place, row)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: cut off or no TSV ({error}); {files.AGAIN}."
        ) from None
    if not found:
        raise ValueError(f"{path} is empty; {files.AGAIN}.")
    return found


def _given(some: Sequence[tuple[int, Row]], rows: Mapping[int, Row]) -> list[Item[Choice]]:
    """The rotations that the file holds, each as it is there."""
    found = []
    for index, (place, row) in sorted(some):
        options, answer = _options(place, row)
        lettered = tuple(zip(LETTERS, options, strict=False))
        found.append(
            _item(index % ROUND, index // ROUND, lettered, LETTERS[answer], (place, row), rows)
        )
    return found


def _made(one: tuple[int, Row], rows: Mapping[int, Row]) -> list[Item[Choice]]:
    index, (place, row) = one
    options, answer = _options(place, row)
    turned = (rotated(options, answer, by) for by in range(len(options)))
    return [_item(index, by, *each, (place, row), rows) for by, each in enumerate(turned)]


def _options(place: str, row: Mapping[str, str]) -> tuple[list[str], int]:
    """The options and the place of the right one."""
    options = [row[letter].strip() for letter in LETTERS if row.get(letter, "").strip()]
    answer = row["answer"].strip()
    if (
        len(answer) != 1
        or answer not in LETTERS[: len(options)]
        or not all(row[letter].strip() for letter in LETTERS[: len(options)])
    ):
        raise ValueError(
            f"{place}: the answer is {answer!r} of {len(options)} options; it must be one of their"
            " letters."
        )
    return options, LETTERS.index(answer)


def _item(
    question: int,
    rotation: int,
    options: tuple[tuple[str, str], ...],
    answer: str,
    at: Row,
    rows: Mapping[int, Row],
) -> Item[Choice]:
    place, row = at
    if not row["question"].strip():
        raise ValueError(f"{place}: there is no question; {files.AGAIN}.")
    image = row["image"]
    if len(image) <= LONGEST_REFERENCE:
        if (
            not image.isdecimal()
            or int(image) not in rows
            or len(rows[int(image)][1]["image"]) <= LONGEST_REFERENCE
        ):
            raise ValueError(
                f"{place}: the image is {image!r}; it must be an image in base64 or the index of a"
                " row that has one."
            )
        image = rows[int(image)][1]["image"]
    category = re.sub(r"\W+", "_", row.get("l2-category") or row.get("category") or "all").strip(
        "_"
    )
    text = "\n".join(
        part.strip() for part in (row.get("hint", ""), row["question"]) if part.strip()
    )
    return Item(
        id=f"{question}/{rotation}",
        cluster=hashlib.sha256(image.encode()).hexdigest()[:16],
        text=prompt(text, options),
        truth=Choice(
            question=str(question),
            category=category,
            options=options,
            answer=answer,
            rotation=rotation,
        ),
        picture=partial(_picture, place, image),
    )


@lru_cache(maxsize=2)  # a question's rotations follow each other
def _picture(place: str, image: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as opened:
            return opened.convert("RGB")
    except (
        binascii.Error,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{place}: the image cannot be read ({error}); {files.AGAIN}.") from None
