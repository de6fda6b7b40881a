"""A worker process: it opens the study once, and writes the shards that it is given."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from harness.artifacts.results_folder import Results
from harness.errors import UserError
from harness.pipeline import work
from harness.pipeline.context import Context
from harness.pipeline.stages.shards import quiet
from harness.pipeline.tasks import Task
from harness.study.reference import StudyReference
from harness.training.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to know once."""

    study: StudyReference
    out: Path
    placement: Placement
    threads: int | None
    """Of torch, as in the process that sends the work, because results are equal only for one
    number of threads. None: as they are."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    folder: Path = field(default_factory=Path.cwd)
    """The working directory, from which paths of pools and data are read."""


_opened: dict[str, Context] = {}
"""The context of the last job, by the job's id; kept for the next call."""


def start() -> None:
    """Set up a process of :class:`harness.pipeline.executors.processes.LocalProcesses`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End at once when the parent dies: the same command, run again, must be the only writer."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def write_shards(job: Job, task: Task, shards: Sequence[int]) -> UserError | None:
    """Write shards of a task; the user's mistake that ended it, if one did."""
    try:
        if job.id not in _opened:
            _opened.clear()
            _opened[job.id] = _open(job)
        for shard in shards:
            work.run_shard(_opened[job.id], task, shard, quiet)
    except UserError as problem:
        return problem
    return None


def _open(job: Job) -> Context:
    os.chdir(job.folder)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    transformers_logging.disable_progress_bar()
    return Context(job.study.load(), Results(job.out), job.placement)
