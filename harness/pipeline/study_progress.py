"""Progress of a whole study: how many of its tasks are done, and about how long the rest takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.pipeline.progress import EVERY, Display, span
from harness.pipeline.stages.shards import Progress
from harness.pipeline.tasks import Task

LONG = 60.0
"""Seconds of a task whose end leaves a line."""

EARLY = 0.05
"""The share of the work below which no time left is shown: the start of processes distorts it."""


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
        left = self._left({})
        title = f"{left} left; {task.title}" if left else task.title
        return self.display.stage(
            self.before + len(self.done) + 1, self.before + len(self.tasks), title
        )

    def finish(self, task: Task, seconds: float) -> None:
        self.done.add(task.key)
        left, last = self._left({}), len(self.done) == len(self.tasks)
        rest = f"; {left} left" if left and not last else ""
        text = f"{self.place()} {task.title}: done in {span(seconds)}{rest}"
        if last or seconds >= LONG:
            self.display.say(text)
        else:
            self.display.moving(text)

    def drop(self, pending: Sequence[Task], kept: list[Task], why: str) -> list[Task]:
        """A row has ended: leave out its tasks, and say why; the tasks that are kept."""
        lost = {task.key for task in pending} - {task.key for task in kept}
        self.tasks = [task for task in self.tasks if task.key not in lost]
        self.display.say(why)
        return kept

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
