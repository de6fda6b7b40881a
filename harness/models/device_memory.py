"""A device's free memory, and how to tell that it ran out. Used by the engine and by training."""

from __future__ import annotations

import gc

import torch

OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of RuntimeError messages: the CPU allocator, CUDA outside of torch's allocator, cuBLAS."""


def free_memory(device: torch.device) -> int | None:
    """Free bytes of an accelerator, with those that torch holds and does not use. None on the CPU,
    where other limits are set."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return 2**34  # torch has no common call for other accelerators
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, by its class or by its message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY
    )


def release_memory() -> None:
    """Return unused memory to the device. Call it outside of an ``except`` block: only then are
    the failed call's frames, and their tensors, gone."""
    gc.collect()
    torch.cuda.empty_cache()
