"""Reading official data files from a folder of the user's: what is missing or broken is named by
file and line.

Nothing is downloaded. Every reader raises ValueError with one sentence: what is wrong, where, and
how to mend it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

AGAIN = "get the official file again"


@dataclass(frozen=True, kw_only=True)
class LocalData:
    """A folder of the user's. ``name`` serves every benchmark that reads it, as in ``--local-data
    coco=FOLDER``; ``files`` are paths (or patterns such as ``labels.json*``) that must be in it;
    ``get`` says where from."""

    name: str
    files: tuple[str, ...]
    get: str

    def missing(self, data: Path | None) -> tuple[str, ...]:
        """Which of the files are not there; without a folder, all of them."""
        return (
            self.files
            if data is None
            else tuple(file for file in self.files if not any(data.glob(file)))
        )

    def folder(self, benchmark: str, data: Path | None) -> Path:
        """The folder, with all files in it.

        Raises:
            ValueError: there is no folder, or a file is missing.
        """
        lacking = self.missing(data)
        if data is None or lacking:
            where = "a folder" if data is None else f"{data}"
            names = " and ".join(file.rstrip("*") for file in lacking)
            raise ValueError(
                f"{benchmark} needs {names} in {where} ({self.get}); give the folder with"
                f" --local-data {self.name}=FOLDER."
            )
        return data

    def file(self, folder: Path, pattern: str) -> Path:
        """The first file that fits the pattern."""
        return sorted(folder.glob(pattern))[0]


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; {AGAIN}.") from None


def read_json(path: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not JSON, or cut off ({error.msg}); {AGAIN}."
        ) from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place: ``("FILE, line 3", text)``."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.rstrip("\r")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON object a line, or one JSON list of objects; each with its place."""
    if read_text(path).lstrip().startswith("["):
        rows = [
            (f"{path}, entry {number}", row) for number, row in enumerate(read_json(path), start=1)
        ]
    else:
        rows = [(place, _line(place, line)) for place, line in read_lines(path)]
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: not a JSON object; {AGAIN}.")
        yield place, row
    if not rows:
        raise ValueError(f"{path} is empty; {AGAIN}.")


def _line(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON, or cut off ({error.msg}); {AGAIN}.") from None


def text(place: str, row: dict[str, Any], name: str) -> str:
    """A field of a row: text that is not empty and holds no control character."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: {name} is {value!r}; it must be text that is not empty.")
    return clean(place, value, name)


def clean(place: str, value: str, name: str) -> str:
    """The text, if it has no control character but line ends and tabs."""
    for character in value:
        if ord(character) < 32 and character not in "\n\r\t":
            raise ValueError(
                f"{place}: {name} holds the control character {character!r}; {AGAIN}, or take it"
                " out."
            )
    return value


def one_of(place: str, value: Any, allowed: Iterable[str], name: str) -> str:
    """The value in lower case, if it is allowed."""
    said = str(value).strip().lower()
    if said not in (known := list(allowed)):
        raise ValueError(f"{place}: {name} is {value!r}; it must be {' or '.join(known)}.")
    return said


def pictures_are_there(benchmark: str, wanted: Iterable[tuple[str, Path]]) -> None:
    """``wanted``: where an image is asked for, and its path.

    Raises:
        ValueError: images are missing; the first one and how many.
    """
    asked = {path: place for place, path in reversed(list(wanted))}
    if lost := [path for path in reversed(asked) if not path.is_file()]:
        raise ValueError(
            f"{benchmark}: {len(lost)} of {len(asked)} images are missing, such as {lost[0]}"
            f" ({asked[lost[0]]}); unpack the official images there."
        )


@lru_cache(maxsize=2)  # an image's questions follow each other
def open_picture(path: Path) -> Image.Image:
    """The image, decoded, as RGB."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"The image {path} cannot be read ({error}); {AGAIN}.") from None
