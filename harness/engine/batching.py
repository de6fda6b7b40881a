"""Batches: windows of images, length-sorted chunks, and halving on memory exhaustion."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate, takewhile
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def windows(groups: Sequence[Hashable], limit: int) -> Iterator[list[int]]:
    """Indices in runs that hold at most ``limit`` distinct groups, each group whole, in order of
    first appearance."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    runs = list(members.values())
    for start in range(0, len(runs), max(1, limit)):
        yield [index for run in runs[start : start + max(1, limit)] for index in run]


class Batches:
    """Runs work in batches of ``size`` rows and ``memory`` bytes at most (None: any number); when
    memory runs out all the same, the size is halved, for good, and the work goes on."""

    def __init__(self, size: int, memory: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1.")
        self.size, self.memory = size, memory

    def run(
        self,
        work: Sequence[T],
        call: Callable[[Sequence[T]], Sequence[R]],
        alike: Callable[[T], Hashable],
        *,
        rows: int = 1,
        takes: Callable[[T], float] = lambda _: 0.0,
    ) -> list[R]:
        """The results of ``call`` over consecutive batches, in order; a single piece that does not
        fit raises.

        Only neighbours of which ``alike`` says the same share a batch. A piece becomes ``rows``
        rows and ``takes`` so many bytes."""
        results: list[R] = []
        while len(results) < len(work):
            rest = work[len(results) : len(results) + max(1, self.size // rows)]
            first, memory = alike(rest[0]), math.inf if self.memory is None else self.memory
            held = list(accumulate(takes(piece) for piece in rest))
            fits = (
                alike(piece) == first and (place == 0 or held[place] <= memory)
                for place, piece in enumerate(rest)
            )
            batch = [
                piece for piece, _ in takewhile(lambda one: one[1], zip(rest, fits, strict=True))
            ]
            done = attempt(batch, call)
            if done is None:
                # Outside the except block: only now are the failed call's frames, and their
                # tensors, gone.
                self.size = max(1, len(batch) // 2 * rows)
                gc.collect()
                torch.cuda.empty_cache()
            else:
                results.extend(done)
        return results


def attempt(batch: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> Sequence[R] | None:
    """The call's results, or None where memory ran out and the batch can still be split."""
    try:
        return call(batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if len(batch) == 1 or not out_of_memory(error):
            raise
    return None


def spare(device: torch.device) -> int | None:
    """Bytes that an accelerator has left for us; None on the CPU, where other bounds are set."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return 2**34  # no common way to ask
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """The device's error class, or a message of what has none: the CPU's allocator, CUDA outside of
    torch's, cuBLAS."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY
    )
