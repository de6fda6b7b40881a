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

MAX_SHOWN = 5
LONGEST_REFERENCE = 64
"""An image cell of at most so many characters is the index of the row that holds the image."""
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""PIL's errors for too many pixels; the warning is an error where pools are read."""
_INDEX = re.compile(r"[\w.-]+")
_CODE_NODES = (
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

    location: str
    index: str
    cells: Mapping[str, str]
    cluster: str


def read_rows(path: Path, needed: Sequence[str]) -> list[Row]:
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
    rows_by_index: dict[str, tuple[str, dict[str, str]]] = {}
    for location, index, cells in _read_lines(path, needed, problems):
        if not _INDEX.fullmatch(index):
            problems.append(
                f"{location}: the index is {index[:40]!r}; letters, digits, _ . and - are allowed"
            )
        elif index in rows_by_index:
            problems.append(
                f"{location}: the index {index} occurs a second time (first in"
                f" {rows_by_index[index][0].rpartition(', ')[2]})"
            )
        elif is_code(cells.get("answer", "")):
            problems.append(
                f"{location}: the answer {cells['answer'][:40]!r} is Python code, which the kit"
                " would run"
            )
        else:
            rows_by_index[index] = (location, cells)
    rows: list[Row] = []
    cell_by_path: dict[str, str] = {}
    fault_by_cell: dict[str, str] = {}
    for index, (location, cells) in rows_by_index.items():
        cell, problem = _image_cell(cells, rows_by_index)
        if not problem:
            if cell not in fault_by_cell:
                fault_by_cell[cell] = _image_fault(cell) if "image" in cells else ""
            problem = fault_by_cell[cell] or _path_fault(cells, cell, cell_by_path)
        if problem:
            problems.append(f"{location}: {problem}")
        else:
            cluster = hashlib.sha256(cell.encode()).hexdigest()[:16]
            rows.append(Row(location=location, index=index, cells=cells, cluster=cluster))
    if problems:
        more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ValueError(
            f"{len(problems)} rows of {path} cannot be used: {'; '.join(problems[:MAX_SHOWN])}"
            f"{more}. Get the official file again, or take them out; nothing was asked or graded."
        )
    if not rows:
        raise ValueError(f"{path} holds no question; get the official file again.")
    return rows


def images_of(cell: str) -> list[str]:
    """The base64 texts of an image cell: itself, or the entries of a Python list."""
    return [str(entry) for entry in ast.literal_eval(cell)] if cell.startswith("[") else [cell]


def is_code(cell: str) -> bool:
    """Whether the cell is a Python expression with an effect; the kit evaluates some cells."""
    try:
        return any(isinstance(node, _CODE_NODES) for node in ast.walk(ast.parse(cell, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _read_lines(
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
                location = f"{path.name}, line {line}"
                line = reader.line_num + 1
                if len(values) != len(header):
                    problems.append(
                        f"{location}: {len(values)} cells where the header has {len(header)} (cut"
                        " off?)"
                    )
                    continue
                cells = dict(zip(header, values, strict=True))
                if empty := [name for name in needed if not cells[name].strip()]:
                    problems.append(f"{location}: {' and '.join(empty)} is empty")
                    continue
                yield location, cells["index"], cells
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
    if len(cell) > LONGEST_REFERENCE:
        return cell, ""
    if cell not in rows or len(rows[cell][1]["image"]) <= LONGEST_REFERENCE:
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


def _path_fault(cells: Mapping[str, str], cell: str, cell_by_path: dict[str, str]) -> str:
    """The fault of ``image_path``, under which the kit stores the image: it must stay below its
    folder, and name one image only."""
    path = cells.get("image_path", "").strip()
    if not path:
        return ""
    try:
        paths = [PurePosixPath(image_path) for image_path in images_of(path)]
    except (ValueError, SyntaxError):
        return f"image_path is {path[:60]!r}, neither a path nor a list of paths"
    if "image" in cells and any(
        image_path.is_absolute() or ".." in image_path.parts for image_path in paths
    ):
        return f"image_path is {path[:60]!r}, outside the folder of images"
    if cell_by_path.setdefault(path, cell) != cell:
        return f"image_path {path[:60]!r} names another image in an earlier row"
    return ""
