"""A bounded cache of decoded images, so that a round decodes each image once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from methods.interface import Item


class ImageCache:
    """Items with decoded images, ``max_bytes`` at most; the least recently used leaves first.

    Several threads may share it. Callers get the same image object each time and must not change
    it in place.

    Args:
        max_bytes: the bound on the pixels' total size in bytes (width x height x channels). An
            image above the bound is returned and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; it must be at least 1.")
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._lock = Lock()

    def get(self, id: str, read: Callable[[str], Item]) -> Item:
        """The item of this id: the kept one, or ``read(id)``. Errors of ``read`` are not kept."""
        with self._lock:
            if id in self._items:
                self._items.move_to_end(id)
                return self._items[id]
        # Decoded outside the lock, so that threads decode in parallel.
        item = read(id)
        with self._lock:
            if id not in self._items and image_bytes(item) <= self.max_bytes:
                self._items[id] = item
                self.held_bytes += image_bytes(item)
            while self.held_bytes > self.max_bytes:
                _, oldest = self._items.popitem(last=False)
                self.held_bytes -= image_bytes(oldest)
        return item


def image_bytes(item: Item) -> int:
    """The size of an item's decoded image in bytes, at one byte per channel and pixel."""
    return item.image.width * item.image.height * len(item.image.getbands())
