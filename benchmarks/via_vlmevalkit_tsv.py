"""Reads a data set file of VLMEvalKit (``<NAME>.tsv``) before the kit does, and more strictly.

The kit reads it with pandas, which fills a cut line with blanks. It leaves out rows without an
image, takes a stored image for another with the same ``image_path``, and passes the cells
``index``, ``answer`` and lists of images to Python's ``eval``. Here each of these is an error that
names file and line."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

SHOWN = 5
REFERENCE = 64
"""An image cell of at most so many characters is the index of the row that holds the image."""
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Of too many pixels; the warning is an error where pools are read."""
_INDEX = re.compile(r"[\w.-]+")
_RUNS = (
    ast.Call,
    ast.Attribute,
    ast.Subscript,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.NamedExpr,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question: its place in the file, its cells by column, and ``cluster``, the id of its
    images."""

    place: str
    index: str
    cells: Mapping[str, str]
    cluster: str


def read(path: Path, needed: Sequence[str]) -> list[Row]:
    """All rows in the file's order.

    Raises:
        ValueError: the file or a column is missing, or rows cannot be used: the first of them with
            line and reason, and how many.
    """
    if not path.is_file():
        raise ValueError(
            f"There is no {path}; the folder given as data must hold {path.name} (VLMEvalKit's"
            " LMUData has it)."
        )
    problems: list[str] = []
    kept: dict[str, tuple[str, dict[str, str]]] = {}
    for place, index, cells in _lines(path, needed, problems):
        if not _INDEX.fullmatch(index):
            problems.append(
                f"{place}: the index is {index[:40]!r}; letters, digits, _ . and - are allowed"
            )
        elif index in kept:
            problems.append(
                f"{place}: the index {index} occurs a second time (first in"
                f" {kept[index][0].rpartition(', ')[2]})"
            )
        elif runs(cells.get("answer", "")):
            problems.append(
                f"{place}: the answer {cells['answer'][:40]!r} is Python code, which the kit"
                " would run"
            )
        else:
            kept[index] = (place, cells)
    rows: list[Row] = []
    named: dict[str, str] = {}
    checked: dict[str, str] = {}
    for index, (place, cells) in kept.items():
        cell, why = _image_cell(cells, kept)
        if not why:
            if cell not in checked:
                checked[cell] = _image_fault(cell) if "image" in cells else ""
            why = checked[cell] or _path_fault(cells, cell, named)
        if why:
            problems.append(f"{place}: {why}")
        else:
            cluster = hashlib.sha256(cell.encode()).hexdigest()[:16]
            rows.append(Row(place=place, index=index, cells=cells, cluster=cluster))
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"{len(problems)} rows of {path} cannot be used: {'; '.join(problems[:SHOWN])}{more}."
            " Get the official file again, or take them out; nothing was asked or graded."
        )
    if not rows:
        raise ValueError(f"{path} holds no question; get the official file again.")
    return rows


def images_of(cell: str) -> list[str]:
    """The base64 texts of an image cell: itself, or the entries of a Python list."""
    return [str(entry) for entry in ast.literal_eval(cell)] if cell.startswith("[") else [cell]


def runs(cell: str) -> bool:
    """Whether the cell is a Python expression with an effect; the kit evaluates some cells."""
    try:
        return any(isinstance(node, _RUNS) for node in ast.walk(ast.parse(cell, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _lines(
    path: Path, needed: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", strict=True)
        header: list[str] = []
        line = 1
        try:
            header = [name.lstrip("\ufeff") for name in next(reader, [])]
            if missing := [name for name in needed if name not in header]:
                raise ValueError(
                    f"{path} has no column {' or '.join(missing)}; it has"
                    f" {', '.join(header)[:200] or 'nothing'}."
                )
            if "image" not in header and "image_path" not in header:
                raise ValueError(
                    f"{path} has neither a column image nor image_path; get the official file"
                    " again."
                )
            if repeated := sorted({name for name in header if header.count(name) > 1}):
                raise ValueError(f"{path} has the column {repeated[0]} twice; take one out.")
            line = reader.line_num + 1
            for values in reader:
                place = f"{path.name}, line {line}"
                line = reader.line_num + 1
                if len(values) != len(header):
                    problems.append(
                        f"{place}: {len(values)} cells where the header has {len(header)} (cut"
                        " off?)"
                    )
                    continue
                cells = dict(zip(header, values, strict=True))
                if empty := [name for name in needed if not cells[name].strip()]:
                    problems.append(f"{place}: {' and '.join(empty)} is empty")
                    continue
                yield place, cells["index"], cells
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}, near line {line}: not UTF-8 text; get the official file again."
            ) from None
        except csv.Error as error:
            problems.append(f"{path.name}, line {line}: {error} (cut off?)")


def _image_cell(
    cells: Mapping[str, str], rows: Mapping[str, tuple[str, dict[str, str]]]
) -> tuple[str, str]:
    """The cell that holds the row's image (its own or that of the row it points to), or why there
    is none."""
    if "image" not in cells:
        path = cells["image_path"].strip()
        return path, "" if path else "image_path is empty"
    cell = cells["image"].strip()
    if not cell:
        return "", "the image is missing"
    if len(cell) > REFERENCE:
        return cell, ""
    if cell not in rows or len(rows[cell][1]["image"]) <= REFERENCE:
        return "", f"the image is said to be that of index {cell!r}, which holds none"
    return rows[cell][1]["image"].strip(), ""


def _image_fault(cell: str) -> str:
    """The fault of a row's images; "": none."""
    try:
        for text in images_of(cell):
            with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
                image.load()
    except (ValueError, SyntaxError, OSError, *BOMBS) as error:
        return f"the image cannot be decoded ({type(error).__name__}; cut off?)"
    return ""


def _path_fault(cells: Mapping[str, str], cell: str, named: dict[str, str]) -> str:
    """The fault of ``image_path``, under which the kit stores the image: it must stay below its
    folder, and name one image only."""
    path = cells.get("image_path", "").strip()
    if not path:
        return ""
    try:
        parts = [PurePosixPath(part) for part in images_of(path)]
    except (ValueError, SyntaxError):
        return f"image_path is {path[:60]!r}, neither a path nor a list of paths"
    if "image" in cells and any(part.is_absolute() or ".." in part.parts for part in parts):
        return f"image_path is {path[:60]!r}, outside the folder of images"
    if named.setdefault(path, cell) != cell:
        return f"image_path {path[:60]!r} names another image in an earlier row"
    return ""
