"""Progress on a terminal (one line that moves) or in a log (a line every few seconds): how far, how
fast, how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from harness.pipeline.stages.shards import Progress

EVERY = 5.0
"""Seconds between two lines of one task in a log. A terminal's line moves ten times a second."""


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
    _shown: float = field(default=-1e9, init=False)
    _width: int = field(default=0, init=False)

    @property
    def pause(self) -> float:
        """Seconds between two lines."""
        return 0.1 if self.stream.isatty() else EVERY

    def stage(self, number: int, of: int, title: str) -> Progress:
        """A function ``progress(unit, done, total)``; ``total`` 0 where it is not known."""
        head = f"[{number}/{of}] {title}"
        phase, since, before = "", self.clock(), 0
        # A log hears of a task first after EVERY seconds (a short one only says that it is done),
        # a terminal at once.
        self._shown = -1e9 if self.stream.isatty() else since

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

    def moving(self, text: str) -> None:
        """A line that the next one replaces; in a log at most one every few seconds."""
        if self.clock() - self._shown >= self.pause:
            self._shown = self.clock()
            self._line(text)

    def say(self, text: str) -> None:
        self._line(text, last=True)

    def _line(self, text: str, *, last: bool = False) -> None:
        if self.stream.isatty():
            self.stream.write("\r" + text.ljust(self._width) + ("\n" if last else ""))
            self._width = 0 if last else len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
