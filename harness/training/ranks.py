"""The processes that torchrun started for one study: this one's rank, and waiting for the others.

    torchrun --nproc_per_node 4 -m harness run compare

starts one process a GPU, or processes that talk through gloo where there is no GPU. On several
machines use torchrun's ``--nnodes`` and ``--rdzv-endpoint``, with the results on a file system
that all of them see. Files carry everything but gradients. Without torchrun there is one rank, and
nothing here does anything. When a process dies, torchrun ends the others; the same command
continues."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist

from harness.errors import UserError

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=24)
"""How long a rank waits for the others, which may be answering. torchrun notices a dead one at
once."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that work together.

    ``rank`` is this process's number among ``size``, ``local`` its number on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the main rank alone; every rank waits and gets its value."""
        value = work() if self.is_main else None
        return self.gather(value)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here (through main memory, so that no accelerator is busy)."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def share(self, things: Sequence[T]) -> list[T]:
        """This rank's share: every ``size``-th thing."""
        return list(things[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def sum_of(self, number: int) -> int:
        """The sum of every rank's number."""
        return sum(self.gather(number))

    def sum(self, tensors: Sequence[torch.Tensor], bucket_bytes: int = 2**26) -> None:
        """Add each tensor up over the ranks, in place; small ones travel together."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for number, tensor in enumerate(tensors, start=1):
            bucket.append(tensor)
            if number == len(tensors) or sum(part.nbytes for part in bucket) >= bucket_bytes:
                flat = torch.cat([part.reshape(-1) for part in bucket])
                dist.all_reduce(flat)
                sizes = [part.numel() for part in bucket]
                for part, summed in zip(bucket, torch.split(flat, sizes), strict=True):
                    part.copy_(summed.view_as(part))
                bucket = []


SINGLE = Ranks()
"""One process that works alone."""


@cache
def ranks() -> Ranks:
    """The ranks that torchrun's environment names, joined on the first call.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SINGLE
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            raise UserError(
                f"torchrun started {local + 1} or more processes on a machine of {gpus} GPUs; start"
                " one a GPU."
            )
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    return Ranks(rank=rank, size=size, local=local)


def leave() -> None:
    """Leave the process group in order, at the end of the process."""
    if dist.is_initialized():
        dist.destroy_process_group()
