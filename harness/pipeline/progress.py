"""Progress on a terminal (one line that moves) or in a log (a line with the time every few
seconds): how far, how fast, how long; of a task, and of a whole study."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from harness.pipeline.stages.shards import Progress
    from harness.pipeline.tasks import Task

EVERY = 10.0
"""Seconds between two lines of a log. A terminal's line moves ten times a second."""

SILENT = 1.5
"""Seconds after which a terminal's line shows how long it has stood."""

LONG = 60.0
"""Seconds of a task whose end leaves a line."""

EARLY = 0.05
"""The share of the work below which no time left is shown: the start of processes distorts it."""


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


@dataclass
class StudyProgress:
    """Shows how much of the whole is done. Only a task that took long, and the last one, leave a
    line; all else is shown by a line that moves."""

    display: Display
    weight: Callable[[Task], float]
    """About how many seconds of work a task is."""
    before: int = 0
    """Tasks that were done before this run."""
    tasks: list[Task] = field(default_factory=list)
    """Every task that is to be done, or was."""
    done: set[str] = field(default_factory=set)
    """Keys of the finished tasks."""
    started: float = field(init=False)
    _weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.display.clock()

    def plan(self, tasks: Sequence[Task]) -> None:
        """Name the tasks that are still to be done."""
        self.tasks = [task for task in self.tasks if task.key in self.done] + list(tasks)
        self._weights |= {task.key: self.weight(task) for task in tasks}

    def place(self) -> str:
        """``[20/33]``: finished tasks of all tasks of the study."""
        return f"[{self.before + len(self.done)}/{self.before + len(self.tasks)}]"

    def begin(self, task: Task) -> Progress:
        left, done = self._left({}), self.before + len(self.done)
        title = f"{left} left; {task.title}" if left else task.title
        return self.display.stage(done + 1, self.before + len(self.tasks), title)

    def finish(self, task: Task, seconds: float) -> None:
        self.done.add(task.key)
        left, last = self._left({}), len(self.done) == len(self.tasks)
        rest = f"; {left} left" if left and not last else ""
        text = f"{self.place()} {task.title}: done in {span(seconds)}{rest}"
        if last or seconds >= LONG:
            self.display.say(text)
        else:
            self.display.moving(text)

    def drop(self, pending: Sequence[Task], remaining: list[Task], reason: str) -> list[Task]:
        """A row has ended: leave out its tasks, and say why; the tasks that are kept."""
        dropped = {task.key for task in pending} - {task.key for task in remaining}
        self.tasks = [task for task in self.tasks if task.key not in dropped]
        self.display.say(reason)
        return remaining

    def running(self, parts: Mapping[str, float]) -> None:
        """Say which tasks run at once. ``parts``: the share that is done, by key."""
        titles = {task.key: task.title for task in self.tasks}
        shown = [
            titles[key] + (f" {100 * part:.0f} %" if part else "") for key, part in parts.items()
        ]
        left = self._left(parts)
        self.display.moving(
            self.place() + (f" {left} left;" if left else "") + f" running: {'; '.join(shown)}"
        )

    def _left(self, parts: Mapping[str, float]) -> str:
        """How long the rest takes at the pace so far; empty at the beginning."""
        weights = self._weights
        total = sum(weights[task.key] for task in self.tasks)
        done = sum(weights[key] for key in self.done)
        done += sum(weights[key] * part for key, part in parts.items())
        passed = self.display.clock() - self.started
        if passed < EVERY / 2 or done < EARLY * total:
            return ""
        return f"about {span(passed * (total - done) / done)}"


@contextmanager
def busy(text: str, stream: TextIO | None = None) -> Iterator[None]:
    """On a terminal, a moving line on stderr while a command imports and computes; nothing of it is
    left. In a log or a pipe nothing is written: there stderr is for mistakes, and nobody waits."""
    display = Display(stream or sys.stderr)
    with display.alive():
        if display.stream.isatty():
            display.moving(text, at_once=True)
        yield
