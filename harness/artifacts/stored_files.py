"""The files of a finished stage. ``DONE`` lists their sizes and SHA-256, and reading compares.

The first line of ``DONE`` is the fingerprint of the stage's identity and the SHA-256 of the further
lines; each of these is a file's SHA-256, size in bytes and name. An earlier version wrote the
fingerprint alone: such a stage is read without a comparison. A training checkpoint has a ``DONE``,
too.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from harness.artifacts.safe_files import is_temporary
from harness.errors import UserError

NAME = "DONE"
PATTERNS = (
    "identity.json",
    "record.json",
    "report.json",
    "state.json",
    "*.jsonl",
    "*.parquet",
    "*.safetensors",
    "trainer_state.json",
    "shards/*.jsonl",
    "images/*",
    "model/**/*",
    "adapter/**/*",
)
"""The files that later stages, tables, figures and resumed trainings read, relative to the stage's
folder."""
UNLISTED = ("README.md", "selfsight.yaml", "reference.jsonl")
"""The model card and the results beside it are written later; the cache of the reference's
log-probabilities is used only until the training is finished."""

_FIRST = re.compile(r"([0-9a-f]{64})(?: ([0-9a-f]{64}))?")
_DEPTH = 3
"""Folders between a stage and the deepest of its files."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """The content of ``DONE``."""

    fingerprint: str
    """Of the stage's identity."""
    files: Mapping[str, tuple[str, int]] | None
    """SHA-256 and size by name; None: written before hashes were kept."""


def cure(folder: Path) -> str:
    """How to mend broken files in a stage's folder; it ends the sentence of an error."""
    outcome = "that stage alone is done again"
    if folder.parent.name == "checkpoints":
        outcome = "that training begins again"
    return (
        f"put the original back, or move {folder} out of the results folder and run again:"
        f" {outcome}."
    )


def done_content(folder: Path, fingerprint: str) -> bytes:
    """The content of ``DONE`` for the files that are in the folder now."""
    lines = "".join(
        f"{file_sha(folder / name)} {(folder / name).stat().st_size} {name}\n"
        for name in _list_names(folder)
    ).encode()
    return f"{fingerprint} {hashlib.sha256(lines).hexdigest()}\n".encode() + lines


def _list_names(folder: Path) -> list[str]:
    paths = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    return sorted(
        path.relative_to(folder).as_posix()
        for path in paths
        if path.is_file() and path.name not in UNLISTED and not is_temporary(path)
    )


