"""A pool of workers on a Ray cluster: ``python -m harness run compare --on ray``, where ``ray
start`` has made one.

A call asks for a GPU where the cluster has any, else for a core. The results folder, the pool and
this checkout lie on a file system that all machines see under the same path. Ray places the calls,
and repeats those of a dead machine; finished shards and checkpoints are kept. Tasks without a model
are done in the process that was started."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.pipeline.executors.worker import Job, write_shards
from harness.pipeline.tasks import Task
from harness.study.reference import StudyReference
from harness.training.placement import DEFAULT_PLACEMENT, Placement

ROOT = Path(__file__).resolve().parents[3]

RETRIES = 20
"""How often Ray repeats a call whose machine or process died. A user's mistake is not tried
again."""


@dataclass(frozen=True)
class RayWorkers:
    """The cluster's workers. On cores Ray's process keeps its model for the next call. A call that
    has a GPU is its process's last, so that the GPU is free for the next one."""

    job: Job
    places: int
    gpus: int
    """GPUs that each call asks for."""
    only_models: bool = True

    @property
    def loads_are_dear(self) -> bool:
        return bool(self.gpus)

    def submit(self, task: Task, shards: Sequence[int]) -> Future[UserError | None]:
        import ray

        cpus = 0 if self.gpus else 1
        call = ray.remote(num_cpus=cpus, num_gpus=self.gpus, max_retries=RETRIES)(write_shards)
        future: Future[UserError | None] = call.remote(self.job, task, shards).future()
        return future


def check_installed() -> None:
    """
    Raises:
        UserError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--on ray needs Ray, which is not installed: pip install ray, or leave --on ray out."
        )


@contextmanager
def cluster(
    study: StudyReference, out: Path, placement: Placement = DEFAULT_PLACEMENT
) -> Iterator[RayWorkers]:
    """Join the running cluster (``RAY_ADDRESS``, or the one on this machine).

    Raises:
        UserError: Ray is not installed, or no cluster runs.
    """
    check_installed()
    import ray

    joined = ray.is_initialized()
    try:
        if not joined:
            environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            ray.init(address="auto", log_to_driver=False, runtime_env=environment)
    except ConnectionError:
        raise UserError(
            "No Ray cluster runs here; start one with: ray start --head, and on the other machines"
            " ray start --address=HEAD:6379."
        ) from None
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    threads = None if gpus else 1  # a call has one core
    job = Job(study=study, out=out.absolute(), placement=placement, threads=threads)
    try:
        places = max(1, gpus or int(resources.get("CPU", 1)))
        yield RayWorkers(job, places=places, gpus=1 if gpus else 0)
    finally:
        if not joined:
            ray.shutdown()
