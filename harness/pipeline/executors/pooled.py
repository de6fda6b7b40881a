"""Do a study's tasks with a pool of workers: every task whose inputs are there runs at once, shard
by shard.

This process begins and merges tasks; the workers write shards. They share files alone, so a worker
that dies leaves only finished shards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import RowEnded, UserError
from harness.pipeline import work
from harness.pipeline.context import Context
from harness.pipeline.executors import in_process
from harness.pipeline.progress import StudyProgress
from harness.pipeline.stages.shards import quiet
from harness.pipeline.tasks import Kind, Task, without_dependents

COST: Mapping[Kind, int] = {"train": 4, "pairs": 3}
"""How long kinds of task take, roughly; others count 1. The longest chain of work goes first."""

LOOK_EVERY = 1.0
"""Seconds after which progress is looked at, when nothing has finished."""


class Workers(Protocol):
    """Processes that write shards."""

    @property
    def places(self) -> int:
        """Shards written at once."""
        ...

    @property
    def loads_are_dear(self) -> bool:
        """Whether each call loads its model anew. Then a task's shards travel in as many parts as
        there are places; else one by one."""
        ...

    @property
    def only_models(self) -> bool:
        """Whether tasks without a model are done here instead."""
        ...

    def submit(self, task: Task, shards: Sequence[int]) -> Future[UserError | None]:
        """Write shards; the value is the user's mistake that ended it, if one did."""
        ...


@dataclass
class RunningTask:
    """A task under way: the parts that no worker has yet, and how many are being written."""

    task: Task
    waiting: list[list[int]] = field(default_factory=list)
    at_work: int = 0
    started: float = field(default_factory=time.monotonic)


def urgency(tasks: Sequence[Task]) -> dict[str, int]:
    """By key, the cost of the longest chain of tasks that begins with a task."""
    costs: dict[str, int] = {}
    longest_after: dict[str, int] = {}
    for task in reversed(tasks):  # a task comes after all that it depends on
        costs[task.key] = COST.get(task.kind, 1) + longest_after.get(task.key, 0)
        for key in task.depends_on:
            longest_after[key] = max(longest_after.get(key, 0), costs[task.key])
    return costs


def execute(
    context: Context, tasks: Sequence[Task], progress: StudyProgress, *, workers: Workers
) -> list[str]:
    """Do the tasks; the sentences of rows that ended early, because a round could not be trained.

    Raises:
        UserError: a stage met a user's mistake, or a worker was killed. What runs then is stopped.
    """
    schedule = Schedule(context, list(tasks), progress, workers, urgency(tasks))
    try:
        return schedule.run()
    except BrokenExecutor as error:
        raise UserError(
            "A worker process was killed, perhaps because memory ran out. Finished shards are kept;"
            " run the same command again, with fewer --jobs if it repeats."
        ) from error


@dataclass
class Schedule:
    """What waits, what runs, and which place does what."""

    context: Context
    pending: list[Task]
    progress: StudyProgress
    workers: Workers
    urgency: Mapping[str, int]
    running: dict[str, RunningTask] = field(default_factory=dict)
    futures: dict[Future[UserError | None], RunningTask] = field(default_factory=dict)

    def run(self) -> list[str]:
        ended: list[str] = []
        while self.pending or self.running:
            self.fill()
            done, _ = wait(self.futures, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            for future in [future for future in self.futures if future in done]:
                running = self.futures.pop(future)
                running.at_work -= 1
                problem = future.result()
                if isinstance(problem, RowEnded):
                    ended.append(self.end_row(running.task, problem))
                elif problem is not None:
                    raise problem
                elif not running.waiting and not running.at_work:
                    self.finish(running)
            if self.running:
                self.progress.running(
                    {key: _part(running.task) for key, running in self.running.items()}
                )
        return ended

    def fill(self) -> None:
        """Give every free place shards, of the most urgent task."""
        while len(self.futures) < self.workers.places:
            waiting = [running for running in self.running.values() if running.waiting]
            running = max(waiting, key=lambda item: self.urgency[item.task.key], default=None)
            task = self.next_task()
            if task is not None and (
                running is None or self.urgency[task.key] > self.urgency[running.task.key]
            ):
                self.begin(task)
            elif running is not None:
                part = running.waiting.pop(0)
                self.futures[self.workers.submit(running.task, part)] = running
                running.at_work += 1
            else:
                return

    def next_task(self) -> Task | None:
        """The most urgent task that may begin: what it reads is there, and no task before it is
        writing what it may copy."""
        unfinished = {task.key for task in self.pending} | set(self.running)
        # One grading of a benchmark at a time: a judge is asked at one pace, and a toolkit takes
        # much memory.
        graded = {
            running.task.benchmark
            for running in self.running.values()
            if not running.task.needs_model
        }
        free = [
            task
            for task in self.pending
            if unfinished.isdisjoint((*task.depends_on, *task.after))
            and (task.needs_model or task.benchmark not in graded)
        ]
        return max(free, key=lambda task: self.urgency[task.key], default=None)

    def begin(self, task: Task) -> None:
        self.pending.remove(task)
        running = self.running[task.key] = RunningTask(task)
        if self.workers.only_models and not task.needs_model:
            in_process.do(self.context, task, quiet)
            self.finish(running, merged=True)
        elif work.begin(self.context, task):
            self.finish(running, merged=True)
        else:
            shards = work.missing_shards(task)
            parts = min(self.workers.places, len(shards))
            running.waiting = (
                [shards[part::parts] for part in range(parts)]
                if self.workers.loads_are_dear
                else [[shard] for shard in shards]
            )
            if not shards:
                self.finish(running)

    def finish(self, running: RunningTask, *, merged: bool = False) -> None:
        if not merged:
            work.merge(self.context, running.task)
        del self.running[running.task.key]
        self.progress.finish(running.task, time.monotonic() - running.started)

    def end_row(self, task: Task, error: RowEnded) -> str:
        """Leave out the tasks that need this training; why, as a sentence that names the row."""
        reason = work.end_row(task, error)
        del self.running[task.key]
        tasks = [task, *self.pending]
        self.pending = self.progress.drop(tasks, without_dependents(tasks, task), reason)
        return reason


def _part(task: Task) -> float:
    """The share of a task's shards that is there."""
    return 1 - len(work.missing_shards(task)) / task.shards
