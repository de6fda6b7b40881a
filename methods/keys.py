"""Chance that comes from a key alone: the same on every machine, in every batch and order, and
after a resume."""

from __future__ import annotations

import hashlib


def number(key: str) -> int:
    """64 bits drawn from the key: the first bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def coin(key: str) -> bool:
    """A fair coin thrown by the key."""
    return number(key) % 2 == 1
