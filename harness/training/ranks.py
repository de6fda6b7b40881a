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
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from harness.errors import UserError, process_name

T = TypeVar("T")

WAIT_TIMEOUT = datetime.timedelta(hours=24)
"""How long a rank waits for the others, which may be answering. torchrun notices a dead one at
once."""

START_TIMEOUT = datetime.timedelta(minutes=5)
"""How long a rank waits for the others to start."""

POLL_SECONDS = 1.0
"""Seconds after which a rank looks whether its launcher still runs."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that work together.

    ``rank`` is this process's number among ``size``, ``local`` its number on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that only one process may write."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the main rank alone; every rank waits and gets its value."""
        value = work() if self.is_main else None
        return self.gather(value)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here (through main memory, so that no accelerator is busy)."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's share: every ``size``-th item."""
        return list(items[self.rank :: self.size])

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
        """Sum each tensor over the ranks, in place; small tensors are sent together."""
        if self.size == 1:
            return
        bucket: list[torch.Tensor] = []
        for number, tensor in enumerate(tensors, start=1):
            bucket.append(tensor)
            if number == len(tensors) or sum(small.nbytes for small in bucket) >= bucket_bytes:
                flat = torch.cat([small.reshape(-1) for small in bucket])
                dist.all_reduce(flat)
                sizes = [small.numel() for small in bucket]
                for small, summed in zip(bucket, torch.split(flat, sizes), strict=True):
                    small.copy_(summed.view_as(small))
                bucket = []


SINGLE = Ranks()
"""One process that works alone."""


@cache
def ranks() -> Ranks:
    """The ranks that torchrun's environment names, joined on the first call.

    Raises:
        UserError: the environment is not torchrun's, there are more processes on this machine than
            GPUs, or another process does not start.
    """
    size = _read_number("WORLD_SIZE", 1)
    if size == 1:
        return SINGLE
    rank, local = _read_number("RANK"), _read_number("LOCAL_RANK", 0)
    gpus = torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            raise UserError(
                f"torchrun started {local + 1} or more processes on a machine of {gpus} GPUs; start"
                " one a GPU."
            )
        torch.cuda.set_device(local)
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    store = _wait_for_ranks(rank, size)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT_TIMEOUT)
    return Ranks(rank=rank, size=size, local=local)


def _read_number(name: str, default: int | None = None) -> int:
    """A number of torchrun's environment."""
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal() or (name == "WORLD_SIZE" and text == "0"):
        raise UserError(
            f"The environment variable {name} is {text!r}; torchrun sets it to a number. Unset it,"
            " or start with: torchrun --nproc_per_node N -m harness run ..."
        )
    return int(text)


def _wait_for_ranks(rank: int, size: int) -> Any:
    """Wait until all ranks have started. Returns the store by which they find each other.

    Raises:
        UserError: a rank does not start within :data:`START_TIMEOUT`.
    """
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=START_TIMEOUT)))
        store.set(f"selfsight/{rank}", "here")
        store.wait([f"selfsight/{other}" for other in range(size)], START_TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Not all {size} processes started within {START_TIMEOUT.total_seconds() / 60:.0f}"
            f" minutes ({str(error).splitlines()[0]}); end what is left of them, and run torchrun"
            " again."
        ) from error
    store.set_timeout(WAIT_TIMEOUT)
    return store


def _end_with_launcher(launcher: int) -> None:
    """End this process when torchrun dies: the ranks would wait for each other for a day."""
    while os.getppid() == launcher:
        time.sleep(POLL_SECONDS)
    print(
        f"{process_name()}: torchrun, which started this process, has ended; everything finished"
        " is kept; run the same command again to continue.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def leave() -> None:
    """Leave the process group in order, at the end of the process."""
    if dist.is_initialized():
        dist.destroy_process_group()
