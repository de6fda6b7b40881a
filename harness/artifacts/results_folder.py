"""The only file that knows the layout below ``results/`` and the only one that writes there
(ARCHITECTURE.md, "Files of a run").

Every file is written beside its place, flushed and renamed, and ``DONE`` comes last: after kill -9
at any moment a stage is either whole or continued from its finished shards."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.fingerprint import differences, fingerprint
from harness.errors import UserError

FORMAT = 1
"""The version of the layout and of the files' contents; raised when an older folder cannot be
continued."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=,+-]*")


def check_name(what: str, name: str) -> None:
    """Labels and names become folders: letters, digits, space and ``._=,+-``, beginning with a
    letter or digit.

    Raises:
        UserError: the name has another character, or would be no good folder's name.
    """
    if not _NAME.fullmatch(name) or name != name.strip() or len(name) > 120:
        raise UserError(
            f"The {what} {name!r} becomes a folder's name; use at most 120 letters, digits, spaces"
            " and . _ = , + - and begin with a letter or digit."
        )


@dataclass(frozen=True)
class Results:
    """One study's folder, and where each thing lies in it."""

    out: Path

    @property
    def study(self) -> Path:
        return self.out / "study.json"

    @property
    def packed(self) -> Path:
        """Only a packed folder has this file (harness/reporting/stored.py)."""
        return self.out / "packed.json"

    def check_whole(self, what: str) -> None:
        """See that the folder is not a packed one, which has no answers, pairs and images.

        Raises:
            UserError: it is packed; ``what`` says what cannot be done with it.
        """
        if self.packed.exists():
            raise UserError(
                f"{self.out} is a packed results folder without answers, pairs and images: {what}."
                " Give the whole folder; `python -m nox -s reference` makes that of"
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

    def twin(self, identity: Mapping[str, Any]) -> Path | None:
        """A finished stage of this study with that very identity: what was done once is not done
        again under another label."""
        wanted = fingerprint(identity) + "\n"
        done = sorted(self.out.glob("runs/*/seed*/round*/**/DONE"))
        return next((path.parent for path in done if path.read_text() == wanted), None)


@contextmanager
def kindly(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into a sentence; what is on the disk already is
    whole."""
    kept = "Nothing finished is lost: run the same command again afterwards."
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"The disk is full while writing below {path}; free some space, or give another"
                f" --out. {kept}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"This user may not write below {path}; change its permissions, or give another"
                f" --out. {kept}"
            ) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, flushed to the disk, then renamed;
    folders are made."""
    with kindly(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One writer a folder (see lock), so a fixed name does: a leftover of a killed process is
        # overwritten.
        beside = path.with_name(f".{path.name}.tmp")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: object) -> None:
    write_bytes(
        path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    write_bytes(
        path,
        "".join(
            json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        ).encode(),
    )


def read_json(path: Path) -> Any:
    """The file's JSON.

    Raises:
        UserError: the file is not JSON (it was edited, or the disk failed: our own writes are
            whole).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); delete its folder and run again."
        ) from error


def read_jsonl(path: Path) -> list[Any]:
    try:
        # Not splitlines(): an answer may hold U+2028 and its kin, which are no line ends in JSONL.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable JSONL ({error}); delete its folder and run again."
        ) from error


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold the folder for this process. The kernel lets go when a process ends, however it ends: no
    stale locks.

    Raises:
        UserError: another process is writing there, it is a packed folder, or there can be no
            folder.
    """
    Results(out).check_whole("no stage can be done in it")
    try:
        with kindly(out):
            out.mkdir(parents=True, exist_ok=True)
            handle = (out / ".lock").open("a+")
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
        yield


@dataclass(frozen=True)
class Stage:
    """A stage's folder: its identity, its finished shards, and whether it is done."""

    folder: Path
    identity: Mapping[str, Any]

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").exists()

    def check(self) -> None:
        """Compare with what lies there.

        Raises:
            UserError: the folder holds results of other settings (with every difference) or of
                another format.
        """
        path = self.folder / "identity.json"
        if not path.exists():
            return
        there = read_json(path)
        mend = f"Give another --out, or delete {self.folder} and what was made from it."
        if there.get("format") != self.identity.get("format"):
            raise UserError(
                f"{self.folder} was written in results format {there.get('format')}, this version"
                f" writes format {FORMAT}. {mend}"
            )
        if lines := differences(there, self.identity):
            shown = "; ".join(lines[:12]) + (
                f"; and {len(lines) - 12} more" if len(lines) > 12 else ""
            )
            raise UserError(f"{self.folder} holds results of other settings ({shown}). {mend}")

    def outdated(self, field: str) -> bool:
        """Whether the folder differs from what is asked in this one field alone."""
        path = self.folder / "identity.json"
        if not path.exists():
            return False
        lines = differences(read_json(path), self.identity)
        return bool(lines) and all(line.startswith(f"{field}:") for line in lines)

    def clear(self) -> None:
        """Delete the folder, ``DONE`` first, so that a kill in between leaves nothing that looks
        whole."""
        with kindly(self.folder):
            (self.folder / "DONE").unlink(missing_ok=True)
            if self.folder.exists():
                shutil.rmtree(self.folder)

    def open(self) -> None:
        """Compare with what lies there, then write the identity, before any work."""
        self.check()
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", self.identity)

    def shard(self, index: int) -> Path:
        return self.folder / "shards" / f"{index:05d}.jsonl"

    def finish(self, record: Mapping[str, Any] | None = None) -> None:
        """Write the record, if there is one, and then ``DONE``."""
        if record is not None:
            write_json(self.folder / "record.json", record)
        write_bytes(self.folder / "DONE", (fingerprint(self.identity) + "\n").encode())

    def borrow(self, twin: Path, out: Path) -> None:
        """Become a copy of a finished stage of the same identity in the study's folder ``out``; the
        record says which."""
        self.clear()
        self.open()
        with kindly(self.folder):
            for path in sorted(twin.rglob("*")):
                if path.is_file() and path.name not in ("DONE", "record.json", "identity.json"):
                    _link(path, self.folder / path.relative_to(twin))
        record = twin / "record.json"
        self.finish(
            {**read_json(record), "reused_from": twin.relative_to(out).as_posix()}
            if record.exists()
            else None
        )

    def borrow_shards(self, twin: Path) -> None:
        """Begin with another stage's shards, which hold the very rows this one would write."""
        self.open()
        with kindly(self.folder):
            for path in sorted((twin / "shards").glob("*.jsonl")):
                _link(path, self.folder / "shards" / path.name)

    def drop(self, name: str) -> None:
        """Delete a subfolder that only served to continue (a trainer's checkpoints)."""
        with kindly(self.folder):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _link(path: Path, to: Path) -> None:
    """One file under two names where the disk can (files are replaced, never changed), else a copy;
    whole or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    try:
        os.link(path, to)
    except OSError:
        write_bytes(to, path.read_bytes())


def records(root: Path) -> list[dict[str, Any]]:
    """Every ``record.json`` below a results folder: what earlier stages measured (for
    estimates)."""
    found = []
    for path in sorted(root.glob("**/record.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # an estimate can do without a broken record
    return found
