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

from harness.artifacts.fingerprint import differences, fingerprint
from harness.artifacts.safe_files import (
    append_to,
    check_links,
    is_temporary,
    remove,
    replace_file,
    sweep,
)
from harness.errors import UserError

FORMAT = 1
"""Version of the layout and of the files' contents. A change means: old folders cannot continue."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._=,+-]*")


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
        """The folder of a finished stage with this identity, under any label, to be reused."""
        content = fingerprint(identity) + "\n"
        done = sorted(self.out.glob("runs/*/seed*/round*/**/DONE"))
        return next((path.parent for path in done if path.read_text() == content), None)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Raise a full disk or a forbidden folder as UserError; finished files stay as they are."""
    resume = "Nothing finished is lost: run the same command again afterwards."
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"The disk is full while writing below {path}; free some space, or give another"
                f" --out. {resume}"
            ) from error
        if error.errno in _FORBIDDEN:
            raise UserError(
                f"This user may not write below {path}; change its permissions, or give another"
                f" --out. {resume}"
            ) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a new temporary file, flushed, then renamed.

    Makes missing folders. A link of this name is replaced, not followed.
    """
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_bytes(path, "".join(lines).encode())


def read_json(path: Path) -> Any:
    """The file's JSON.

    Raises:
        UserError: the file is not JSON: it was edited, or the disk failed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); delete its folder and run again."
        ) from error


def read_jsonl(path: Path) -> list[Any]:
    """The values of a JSONL file, in order.

    Raises:
        UserError: a line is not JSON.
    """
    try:
        # splitlines() would also split at U+2028 and its kin, which an answer may hold.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not readable JSONL ({error}); delete its folder and run again."
        ) from error


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Reserve the folder for this process. The kernel frees the lock when the process ends.

    What killed processes left half-written is removed.

    Raises:
        UserError: another process writes there, the folder is packed, it cannot be made, or a
            link in it leads out of it.
    """
    Results(out).check_whole("no stage can be done in it")
    try:
        with explain_disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            handle = append_to(out / ".lock")
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
        """Compare the identity with the stored one.

        Raises:
            UserError: the folder holds results of other settings (every difference is named) or
                of another format.
        """
        path = self.folder / "identity.json"
        if not path.exists():
            return
        stored = read_json(path)
        mend = f"Give another --out, or delete {self.folder} and what was made from it."
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

    def differs_only_in(self, field: str) -> bool:
        """Whether the stored identity differs from this one in ``field`` and nothing else."""
        path = self.folder / "identity.json"
        if not path.exists():
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
        """Write the record, if there is one, and then ``DONE``."""
        if record is not None:
            write_json(self.folder / "record.json", record)
        write_bytes(self.folder / "DONE", (fingerprint(self.identity) + "\n").encode())

    def reuse(self, source: Path, out: Path) -> None:
        """Copy a finished stage of the same identity from ``source``, a folder below ``out``.

        The record names the source as ``reused_from``.
        """
        self.clear()
        self.open()
        with explain_disk_errors(self.folder):
            for path in sorted(source.rglob("*")):
                own = path.name in ("DONE", "record.json", "identity.json")
                if path.is_file() and not own and not is_temporary(path):
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
    loaded = []
    for path in sorted(root.glob("**/record.json")):
        try:
            loaded.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # an estimate can do without a broken record
    return loaded