def read_done(folder: Path) -> Done | None:
    """The content of the folder's ``DONE``; None: there is none.

    Raises:
        UserError: it is cut or changed.
    """
    path = folder / NAME
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _parse_done(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _parse_done(path: Path, _size: int, _changed: int, _inode: int) -> Done:
    first_line, _, listing = plain_content(path).partition(b"\n")
    match = _FIRST.fullmatch(first_line.decode("ascii", "replace"))
    if not match or (match[2] and hashlib.sha256(listing).hexdigest() != match[2]):
        raise UserError(f"{path} is cut or changed; {cure(path.parent)}")
    if not match[2]:
        return Done(fingerprint=match[1], files=None)
    files = {}
    for line in listing.decode("utf-8", "replace").split("\n")[:-1]:
        try:
            sha, size, name = line.split(" ", 2)
            files[name] = (sha, int(size))
        except ValueError as error:
            raise UserError(f"{path} is cut or changed; {cure(path.parent)}") from error
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise UserError(f"{path} names a file outside its folder; {cure(path.parent)}")
    return Done(fingerprint=match[1], files=files)


def plain_content(path: Path) -> bytes:
    """The bytes of a plain file.

    Raises:
        UserError: it is missing, cannot be read, or is no plain file (opening a pipe would wait
            for ever).
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no plain file; {_owner_cure(path)}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); {_owner_cure(path)}"
        ) from error


def read_bytes(path: Path) -> bytes:
    """The file's content, compared with the ``DONE`` of its stage if there is one.

    Raises:
        UserError: the file is missing, cannot be read, or was cut or changed.
    """
    stage, entry = _listed_entry(path)
    if entry is not None and not path.exists():
        raise UserError(f"{path} is missing; {cure(stage)}")
    content = plain_content(path)
    if entry is not None and (hashlib.sha256(content).hexdigest(), len(content)) != entry:
        raise UserError(f"{_changed(path, len(content), entry[1])}; {cure(stage)}")
    return content


def is_stored(path: Path) -> bool:
    """Whether the file is there.

    Raises:
        UserError: it is not, though the ``DONE`` of its stage lists it.
    """
    if path.exists():
        return True
    stage, entry = _listed_entry(path)
    if entry is not None:
        raise UserError(f"{path} is missing; {cure(stage)}")
    return False


def unreadable(path: Path, kind: str, error: object) -> UserError:
    """The error for a file whose content is not what it should be."""
    return UserError(f"{path} is not readable {kind} ({error}); {_owner_cure(path)}")


def _owner_cure(path: Path) -> str:
    stage = _stage_of(path)
    if stage is None and path.name == "identity.json":
        stage = path.parent  # what stands beside it belongs to it
    return cure(stage) if stage else f"move {path} aside and run again."


def _stage_of(path: Path) -> Path | None:
    """The innermost folder around the file that has a ``DONE``."""
    return next((parent for parent in path.parents[:_DEPTH] if (parent / NAME).exists()), None)


def _listed_entry(path: Path) -> tuple[Path, tuple[str, int] | None]:
    """The file's stage, and the SHA-256 and size in its ``DONE``; None: it is not listed."""
    stage = None if path.name == NAME else _stage_of(path)
    done = None if stage is None else read_done(stage)
    if stage is None or done is None or done.files is None:
        return path.parent, None
    return stage, done.files.get(path.relative_to(stage).as_posix())


def file_sha(path: Path) -> str:
    """SHA-256 (hex) of a file's content. A process reads an unchanged file once."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _hashed:
        with path.open("rb") as stream:
            _hashed[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _hashed[key]


_hashed: dict[tuple[int, int, int, int], str] = {}


def problems(
    folder: Path, *, read_large: bool = True, below: str = ""
) -> Iterator[tuple[Path, str]]:
    """Each broken file of a finished stage, with a sentence's beginning.

    Args:
        read_large: False: images and weights may be missing, and of those that are there only
            the size is compared; their content is compared when they are used.
        below: only files whose name begins so, such as ``model/``.

    Raises:
        UserError: ``DONE`` is cut or changed.
    """
    done = read_done(folder)
    for name, (sha, size) in ((done and done.files) or {}).items():
        path = folder / name
        large = name.startswith("images/") or name.endswith(".safetensors")
        if not name.startswith(below):
            continue
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                yield path, f"{path} is no plain file"
            elif status.st_size != size:
                yield path, _changed(path, status.st_size, size)
            elif (read_large or not large) and file_sha(path) != sha:
                yield path, _changed(path, size, size)
        except (FileNotFoundError, NotADirectoryError):
            if read_large or not large:
                yield path, f"{path} is missing"
        except OSError as error:
            yield path, f"{path} cannot be read ({error.strerror or error})"
    if done is not None and done.files is not None and below:
        for name in _list_names(folder):
            if name.startswith(below) and name not in done.files:
                yield folder / name, f"{folder / name} was added"


def check_files(folder: Path, *, read_large: bool = True, below: str = "") -> None:
    """
    Raises:
        UserError: a file of a finished stage is missing or was changed; see :func:`problems`.
    """
    if sentences := [
        sentence for _, sentence in problems(folder, read_large=read_large, below=below)
    ]:
        more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
        raise UserError(f"{sentences[0]}{more}; {cure(folder)}")


def _changed(path: Path, size: int, expected_size: int) -> str:
    sizes = "" if size == expected_size else f": it has {size:,} bytes and had {expected_size:,}"
    cut = "cut or " * (size < expected_size)
    return f"{path} was {cut}changed after its stage was finished{sizes}"
