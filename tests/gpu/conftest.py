"""The device of these tests, exact float32 products, and the allocator that they watch."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def device() -> str:
    """cuda; or cpu where it is asked for by GPU_TESTS_DEVICE."""
    asked = os.environ.get("GPU_TESTS_DEVICE", "cuda")
    if asked == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; GPU_TESTS_DEVICE=cpu rehearses on the CPU")
    return "cuda"


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products in float32: by default CUDA's convolutions round to TF32."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch renames these switches
        before = [backend.allow_tf32 for backend in backends]
        for backend in backends:
            backend.allow_tf32 = False
        yield
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


class Allocator:
    """CUDA's caching allocator: what is held, the highest mark, a limit. 0 on the CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.clear()

    def clear(self) -> None:
        """Forget the highest mark and give back what is cached."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    @property
    def now(self) -> int:
        return torch.cuda.memory_allocated() if self.cuda else 0

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else 0

    @property
    def reserved(self) -> int:
        return torch.cuda.memory_reserved() if self.cuda else 0

    @property
    def peak_reserved(self) -> int:
        return torch.cuda.max_memory_reserved() if self.cuda else 0

    def limit(self, allowed: int | None) -> None:
        """Let this process hold no more than so many bytes; None: as much as there is."""
        if self.cuda:
            total = torch.cuda.get_device_properties(0).total_memory
            share = 1.0 if allowed is None else min(1.0, allowed / total)
            torch.cuda.set_per_process_memory_fraction(share)

    def needed(self) -> None:
        """End a rehearsal here: what follows are claims about CUDA's allocator."""
        if not self.cuda:
            pytest.skip("rehearsed on the CPU; its claim is about CUDA's allocator")


@pytest.fixture
def allocator(device: str) -> Iterator[Allocator]:
    found = Allocator(device)
    yield found
    found.limit(None)
    found.clear()
