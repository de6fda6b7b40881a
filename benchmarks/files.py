"""Reads official data files from a user's folder. Nothing is downloaded.

Every reader raises ValueError with one sentence: what is wrong, in which file and line, and how to
mend it."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from PIL import Image

GET_AGAIN = "get the official file again"
LARGEST = 89_478_485
"""Most pixels of an image: a quarter of a GiB in RGB, PIL's limit."""
TOO_LARGE = f"is larger than {LARGEST:,} pixels"
LONGEST_SHAPE = 200
"""The largest ratio of an image's sides: Qwen2.5-VL's processor takes no more, and LLaVA's needs
gigabytes for it."""
_NOTE = "selfsight_read_as_stored"


def broken(problem: str) -> ValueError:
    """The error for a damaged official file: ``problem`` is wrong, and how to mend it."""
    return ValueError(f"{problem}; {GET_AGAIN}.")


@dataclass(frozen=True, kw_only=True)
class LocalData:
    """The files of a benchmark in a folder of the user's."""

    name: str
    """The name in ``--local-data NAME=FOLDER``; several benchmarks may share it."""
    files: tuple[str, ...]
    """Paths that must exist in the folder, or patterns such as ``labels.json*``. Alternatives,
    such as the place of a file in its own repository, follow after ``|``."""
    get: str
    """Where the files come from."""

    def missing(self, data: Path | None) -> tuple[str, ...]:
        """The files that are missing; without a folder, all."""
        missing = [file for file in self.files if data is None or not _first_matches(data, file)]
        return tuple(file.partition("|")[0] for file in missing)

    def folder(self, benchmark: str, data: Path | None) -> Path:
        """The folder, if all files are in it.

        Raises:
            ValueError: there is no folder, or a file is missing.
        """
        missing = self.missing(data)
        if data is None or missing:
            names = " and ".join(file.rstrip("*") for file in missing)
            raise ValueError(
                f"{benchmark} needs {names} in {data or 'a folder'} ({self.get}); give the folder"
                f" with --local-data {self.name}=FOLDER."
            )
        return data

    def file(self, folder: Path, pattern: str) -> Path:
        """The file in ``folder`` of the entry of ``files`` that begins with ``pattern``."""
        return _first_matches(
            folder, next(file for file in self.files if file.startswith(pattern))
        )[0]


def _first_matches(folder: Path, patterns: str) -> list[Path]:
    """The files that match the first of the alternative patterns that matches any file."""
    matches = (sorted(folder.glob(pattern)) for pattern in patterns.split("|"))
    return next(filter(None, matches), [])


def plain_bytes(path: Path) -> bytes:
    """The content of a plain file. The readers of users' files begin here.

    Raises:
        OSError: it cannot be read, or is no plain file (opening a pipe would wait for ever).
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return path.read_bytes()


def read_text(path: Path, cure: str = GET_AGAIN) -> str:
    """A text file in UTF-8, with or without a byte order mark; ``cure`` ends the sentence of an
    error."""
    try:
        content = plain_bytes(path)
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        # error.start does not count the byte order mark, which is no line end.
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; {cure}.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {cure}.") from None


def read_json(path: Path) -> Any:
    """A JSON file."""
    content = read_text(path)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise broken(f"{path}, line {error.lineno}: not JSON, or cut off ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number too long, lists nested too deep
        raise broken(f"{path}: not readable JSON ({error})") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place: ``("FILE, line 3", text)``."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.rstrip("\r")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON objects, one a line or in one JSON list, each with its place."""
    if read_text(path).lstrip().startswith("["):
        entries = enumerate(read_json(path), start=1)
        rows = [(f"{path}, entry {number}", row) for number, row in entries]
    else:
        rows = [(location, _parse_json(location, line)) for location, line in read_lines(path)]
    for location, row in rows:
        if not isinstance(row, dict):
            raise broken(f"{location}: not a JSON object")
        yield location, row
    if not rows:
        raise broken(f"{path} is empty")


