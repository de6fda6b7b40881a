"""Several processes on one study: who this one is, and waiting for the others. Files carry
everything else.

    torchrun --nproc_per_node 4 -m harness run compare

starts one process a GPU (or, without GPUs, processes that talk through gloo); on several machines
torchrun's ``--nnodes`` and
``--rdzv-endpoint`` do, with the results on a file system that all of them see. Alone, a process is
a team of one and nothing here does anything. A process that dies takes its team with it (torchrun
ends the others); the same command continues."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

from harness.errors import UserError

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=24)
"""How long a process waits for the others: they may be answering. A dead one is noticed at once, by
torchrun."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that work together; ``rank`` is this one's number among ``size``, ``local`` its
    number on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def merges(self) -> bool:
        """Whether this process puts the shards of a stage together."""
        return self.first

    def once(self, work: Callable[[], None]) -> None:
        """Let one process do what is done once; the others wait for it."""
        if self.first:
            work()
        self.barrier()

    def barrier(self) -> None:
        """Wait until every process is here (through main memory: no accelerator is kept busy by
        waiting)."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def share(self, things: Sequence[T]) -> list[T]:
        """This process's share: every ``size``-th thing."""
        return list(things[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def sum_of(self, number: int) -> int:
        """Every process's number, added up."""
        return sum(self.gather(number))

    def sum(self, tensors: Sequence[torch.Tensor], bucket_bytes: int = 2**26) -> None:
        """Add each tensor up over the processes, in place; small ones travel together."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for number, tensor in enumerate(tensors, start=1):
            bucket.append(tensor)
            if number == len(tensors) or sum(one.nbytes for one in bucket) >= bucket_bytes:
                flat = torch.cat([one.reshape(-1) for one in bucket])
                dist.all_reduce(flat)
                for one, piece in zip(
                    bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True
                ):
                    one.copy_(piece.view_as(one))
                bucket = []


ALONE = Team()


@dataclass(frozen=True, kw_only=True)
class Part(Team):
    """A part of a stage's shards for a process that the others do not wait for
    (harness/pipeline/on_ray.py): every ``size``-th from
    ``rank`` on. Rank -1 opens the stage and does no shard; putting the shards together is left to
    whoever finds all of them."""

    @property
    def first(self) -> bool:
        return self.rank < 0

    @property
    def merges(self) -> bool:
        return False

    def barrier(self) -> None:
        return

    def share(self, things: Sequence[T]) -> list[T]:
        return [] if self.first else super().share(things)

    def gather(self, value: T) -> list[T]:
        return [value]


class Enough(Exception):  # noqa: N818
    """This process's part of a stage is done; putting the parts together is another's."""


_acting: list[Team] = []


@contextmanager
def acting(as_team: Team) -> Iterator[None]:
    """Within it :func:`team` is ``as_team``, whatever the environment says."""
    _acting.append(as_team)
    try:
        yield
    finally:
        _acting.pop()


def team() -> Team:
    """This process's team."""
    return _acting[-1] if _acting else _joined()


@cache
def _joined() -> Team:
    """The team that torchrun's environment names, joined on the first call.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            raise UserError(
                f"torchrun started {local + 1} or more processes on a machine of {gpus} GPUs; start"
                " one a GPU."
            )
        torch.cuda.set_device(local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", rank=rank, world_size=size, timeout=PATIENCE
    )
    return Team(rank=rank, size=size, local=local)


def leave() -> None:
    """Part from the team in order, at the end of the process."""
    if dist.is_initialized():
        dist.destroy_process_group()
