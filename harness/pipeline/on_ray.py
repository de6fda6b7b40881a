"""A study's stages on a Ray cluster: ``python -m harness run compare --on ray``, where ``ray
start`` has made one.

Every stage whose inputs are there runs at once, in parts: a part is every n-th shard of a stage, or
a whole training, as a Ray task that asks for a GPU where the cluster has any, else for a core.
Tasks speak through files alone, so the results folder, the pool and this checkout must lie on a
file system that all machines see under the same path. Ray places the tasks and does those of a dead
machine again; their finished shards and checkpoints are kept. What needs no model is done here."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.results_folder import Results
from harness.errors import NoPairs, UserError
from harness.pipeline import stages
from harness.pipeline.progress import EVERY, Display
from harness.pipeline.stages import Progress
from harness.pipeline.steps import NO_MODEL, Step, without
from harness.pipeline.workshop import Models, Workshop
from harness.training.ranks import Enough, Part, acting

ROOT = Path(__file__).resolve().parents[2]
RETRIES = 20
"""How often Ray does a task again whose machine or process has died (a mistake of the user is not
tried again)."""
PARTS_A_SLOT = 2
"""Parts of a stage for each core in the cluster: the last ones even out. A GPU has one part, as
each loads the model anew."""


@dataclass(frozen=True)
class Slots:
    """How many tasks the cluster does at once, and the GPUs that each asks for."""

    count: int
    gpus: int


@contextmanager
def cluster() -> Iterator[Slots]:
    """Join the running cluster (``RAY_ADDRESS``, or the one on this machine).

    Raises:
        UserError: Ray is not installed, or no cluster runs.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--on ray needs Ray, which is not installed: pip install ray, or leave --on ray out."
        )
    import ray

    joined = ray.is_initialized()
    try:
        if not joined:
            ray.init(
                address="auto",
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            )
    except ConnectionError:
        raise UserError(
            "No Ray cluster runs here; start one with: ray start --head, and on the other machines"
            " ray start --address=HEAD:6379."
        ) from None
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    try:
        yield Slots(count=max(1, gpus or int(there.get("CPU", 1))), gpus=1 if gpus else 0)
    finally:
        if not joined:
            ray.shutdown()


@dataclass(frozen=True)
class Elsewhere:
    """Does steps on the cluster, as :data:`harness.pipeline.runner.Do` asks. ``arguments`` are the
    command line: a task builds the study from them anew and finds its step by title."""

    slots: Slots
    arguments: tuple[str, ...]

    def __call__(
        self, steps: Sequence[Step], before: int, total: int, display: Display, results: Results
    ) -> list[str]:
        """Raises UserError as a stage does; what is running then is stopped, and its finished
        shards are kept."""
        import ray

        task = ray.remote(
            num_cpus=0 if self.slots.gpus else 1, num_gpus=self.slots.gpus, max_retries=RETRIES
        )(part)
        todo, running, ended = list(steps), dict[Any, Step](), list[str]()
        began: dict[str, float] = {}
        lines: dict[str, Progress] = {}

        def finish(step: Step) -> None:
            todo.remove(step)
            number = before + len(steps) - len(todo)
            display.done(
                number,
                total,
                step.title,
                time.monotonic() - began.get(step.title, time.monotonic()),
            )
            lines.pop(step.title, None)

        def show(step: Step) -> None:
            """The oldest running stage, by the shards of it that are there."""
            if step.kind != "train":
                number = before + len(steps) - len(todo) + 1
                if step.title not in lines:
                    lines[step.title] = display.stage(number, total, step.title)
                lines[step.title](
                    "shards",
                    sum(step.stage.shard(one).exists() for one in range(shards(step))),
                    shards(step),
                )

        while todo:
            for step in [one for one in todo if one.title not in began and ready(one, todo)]:
                began[step.title] = time.monotonic()
                if step.kind in NO_MODEL:
                    step.do(_quiet)
                    finish(step)
                elif (twin := results.finished_stage(step.stage.identity)) is not None:
                    step.stage.reuse(twin, results.out)
                    finish(step)
                else:
                    for number, of in self.parts(step):
                        running[
                            task.remote(
                                list(self.arguments), str(results.out), step.title, number, of
                            )
                        ] = step
            if not running:
                continue
            done, _ = ray.wait(list(running), num_returns=1, timeout=EVERY)
            if not done:
                show(next(iter(running.values())))
                continue
            step = running.pop(done[0])
            try:
                ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, NoPairs):
                    todo[:] = without(todo, step)
                    ended.append(str(error.cause))
                    display.say(str(error.cause))
                    continue
                if isinstance(error.cause, UserError):
                    raise UserError(str(error.cause)) from None
                raise
            if step not in running.values():
                if not step.stage.done:
                    step.do(_quiet)  # all shards are there: they are put together, without a model
                finish(step)
        return ended

    def parts(self, step: Step) -> list[tuple[int, int]]:
        """A training is one part; of another stage as many as there are places, some more so that
        the last ones even out."""
        if step.kind == "train":
            return [(0, 1)]
        with acting(Part(rank=-1)), suppress(Enough):
            step.do(_quiet)  # opens the stage
        count = min(self.slots.count * (1 if self.slots.gpus else PARTS_A_SLOT), shards(step))
        return [(number, count) for number in range(count)]


def shards(step: Step) -> int:
    """How many shards a stage's images or questions make."""
    size = stages.ITEMS_A_SHARD if step.kind == "pairs" else stages.QUESTIONS_A_SHARD
    return max(1, math.ceil((step.items or 1) / size))


def ready(step: Step, todo: Sequence[Step]) -> bool:
    """Whether a step may begin: its inputs are there and nobody before it does the very same; what
    needs no model waits for everything before it."""
    earlier = todo[: todo.index(step)]
    if step.kind in NO_MODEL:
        return not earlier
    if any(one.stage.identity == step.stage.identity for one in earlier):
        return False
    return all((folder / "DONE").exists() for folder in step.inputs)


_models: list[Models] = []


def part(arguments: list[str], out: str, title: str, number: int, of: int) -> None:
    """One task: part ``number`` of ``of`` of a stage. On cores Ray's process keeps its model for
    the next one; a task that has a GPU is its process's last, so that the GPU is free when the next
    one comes."""
    os.chdir(ROOT)
    from harness.cli.launch import placement
    from harness.cli.main import load, parser

    given = parser().parse_args(arguments)
    if not _models:
        _models.append(Models())
    shop = Workshop(load(given), Results(Path(out)), _models[0], placement(given))
    step = next(one for one in shop.runs() if one.title == title)
    if step.kind == "train":
        step.do(_quiet)
        return
    with acting(Part(rank=number, size=of)), suppress(Enough):
        step.do(_quiet)


def _quiet(_what: str, _done: int, _total: int) -> None:
    """Tasks show no progress of their own."""
