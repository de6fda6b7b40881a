"""MMBench dev EN (Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", arXiv
2307.06281), graded by ``choice.py``.

The official TSV has the columns index, question, hint, A to D, answer, category, l2-category and
image (base64, or the index of the row that holds the image). A row whose index is a million or more
is a rotation of the row with the same last six digits. A file without such rows is rotated here."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image

from benchmarks import files, grading
from benchmarks.choice import LETTERS, Choice, choice_benchmark, prompt, rotated
from benchmarks.grading import Item, ItemBenchmark
from benchmarks.spec import Spec

FILE = "MMBench_DEV_EN.tsv"
DATA = files.LocalData(
    name="mmbench",
    files=(f"{FILE}|mmbench_dev_en_20231003.tsv",),
    get="github.com/open-compass/MMBench, the link of MMBench DEV EN",
)
ROTATION_OFFSET = 1_000_000
LONGEST_REFERENCE = 64
"""An image cell of at most so many characters is the index of another row."""
_COLUMNS = ("index", "question", "A", "B", "answer", "image")

Row = tuple[str, Mapping[str, str]]
"""(place in the file, cells by column)."""


def load(split: str, limit: int | None, data: Path | None) -> ItemBenchmark[Choice]:
    """The official dev part, whose answers are public; here it is the test split.

    Raises:
        ValueError: the file is missing or broken (with the line), or the split is not test.
    """
    folder = DATA.folder("mmbench_dev_en", data)
    grading.only_test_split("mmbench_dev_en", split)
    rows = _read_rows(DATA.file(folder, FILE))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in rows:
        groups[index % ROTATION_OFFSET].append(index)
    make_all = all(index < ROTATION_OFFSET for index in rows)
    items: list[Item[Choice]] = []
    for indices in groups.values():
        for index in sorted(indices):
            items += _rotations(index, rows, make_all)
    kept_items, source = grading.items_and_source(items, limit, "mmbench-dev-en")
    categories = tuple(sorted({item.truth.category for item in items}))
    return choice_benchmark(
        name="mmbench_dev_en", source=source, items=kept_items, categories=categories
    )


def _read_rows(path: Path) -> dict[int, Row]:
    csv.field_size_limit(2**31 - 1)  # images are cells
    reader = csv.reader(io.StringIO(files.read_text(path), newline=""), delimiter="\t", strict=True)
    rows: dict[int, Row] = {}
    header: list[str] = []
    try:
        for values in reader:
            location = f"{path}, line {reader.line_num}"
            if header:
                index, row = _parse_row(location, header, values)
                if index in rows:
                    raise files.broken(
                        f"{location}: the index {index} is a duplicate of {rows[index][0]}"
                    )
                rows[index] = (location, row)
                continue
            header = values
            if missing := [name for name in _COLUMNS if name not in header]:
                raise files.broken(f"{location}: there is no column {missing[0]!r}")
    except csv.Error as error:
        raise files.broken(f"{path}, line {reader.line_num}: cut off or no TSV ({error})") from None
    if not rows:
        raise files.broken(f"{path} is empty")
    return rows


def _parse_row(
    location: str, header: Sequence[str], values: Sequence[str]
) -> tuple[int, dict[str, str]]:
    """The row's index and cells."""
    if len(values) != len(header):
        raise files.broken(
            f"{location}: {len(values)} fields, not {len(header)}; the file is cut off or no TSV"
        )
    row = dict(zip(header, values, strict=True))
    index = re.fullmatch(r"(\d+)(?:\.0)?", row["index"])
    if index is None:
        raise files.broken(f"{location}: the index is {row['index']!r}; it must be a number")
    for name in set(header) - {"image"}:
        files.check_text(location, row[name], name)
    return int(index[1]), row


def _rotations(index: int, rows: Mapping[int, Row], make_all: bool) -> Iterator[Item[Choice]]:
    """The rotation in this row; ``make_all``: all rotations of the question, made from it."""
    options, answer = _read_options(*rows[index])
    for shift in range(len(options) if make_all else 1):
        rotation = index // ROTATION_OFFSET + shift
        yield _item(
            index % ROTATION_OFFSET, rotation, *rotated(options, answer, shift), rows[index], rows
        )


def _read_options(location: str, row: Mapping[str, str]) -> tuple[list[str], int]:
    """The options, and the place of the right one."""
    options = [row[letter].strip() for letter in LETTERS if row.get(letter, "").strip()]
    letters, answer = LETTERS[: len(options)], row["answer"].strip()
    if (
        len(answer) != 1
        or answer not in letters
        or not all(row[letter].strip() for letter in letters)
    ):
        raise ValueError(
            f"{location}: the answer is {answer!r} of {len(options)} options; it must be one of"
            " their letters."
        )
    return options, LETTERS.index(answer)


def _item(
    question: int,
    rotation: int,
    options: tuple[tuple[str, str], ...],
    answer: str,
    row: Row,
    rows: Mapping[int, Row],
) -> Item[Choice]:
    location, cells = row
    if not cells["question"].strip():
        raise files.broken(f"{location}: there is no question")
    image = _image_cell(location, cells["image"], rows)
    category = cells.get("l2-category") or cells.get("category") or "all"
    texts = (text.strip() for text in (cells.get("hint", ""), cells["question"]))
    return Item(
        id=f"{question}/{rotation}",
        cluster=hashlib.sha256(image.encode()).hexdigest()[:16],
        text=prompt("\n".join(text for text in texts if text), options),
        truth=Choice(
            question=str(question),
            category=re.sub(r"\W+", "_", category).strip("_"),
            options=options,
            answer=answer,
            rotation=rotation,
        ),
        load_image=partial(_load_image, location, image),
    )


def _image_cell(location: str, image: str, rows: Mapping[int, Row]) -> str:
    """The image in base64: the cell itself, or that of the row that it names."""
    if len(image) > LONGEST_REFERENCE:
        return image
    referenced = rows[int(image)][1]["image"] if image.isdecimal() and int(image) in rows else ""
    if len(referenced) <= LONGEST_REFERENCE:
        raise ValueError(
            f"{location}: the image is {image!r}; it must be an image in base64 or the index of a"
            " row that has one."
        )
    return referenced


@lru_cache(maxsize=2)  # the rotations of a question follow each other
def _load_image(location: str, image: str) -> Image.Image:
    try:
        content = base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise files.broken(f"{location}: the image cannot be read ({error})") from None
    return files.decode_image(f"{location}: the image", io.BytesIO(content))


SPEC = Spec(
    name="mmbench_dev_en",
    factory=load,
    group="general",
    size=0,
    about="MMBench dev EN: multiple choice with circular evaluation.",
    metrics=("circular", "vanilla"),
    licence="Apache-2.0 (repository); images under their own licences",
    twins=("lmms_eval:mmbench_en_dev", "vlmevalkit:MMBench_DEV_EN"),
    local=DATA,
)
