"""Tensors kept by key, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from torch import Tensor

K = TypeVar("K", bound=Hashable)


class Lru(Generic[K]):
    """Tensors by key, at most ``limit`` bytes of them, the least recently used forgotten first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.kept: OrderedDict[K, Tensor] = OrderedDict()

    def get(self, key: K) -> Tensor | None:
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def put(self, key: K, value: Tensor) -> None:
        if key not in self.kept:
            self.used += value.nbytes
        self.kept[key] = value
        while self.used > self.limit:
            self.used -= self.kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self.kept.clear()
        self.used = 0
