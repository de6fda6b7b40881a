"""Progress on a terminal (one line that moves) or in a log (a line with the time every few
seconds): how far, how fast, how long."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from harness.pipeline.stages.shards import Progress

EVERY = 10.0
"""Seconds between two lines of a log. A terminal's line moves ten times a second."""

SILENT = 1.5
"""Seconds after which a terminal's line shows how long it has stood."""


def span(seconds: float) -> str:
    """A duration for people: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass
class Display:
    """Writes progress to ``stream``. ``stage`` opens a task's line and gives the function that
    moves it."""

    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    stamp: Callable[[], str] = lambda: time.strftime("%H:%M:%S")
    """The time of day, before each line of a log."""
    _shown: float = field(default=-1e9, init=False)
    _width: int = field(default=0, init=False)
    _text: str = field(default="", init=False)
    _since: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def pause(self) -> float:
        """Seconds between two lines."""
        return 0.1 if self.stream.isatty() else EVERY

    def stage(self, number: int, of: int, title: str) -> Progress:
        """A function ``progress(unit, done, total)``; ``total`` 0 where it is not known."""
        head = f"[{number}/{of}] {title}"
        phase, since, before = "", self.clock(), 0

        def progress(unit: str, done: int, total: int) -> None:
            nonlocal phase, since, before
            now = self.clock()
            if unit != phase:
                # What an earlier run had done already says nothing about speed.
                phase, since, before = unit, now, done
            if now - self._shown < self.pause:
                return
            self._shown = now
            text = f"{head}: {done}/{total} {unit}" if total else f"{head}: {done} {unit}"
            if done > before and now > since:
                rate = (done - before) / (now - since)
                text += f", {rate:.1f}/s"
                text += f", {span((total - done) / rate)} left" if total else ""
            self._line(text)

        if self.stream.isatty():
            self._line(head)
        return progress

    def moving(self, text: str, *, at_once: bool = False) -> None:
        """A line that the next one replaces; in a log at most one every few seconds, unless it is
        to be written ``at_once``."""
        if at_once or self.clock() - self._shown >= self.pause:
            self._shown = self.clock()
            self._line(text)

    def say(self, text: str) -> None:
        self._line(text, last=True)

    def end(self, text: str) -> None:
        """The last lines, as they are: without the time."""
        if self.stream.isatty():
            self._line("")
            self.stream.write("\r")
        self._text = ""
        self.stream.write(text + "\n")
        self.stream.flush()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Meanwhile, a line that stands still says again for how long it has stood, so that a
        terminal never looks dead."""
        ended = threading.Event()
        ticks = threading.Thread(target=self._tick, args=(ended,), daemon=True)
        ticks.start()
        try:
            yield
        finally:
            ended.set()
            ticks.join()
            if self.stream.isatty() and self._width:  # leave no moving line behind
                self._line("")
                self.stream.write("\r")

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            stood = self.clock() - self._since
            due = SILENT if self.stream.isatty() else 3 * EVERY
            if self._text and stood >= due and self.clock() - self._shown >= due:
                self._shown = self.clock()
                self._write(f"{self._text} ({span(stood)})")

    def _line(self, text: str, *, last: bool = False) -> None:
        self._text, self._since = "" if last else text, self.clock()
        self._write(text, last=last)

    def _write(self, text: str, *, last: bool = False) -> None:
        with self._lock:
            if self.stream.isatty():
                # A moving line has to fit, or it could not be replaced.
                room = shutil.get_terminal_size().columns - 1
                text = text if last or len(text) <= room else text[: room - 1] + "…"
                self.stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
                self._width = 0 if last else len(text)
            else:
                self.stream.write(f"{self.stamp()} {text}\n")
            self.stream.flush()


@contextmanager
def busy(text: str, stream: TextIO | None = None) -> Iterator[None]:
    """On a terminal, a moving line on stderr while a command imports and computes; nothing of it is
    left. In a log or a pipe nothing is written: there stderr is for mistakes, and nobody waits."""
    display = Display(stream or sys.stderr)
    with display.alive():
        if display.stream.isatty():
            display.moving(text, at_once=True)
        yield