def _parse_json(location: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise broken(f"{location}: not JSON, or cut off ({reason})") from None


def text_field(location: str, row: dict[str, Any], name: str) -> str:
    """A field of a row: text that is not empty and has no control character."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{location}: {name} is {value!r:.60}; it must be text that is not empty.")
    return check_text(location, value, name)


def check_text(
    location: str, value: str, name: str, cure: str = f"{GET_AGAIN}, or take it out"
) -> str:
    """The text, if its only control characters are line ends and tabs, and UTF-8 can hold it."""
    for character in value:
        if "\ud800" <= character <= "\udfff":
            raise ValueError(
                f"{location}: {name} holds {character!r}, half of a character; {cure}."
            )
        if ord(character) < 32 and character not in "\n\r\t":
            raise ValueError(
                f"{location}: {name} holds the control character {character!r}; {cure}."
            )
    return value


def one_of(location: str, value: Any, allowed: Iterable[str], name: str) -> str:
    """The value in lower case, if it is allowed."""
    lowered = str(value).strip().lower()
    if lowered not in (allowed_values := list(allowed)):
        raise ValueError(
            f"{location}: {name} is {value!r:.60}; it must be {' or '.join(allowed_values)}."
        )
    return lowered


def check_images(benchmark: str, needed: Iterable[tuple[str, Path]]) -> None:
    """``needed``: (place that names the image, the image's path).

    Raises:
        ValueError: images are missing; the first of them and how many.
    """
    locations: dict[Path, str] = {}
    for location, path in needed:
        locations.setdefault(path, location)
    if missing := [path for path in locations if not is_file(path)]:
        raise ValueError(
            f"{benchmark}: {len(missing)} of {len(locations)} images are missing, such as"
            f" {missing[0]!s:.300} ({locations[missing[0]]}); unpack the official images there."
        )


def is_file(path: Path) -> bool:
    """Whether there is a file of this name, which may be one that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=2)  # consecutive questions share an image
def open_image(path: Path) -> Image.Image:
    """The image, decoded, as RGB."""
    return decode_image(f"The image {path}", path)


def decode_image(subject: str, file: Path | IO[bytes]) -> Image.Image:
    """The image in ``file`` as RGB; ``subject`` begins the sentence of an error.

    It is read as the authors' code reads it: neither turned by EXIF nor scaled nor composited.
    :func:`read_as_stored` tells where that matters.

    Raises:
        ValueError: it cannot be decoded, or is too large or too narrow for a model.
    """
    try:
        with Image.open(file) as image:
            pixels = image.width * image.height
            # The bounds come first: a small file can hold an image that fills the memory.
            reason = refused_shape(image.size) if pixels <= LARGEST else TOO_LARGE
            if not reason:
                not_applied = _not_applied(image)
                rgb = image.convert("RGB")
                rgb.info[_NOTE] = not_applied
                return rgb
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = TOO_LARGE
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise broken(f"{subject} cannot be read ({error})") from None
    raise ValueError(f"{subject} {reason}; {GET_AGAIN}, or make it smaller.")


def read_as_stored(image: Image.Image) -> tuple[str, ...]:
    """What :func:`decode_image` left out that image viewers apply: "orientation" (EXIF), "depth"
    (grey values above 8 bits), "transparency"."""
    not_applied: tuple[str, ...] = image.info.get(_NOTE, ())
    return not_applied


def refused_shape(size: tuple[int, int]) -> str:
    """Why models do not take an image of this shape; empty: they do."""
    if max(size) <= LONGEST_SHAPE * min(size):
        return ""
    return (
        f"has {size[0]} x {size[1]} pixels: one side is more than {LONGEST_SHAPE} times the other,"
        " which models do not take"
    )


def _not_applied(image: Image.Image) -> tuple[str, ...]:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block raises anything, and the pixels are still good
        orientation = 1
    transparent = image.has_transparency_data and not image.mode.startswith(("I", "F"))
    if transparent:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
        transparent = isinstance(lowest, int | float) and lowest < 255
    # PIL turns a TIFF by itself.
    turned = orientation in range(2, 9) and image.format != "TIFF"
    differences = {
        "orientation": turned,
        "depth": image.mode.startswith(("I", "F")),
        "transparency": transparent,
    }
    return tuple(name for name, applies in differences.items() if applies)
