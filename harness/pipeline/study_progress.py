"""Progress of a whole study: how many of its tasks are done, and about how long the rest takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.pipeline.progress import EVERY, Display, span
from harness.pipeline.stages.shards import Progress
from harness.pipeline.tasks import Task

EARLY = 0.05
"""The share of the work below which no time left is shown: the start of processes distorts it."""


@dataclass
class StudyProgress:
    """Shows one line a finished task, and lines that move in between."""

    display: Display
    weight: Callable[[Task], float]
    """About how many seconds of work a task is."""
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

    def begin(self, task: Task) -> Progress:
        return self.display.stage(len(self.done) + 1, len(self.tasks), task.title)

    def finish(self, task: Task, seconds: float) -> None:
        self.done.add(task.key)
        left = self._left({})
        rest = f"; {left} left" if left and len(self.done) < len(self.tasks) else ""
        self.display.say(
            f"[{len(self.done)}/{len(self.tasks)}] {task.title}: done in {span(seconds)}{rest}"
        )

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
            f"[{len(self.done)}/{len(self.tasks)}]"
            + (f" {left} left;" if left else "")
            + f" running: {'; '.join(shown)}"
        )

    def _left(self, parts: Mapping[str, float]) -> str:
        """How long the rest takes at the pace so far; empty at the beginning."""
        weights = self._weights
        total = sum(weights[task.key] for task in self.tasks)
        done = sum(weights[key] for key in self.done)
        done += sum(weights[key] * part for key, part in parts.items())
        passed = self.display.clock() - self.started
        if passed < EVERY or done < EARLY * total:
            return ""
        return f"about {span(passed * (total - done) / done)}"
