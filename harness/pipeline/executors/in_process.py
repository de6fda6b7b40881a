"""Do a study's tasks in this process, in order: alone, or as one rank of torchrun."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.errors import RowEnded
from harness.pipeline import work
from harness.pipeline.context import Context
from harness.pipeline.progress import StudyProgress
from harness.pipeline.stages.shards import Progress
from harness.pipeline.tasks import Task, without_dependents
from harness.training.ranks import ranks


def execute(context: Context, tasks: Sequence[Task], progress: StudyProgress) -> list[str]:
    """Do the tasks; the sentences of rows that ended early, because a round could not be trained.

    Raises:
        UserError: a stage met a user's mistake.
    """
    pending, ended = list(tasks), list[str]()
    while pending:
        task, started = pending[0], time.monotonic()
        try:
            do(context, task, progress.begin(task))
        except RowEnded as error:  # on every rank alike
            reason = work.end_row(task, error, write=ranks().is_main)
            pending = progress.drop(pending, without_dependents(pending, task), reason)
            ended.append(reason)
        else:
            pending = pending[1:]
            progress.finish(task, time.monotonic() - started)
    return ended


def do(context: Context, task: Task, progress: Progress) -> None:
    """One task. The ranks share its shards, or its training; the main rank does the rest."""
    group = ranks()
    if group.on_main(lambda: work.begin(context, task)):
        return
    unit, total = work.UNITS.get(task.kind), int(task.items or 0)
    if unit:
        progress(unit, work.items_done(task), total)
    every = range(task.shards)
    missing = set(work.missing_shards(task))
    group.barrier()  # every rank has looked before one of them writes
    for shard in every if task.kind == "train" else group.share(every):
        if shard in missing:
            work.run_shard(context, task, shard, progress)
            if unit:
                progress(unit, work.items_done(task), total)
    group.barrier()
    group.on_main(lambda: work.merge(context, task))
