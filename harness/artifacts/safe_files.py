"""Files and folders made, swept and removed so that nobody's link redirects them.

A folder of results can come from a stranger. So a temporary file has a random name and is made
exclusively, a link is never written through, and a link that leads out of the folder is an error.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.errors import UserError

_TEMPORARY = re.compile(r"\..+\.tmp")  # an earlier version had no random part


def temporary(path: Path) -> Path:
    """A name beside ``path`` that nobody can guess; a leftover of it is recognised by its form."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has a name of :func:`temporary`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file or nothing, flushed to the disk. A link of this name is replaced, not
    followed. The file's mode is that of the user's umask.

    Raises:
        OSError: it cannot be written; the temporary file is removed.
    """
    partial = temporary(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """A new, empty folder beside ``final``, which takes its place when the block ends, flushed to
    the disk.

    It is removed when the block raises. Leftovers of a killed process are removed first: a folder
    has one writer.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for path in final.parent.glob(f".{final.name}.*"):
        if is_temporary(path):
            remove(path)
    partial = temporary(final)
    partial.mkdir()
    try:
        yield partial
        for path in [partial, *_entries(partial)]:
            flush(path)
        remove(final)
        partial.rename(final)
        flush(final.parent)
    except BaseException:
        remove(partial)
        raise


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_to(path: Path) -> BinaryIO:
    """The file, open for reading and appending; made if it is missing. A link is not followed.

    Raises:
        UserError: it is a symbolic link.
        OSError: it cannot be opened.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a symbolic link, which is not written through; remove it.")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "a+b")


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_links(folder: Path) -> None:
    """Check that nothing in ``folder`` is a link that leads out of it. The folder itself may be
    behind a link.

    Raises:
        UserError: there is such a link.
    """
    root = folder.resolve()
    for path in _entries(folder):
        if path.is_symlink() and not _target(path).is_relative_to(root):
            raise UserError(
                f"{path} is a symbolic link that leads out of {folder}; remove it, or put the file"
                " or folder itself in its place."
            )


def sweep(folder: Path) -> None:
    """Remove what killed writers left below ``folder``. Only for the one process that may write
    there."""
    for path in [path for path in _entries(folder) if is_temporary(path)]:
        remove(path)


def _target(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle lead nowhere
        return path.parent.resolve()


def _entries(folder: Path) -> Iterator[Path]:
    """Everything below ``folder``; links are not followed."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)
