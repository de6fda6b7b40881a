"""A pool of worker processes on this machine, for bases that a core can run: ``--jobs N``.

Each process has the threads of this one (one, on the synthetic base), so that results are the same
bytes for every number of processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType, TracebackType

import torch

from harness.artifacts.environment import cores
from harness.errors import UserError
from harness.models.base_cards import find_base
from harness.pipeline.executors import worker
from harness.pipeline.executors.worker import Job
from harness.pipeline.tasks import Task
from harness.study.reference import StudyReference
from harness.study.study import Study
from harness.training.placement import DEFAULT_PLACEMENT, Placement

MEMORY_A_JOB = 1.0
"""GiB that a process with the synthetic base takes at most (measured: 0.8)."""


def default_jobs(study: Study) -> int:
    """As many processes as cores and memory allow, on a CPU with synthetic bases; else one, which
    uses the whole device."""
    if torch.cuda.is_available():
        return 1
    if any(find_base(run.base).prompts != "synthetic" for run in study.answering):
        return 1
    return max(1, min(cores(), int(_free_memory() / MEMORY_A_JOB)))


def _free_memory() -> float:
    """GiB of main memory that are free, or that the container allows."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 2**10
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free / 2**30


def check_jobs(jobs: int | None, on: str | None = None, ranks: int = 1) -> None:
    """Check ``--jobs`` beside ``--on`` and the number of torchrun's processes; None: not given.

    Raises:
        UserError: so many processes make no sense here.
    """
    if jobs is None:
        return
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be at least 1.")
    if jobs > 1 and (on or ranks > 1):
        raise UserError("--jobs is for one machine; leave it out under torchrun and --on ray.")
    if jobs > 1 and torch.cuda.is_available():
        raise UserError(
            "--jobs is for processors; one process uses a whole GPU. Leave it out, or use several"
            " GPUs with: torchrun --nproc_per_node N -m harness run ..."
        )


class LocalProcesses:
    """The workers, as a context manager. Processes start with the first shard. On an error or
    Ctrl-C they are ended at once."""

    loads_are_dear = False
    only_models = False

    def __init__(
        self, study: StudyReference, out: Path, jobs: int, placement: Placement = DEFAULT_PLACEMENT
    ) -> None:
        self.places = jobs
        self._study, self._out, self._placement = study, out, placement
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> LocalProcesses:
        # A server imports the heavy modules once; each worker is forked from it.
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload([worker.__name__, "harness.training.trainer"])
        self._pool = ProcessPoolExecutor(self.places, mp_context=server, initializer=worker.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()

    @cached_property
    def _job(self) -> Job:
        """Made with the first shard: by then the run has set torch's threads."""
        out, threads = self._out.absolute(), torch.get_num_threads()
        return Job(study=self._study, out=out, placement=self._placement, threads=threads)

    def submit(self, task: Task, shards: Sequence[int]) -> Future[UserError | None]:
        # This call may start a process, which would first run the user's script, and so the whole
        # study, where the script has no ``if __name__ == "__main__"``.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return self._pool.submit(worker.write_shards, self._job, task, shards)
        finally:
            sys.modules["__main__"] = main
