"""The four steps of a task, as every executor takes them: begin it, run its shards, merge them; and
which module holds a kind's stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from harness.artifacts.results_folder import write_json
from harness.errors import RowEnded
from harness.pipeline.context import Context
from harness.pipeline.stages import (
    answer,
    caps,
    choices,
    export,
    given,
    grade,
    matched,
    pairs,
    train_round,
)
from harness.pipeline.stages.shards import Progress, read_shard
from harness.pipeline.tasks import Kind, Task


class StageModule(Protocol):
    """A stage is two functions."""

    def run(self, context: Context, task: Task, shard: int, progress: Progress, /) -> None:
        """Write one shard, whole."""
        ...

    def merge(self, context: Context, task: Task, /) -> None:
        """Put the shards together; write the record and, last, ``DONE``."""
        ...


STAGES: Mapping[Kind, StageModule] = {
    "export": export,
    "pairs": pairs,
    "train": train_round,
    "answer": answer,
    "given": given,
    "choices": choices,
    "grade": grade,
    "caps": caps,
    "derive": matched,
}

UNITS: Mapping[Kind, str] = {"pairs": "images", "answer": "questions", "choices": "questions"}
"""What the shards of a kind are counted in."""


def begin(context: Context, task: Task) -> bool:
    """Open the task's folder. True: a finished task of the same identity was copied, and nothing is
    left to do.

    Raises:
        UserError: a shard that is there was cut or changed.
    """
    stage, results = task.stage, context.results
    if task.outdated:
        stage.clear()
    elif task.needs_model and (twin := results.finished_stage(stage.identity)) is not None:
        stage.reuse(twin, results.out)
        return True
    stage.open()
    if task.shards_of is not None and (twin := results.finished_stage(task.shards_of)) is not None:
        stage.reuse_shards(twin)
    if task.shard_items:
        for shard in set(range(task.shards)).difference(missing_shards(task)):
            read_shard(stage.shard(shard))  # before any model is loaded
    if task.kind == "pairs":
        pairs.prepare(context, task)
    return False


def end_row(task: Task, error: RowEnded, *, write: bool = True) -> str:
    """Note why the row ends in the task's folder, for the table; the sentence that names the
    row."""
    if write:
        reason = str(error).partition(";")[0]
        write_json(task.stage.folder / "ended.json", {"reason": reason})
    return f"{task.title.removesuffix(': train')}: {error}"


def missing_shards(task: Task) -> list[int]:
    """The shards that are not there yet."""
    every = range(task.shards)
    if not task.shard_items:
        return list(every)
    return [shard for shard in every if not task.stage.shard(shard).exists()]


def items_done(task: Task) -> int:
    """Images or questions in the shards that are there."""
    missing = sum(len(task.shard_range(shard)) for shard in missing_shards(task))
    return int(task.items or 0) - missing


def run_shard(context: Context, task: Task, shard: int, progress: Progress) -> None:
    STAGES[task.kind].run(context, task, shard, progress)


def merge(context: Context, task: Task) -> None:
    STAGES[task.kind].merge(context, task)
