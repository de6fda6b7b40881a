"""Batches: windows of pictures, length-sorted chunks, and halving on memory exhaustion."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import takewhile
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def windows(groups: Sequence[Hashable], limit: int) -> Iterator[list[int]]:
    """Indices in runs that hold at most ``limit`` distinct groups, each group whole, in order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    runs = list(members.values())
    for start in range(0, len(runs), max(1, limit)):
        yield [index for run in runs[start : start + max(1, limit)] for index in run]


class Batches:
    """Runs work in batches of ``size``; when memory runs out the size is halved, for good, and the work goes on."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1.")
        self.size = size

    def run(self, work: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]], alike: Callable[[T], Hashable]) -> list[R]:
        """The results of ``call`` over consecutive batches, in order; a single piece that does not fit raises.

        Only neighbours of which ``alike`` says the same share a batch.
        """
        results: list[R] = []
        while len(results) < len(work):
            first = alike(work[len(results)])
            batch = list(takewhile(lambda piece: alike(piece) == first, work[len(results) : len(results) + self.size]))  # noqa: B023
            done = attempt(batch, call)
            if done is None:
                # Outside the except block: only now are the failed call's frames, and their tensors, gone.
                self.size = max(1, len(batch) // 2)
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


def out_of_memory(error: BaseException) -> bool:
    """The device's error class, or the CPU allocator's message (it has no class of its own)."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
