"""Randomness drawn from keys: the same on every machine, in every batch and order, and after a
resume."""

from __future__ import annotations

import hashlib


def key_hash(key: str) -> int:
    """64 bits drawn from the key: the first eight bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def torch_seed(key: str) -> int:
    """A 63-bit seed for ``torch.Generator``."""
    return key_hash(key) >> 1


def coin_flip(key: str) -> bool:
    """True for half of all keys."""
    return key_hash(key) % 2 == 1
