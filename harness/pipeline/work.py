"""The four steps of a task, as every executor takes them: begin it, run its shards, merge them; and
which functions do a kind's stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.artifacts.results_folder import write_json
from harness.errors import RowEnded
from harness.pipeline.context import Context
from harness.pipeline.stages import answer, export, grade, pairs, train_round, without_model
from harness.pipeline.stages.shards import Progress, finish, read_shard
from harness.pipeline.tasks import Kind, Task

Run = Callable[[Context, Task, int, Progress], None]
"""Writes one shard, whole."""
Merge = Callable[[Context, Task], None]
"""Puts the shards together; writes the record and, last, ``DONE``."""

STAGES: Mapping[Kind, tuple[Run, Merge]] = {
    "export": (export.run, finish),
    "pairs": (pairs.run, pairs.merge),
    "train": (train_round.run, train_round.merge),
    "answer": (answer.run, answer.merge),
    "given": (without_model.run_given, finish),
    "choices": (answer.run, answer.merge),
    "grade": (grade.run, finish),
    "caps": (grade.run, finish),
    "derive": (without_model.run_matched, finish),
}
"""A stage is two functions."""

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
    write, _ = STAGES[task.kind]
    write(context, task, shard, progress)


def merge(context: Context, task: Task) -> None:
    _, put_together = STAGES[task.kind]
    put_together(context, task)
