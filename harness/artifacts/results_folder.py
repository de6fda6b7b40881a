"""The results folder: its layout, and the only functions that write it.

ARCHITECTURE.md, "Files of a run", lists the files. Every file is written to a new temporary file,
flushed and renamed (harness/artifacts/safe_files.py), and ``DONE`` is written last. After a kill at
any moment a stage is either complete, or it continues from its finished shards.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts import stored_files
from harness.artifacts.fingerprint import differences, fingerprint
from harness.artifacts.safe_files import (
    append_to,
    check_links,
    flush,
    is_temporary,
    remove,
    replace_file,
    sweep,
)
from harness.artifacts.stored_files import check_files, cure, is_stored, read_done, unreadable
from harness.errors import UserError

FORMAT = 1
"""Version of the layout and of the files' contents. A change means: old folders cannot continue."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_FILE_SYSTEM = {
    *(errno.EINVAL, errno.EIO, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP),
    *(errno.EBUSY, errno.EXDEV, errno.ESTALE, errno.ETIMEDOUT, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of a failing disk, of a network file system, or of one that cannot flush, rename or
lock."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=,+-]*")
ANSWERS_PREFIX = "answers:"
"""The base of a row of another program's answers is this prefix and their folder. In an identity
it stands alone, because the place does not count."""


def check_name(kind: str, name: object) -> None:
    """Check that a label or name can be a folder's name.

    Raises:
        UserError: it has a character other than letters, digits, spaces and ``._=,+-``, does not
            begin with a letter or digit, or is too long.
    """
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name)
        or name != name.strip()
        or len(name) > 120
    ):
        raise UserError(
            f"The {kind} {name!r} becomes a folder's name; use at most 120 letters, digits, spaces"
            " and . _ = , + - and begin with a letter or digit."
        )


@dataclass(frozen=True)
class Results:
    """The paths in one study's results folder ``out``."""

    out: Path

    @property
    def study(self) -> Path:
        return self.out / "study.json"

    @property
    def packed(self) -> Path:
        """This file exists in a packed folder only (harness/reporting/stored.py)."""
        return self.out / "packed.json"

    def check_whole(self, reason: str) -> None:
        """Check that the folder is not packed; a packed one has no answers, pairs and images.

        Raises:
            UserError: it is packed; ``reason`` ends the sentence.
        """
        if self.packed.exists():
            raise UserError(
                f"{self.out} is a packed results folder without answers, pairs and images:"
                f" {reason}. Give the whole folder; `python -m nox -s reference` makes that of"
                " results/reference again."
            )

    def questions(self, benchmark: str) -> Path:
        return self.out / "questions" / benchmark

    def round(self, label: str, seed: int, round: int) -> Path:
        return self.out / "runs" / label / f"seed{seed}" / f"round{round}"

    def pairs(self, label: str, seed: int, round: int) -> Path:
        return self.round(label, seed, round) / "pairs"

    def train(self, label: str, seed: int, round: int) -> Path:
        return self.round(label, seed, round) / "train"

    def answers(self, label: str, seed: int, round: int, benchmark: str) -> Path:
        return self.round(label, seed, round) / "answers" / benchmark

    def grades(self, label: str, seed: int, round: int, benchmark: str) -> Path:
        return self.round(label, seed, round) / "grades" / benchmark

    def choices(self, label: str, seed: int, round: int, benchmark: str) -> Path:
        return self.round(label, seed, round) / "choices" / benchmark

    def caps(self, label: str, seed: int, round: int, benchmark: str) -> Path:
        return self.round(label, seed, round) / "caps" / benchmark

    def finished_stage(self, identity: Mapping[str, Any]) -> Path | None:
        """The folder of a finished stage with this identity, under any label, to be reused; its
        files are as they were written."""
        expected = fingerprint(identity)
        for path in sorted(self.out.glob("runs/*/seed*/round*/**/DONE")):
            try:
                done = read_done(path.parent)
                if done is not None and done.fingerprint == expected:
                    check_files(path.parent)
                    return path.parent
            except UserError:
                continue  # a broken stage is not copied
        return None


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Raise a full disk, a forbidden folder or a failing file system as UserError; finished files
    stay as they are."""
    resume = "Nothing finished is lost: run the same command again afterwards."
    try:
        yield
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        if error.errno in _FULL:
            raise UserError(
                f"The disk is full while writing below {path}; free some space, or give another"
                f" --out. {resume}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"This user may not write below {path}{where}; change its permissions, or give"
                f" another --out. {resume}"
            ) from error
        if error.errno in _FILE_SYSTEM:
            raise UserError(
                f"The file system failed below {path}{where}: {error.strerror}. Look at the disk,"
                f" or give an --out on another one, with a short path. {resume}"
            ) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a new temporary file, flushed, then renamed.

    Makes missing folders. A link of this name is replaced, not followed.
    """
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
        flush(path.parent)


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    write_bytes(path, as_jsonl(rows))


def as_jsonl(rows: Iterable[object]) -> bytes:
    """The content of a JSONL file."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return "".join(lines).encode()


def read_json(path: Path) -> Any:
    """The file's JSON.

    Raises:
        UserError: the file is missing, no JSON, or not the one that its stage wrote.
    """
    try:
        return json.loads(stored_files.read_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error) from error


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSONL file, in order.

    Raises:
        UserError: the file is missing, a line is not JSON, or it is not the file that its stage
            wrote.
    """
    return parse_jsonl(path, stored_files.read_bytes(path))


