"""Batching: windows of images, batches bounded in rows and bytes, and halving when memory runs
out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import torch

from harness.models.device_memory import out_of_memory, release_memory

T = TypeVar("T")
R = TypeVar("R")


def windows(groups: Sequence[Hashable], limit: int) -> Iterator[list[int]]:
    """Split indices into windows of at most ``limit`` distinct groups. A group is never split;
    groups keep the order of their first index."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    grouped, size = list(members.values()), max(1, limit)
    for start in range(0, len(grouped), size):
        yield [index for run in grouped[start : start + size] for index in run]


class Batches:
    """Runs work in batches of at most ``size`` rows and ``memory`` bytes (None: no limit).

    When a batch runs out of memory, ``size`` is halved for good and the work continues."""

    def __init__(self, size: int, memory: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1.")
        self.size, self.memory = size, memory

    def run(
        self,
        work: Sequence[T],
        call: Callable[[Sequence[T]], Sequence[R]],
        batch_key: Callable[[T], Hashable],
        *,
        rows: int = 1,
        cache_bytes: Callable[[T], float] = lambda _: 0.0,
    ) -> list[R]:
        """The results of ``call`` over consecutive batches, in the order of ``work``.

        A batch holds neighbours with equal ``batch_key`` only. Each item takes ``rows`` rows and
        ``cache_bytes(item)`` bytes. Raises the memory error if a single item does not fit."""
        results: list[R] = []
        while len(results) < len(work):
            items = work[len(results) : len(results) + max(1, self.size // rows)]
            key, limit = batch_key(items[0]), math.inf if self.memory is None else self.memory
            totals = list(accumulate(map(cache_bytes, items)))
            count = 1
            while count < len(items) and batch_key(items[count]) == key and totals[count] <= limit:
                count += 1
            batch_results = try_batch(items[:count], call)
            if batch_results is None:
                self.size = max(1, count // 2 * rows)
                release_memory()
            else:
                results.extend(batch_results)
        return results


def try_batch(batch: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> Sequence[R] | None:
    """The results of ``call``, or None if memory ran out and the batch can be split."""
    try:
        return call(batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if len(batch) == 1 or not out_of_memory(error):
            raise
    return None
