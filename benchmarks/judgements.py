"""A judge's recording: one judgement a line of JSONL, written as it arrives and replayed later.

A line is ``{"request", "about", "repeat", "reply", "finish", "model", "tokens_in", "tokens_out",
"at"}``; ``request`` is the fingerprint of all that was sent. A line that was cut by a kill is
removed when the recording is continued."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.chat import Reply, storable
from benchmarks.files import plain_bytes

_TYPES: Mapping[str, tuple[type, ...]] = {
    "request": (str,),
    "reply": (str,),
    "finish": (str, type(None)),
    "model": (str,),
    "tokens_in": (int, type(None)),
    "tokens_out": (int, type(None)),
}


def read(path: Path) -> dict[str, Reply]:
    """Replies by request fingerprint; empty without a file. Of two lines for one request the first
    counts.

    Raises:
        ValueError: a line is no judgement (file and line).
    """
    try:
        content = plain_bytes(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"The recording {path} cannot be read: {error.strerror}.") from None
    replies: dict[str, Reply] = {}
    lines = content.split(b"\n")[:-1]  # after the last line end: nothing, or a cut line
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse_row(path, number, line)
            fields = {name: row[name] for name in ("finish", "model", "tokens_in", "tokens_out")}
            replies.setdefault(row["request"], Reply(text=row["reply"], **fields))
    return replies


def _parse_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or any(
        not isinstance(row.get(name), types) or not storable(row[name])
        for name, types in _TYPES.items()
    ):
        raise ValueError(
            f"{path}, line {number}, is no recorded judgement; mend or delete that line; the other"
            " lines stay valid."
        )
    return row


@dataclass
class Writer:
    """Appends judgements, from any thread."""

    path: Path
    file: BinaryIO
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failed: bool = False

    def add(self, request: str, about: str, repeat: int, reply: Reply) -> None:
        """
        Raises:
            ValueError: it cannot be written.
        """
        request_fields = {"request": request, "about": about, "repeat": repeat, "reply": reply.text}
        reply_fields = {name: value for name, value in asdict(reply).items() if name != "text"}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {**request_fields, **reply_fields, "at": now}
        with self._lock:
            try:
                if self._failed:  # no line may follow one that may be cut
                    raise OSError(errno.EIO, "an earlier line could not be written")
                self.file.write((json.dumps(row) + "\n").encode())
                self.file.flush()
                os.fsync(self.file.fileno())
            except OSError as error:
                self._failed = True
                raise ValueError(
                    f"The recording {self.path} cannot be written ({error.strerror}); free some"
                    " space."
                ) from None


@contextmanager
def open_writer(path: Path, tell: Callable[[str], None]) -> Iterator[Writer]:
    """The recording, open for writing by this process alone. It waits for another process that
    judges with the same recording.

    Raises:
        ValueError: it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise ValueError(
                f"The recording {path} is a symbolic link, which is not written through; name the"
                " file itself."
            )
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.fdopen(os.open(path, flags, 0o666), "a+b")
    except OSError as error:
        raise ValueError(
            f"The recording {path} cannot be written ({error.strerror}); name another place for it."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another process is judging with {path}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        if not content.endswith(b"\n"):  # cut by a kill: judged again
            file.truncate(content.rfind(b"\n") + 1)
        yield Writer(path=path, file=file)