def parse_jsonl(path: Path, content: bytes) -> list[Any]:
    """The values of a JSONL file's ``content``; ``path`` names it in an error.

    Raises:
        UserError: a line is not JSON.
    """
    try:
        # splitlines() would also split at U+2028 and its kin, which an answer may hold.
        lines = content.decode().split("\n")
        return [json.loads(line) for line in lines if line]
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "JSONL", error) from error


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Reserve the folder for this process. The kernel frees the lock when the process ends.

    What killed processes left half-written is removed.

    Raises:
        UserError: another process writes there, the folder is packed, it cannot be made, its file
            system has no locks, its name is no UTF-8, or a link in it leads out of it.
    """
    try:
        str(out.absolute()).encode()
        with explain_disk_errors(out):
            Results(out).check_whole("no stage can be done in it")
            out.mkdir(parents=True, exist_ok=True)
            handle = append_to(out / ".lock")
    except UnicodeEncodeError as error:
        raise UserError(
            f"The name of the folder {out} is not UTF-8; give another --out."
        ) from error
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{out} cannot be a folder ({error.strerror}); give another --out."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is writing to {out}; wait for it to end, or give another --out."
            ) from None
        except OSError as error:
            raise UserError(
                f"The file system of {out} has no locks ({error.strerror}), so two commands could"
                " write there at once; give an --out on another one."
            ) from error
        check_links(out)
        for name in ("questions", "runs"):  # the commands without a lock write elsewhere
            sweep(out / name)
        yield


@dataclass(frozen=True)
class Stage:
    """One stage's folder: its identity, its finished shards, and whether it is done."""

    folder: Path
    identity: Mapping[str, Any]

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").exists()

    def check(self) -> None:
        """Compare the identity with the stored one, and a finished stage's files with ``DONE``:
        images and weights by their size, all others by their content.

        Raises:
            UserError: the folder holds results of other settings (every difference is named) or
                of another format, or a file is missing or was changed.
        """
        path, done = self.folder / "identity.json", read_done(self.folder)
        if not is_stored(path):
            has_shards = any(self.folder.glob("shards/*.jsonl"))
            if has_shards or (done is not None and done.fingerprint != fingerprint(self.identity)):
                raise UserError(
                    f"{path} is missing, so its settings are not known; {cure(self.folder)}"
                )
            return
        stored = read_json(path)
        mend = f"Give another --out, or move {self.folder} and what was made from it elsewhere."
        if stored.get("format") != self.identity.get("format"):
            raise UserError(
                f"{self.folder} was written in results format {stored.get('format')}, this version"
                f" writes format {FORMAT}. {mend}"
            )
        if lines := differences(stored, self.identity):
            more = f"; and {len(lines) - 12} more" if len(lines) > 12 else ""
            raise UserError(
                f"{self.folder} holds results of other settings ({'; '.join(lines[:12])}{more})."
                f" {mend}"
            )
        if done is not None and done.files is not None:
            if done.fingerprint != fingerprint(stored):
                raise UserError(f"{path} is not the one that DONE names; {cure(self.folder)}")
            check_files(self.folder, read_large=False)

    def differs_only_in(self, field: str) -> bool:
        """Whether the stored identity differs from this one in ``field`` and nothing else."""
        path = self.folder / "identity.json"
        if not is_stored(path):
            return False
        lines = differences(read_json(path), self.identity)
        return bool(lines) and all(line.startswith(f"{field}:") for line in lines)

    def clear(self) -> None:
        """Delete the folder. ``DONE`` goes first: a kill meanwhile leaves an unfinished stage."""
        with explain_disk_errors(self.folder):
            (self.folder / "DONE").unlink(missing_ok=True)
            remove(self.folder)

    def open(self) -> None:
        """Check the stored identity, or write it where there is none; comes before any work."""
        self.check()
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", self.identity)

    def shard(self, index: int) -> Path:
        return self.folder / "shards" / f"{index:05d}.jsonl"

    def finish(self, record: Mapping[str, Any] | None = None) -> None:
        """Write the record, if there is one, and then ``DONE``, which lists the stage's files."""
        if record is not None:
            write_json(self.folder / "record.json", record)
        done = stored_files.done_content(self.folder, fingerprint(self.identity))
        write_bytes(self.folder / "DONE", done)

    def reuse(self, source: Path, out: Path) -> None:
        """Copy a finished stage of the same identity from ``source``, a folder below ``out``.

        The record names the source as ``reused_from``.
        """
        self.clear()
        self.open()
        with explain_disk_errors(self.folder):
            for path in sorted(source.rglob("*")):
                is_rewritten = path.name in ("DONE", "record.json", "identity.json")
                if path.is_file() and not is_rewritten and not is_temporary(path):
                    _link(path, self.folder / path.relative_to(source))
        record = source / "record.json"
        reused_from = source.relative_to(out).as_posix()
        self.finish({**read_json(record), "reused_from": reused_from} if record.exists() else None)

    def reuse_shards(self, source: Path) -> None:
        """Start with the shards of the stage in ``source``, whose rows equal this stage's rows."""
        self.open()
        with explain_disk_errors(self.folder):
            for path in sorted((source / "shards").glob("*.jsonl")):
                _link(path, self.folder / "shards" / path.name)

    def delete(self, name: str) -> None:
        """Delete a subfolder that a finished stage no longer needs (training checkpoints)."""
        with explain_disk_errors(self.folder):
            remove(self.folder / name)


def _link(path: Path, target: Path) -> None:
    """A hard link where the disk allows it, else a whole copy. Files are replaced, never edited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        write_bytes(target, path.read_bytes())


def records(root: Path) -> list[dict[str, Any]]:
    """Every readable ``record.json`` below a results folder; cost estimates use them."""
    values = []
    for path in sorted(root.glob("**/record.json")):
        try:
            values.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue  # an estimate can do without a broken record
    return [record for record in values if isinstance(record, dict)]
