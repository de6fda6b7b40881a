"""What a card does a second and holds, measured; and how many of 7B's layers fit on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from harness.training.memory import GIB, SHAPES, recipe_memory
from harness.training.placement import RESERVED_BYTES
from methods.interface import Recipe
from tests.benches.gpu_work import WEIGHTS, Rates

WORKING_ROOM = 3 * GIB
"""What answering needs beside the weights: keys and values of a few images, and the context."""
LAYERS = (32, 24, 16, 12, 8, 4, 2)
"""Of 7B's language model, tried in this order."""
LAYER_BYTES = 2 * SHAPES["llava-1.5-7b"].layer


def measure(device: str) -> Rates:
    """Rates of large bfloat16 and float32 products and of copies (bytes read and written)."""
    size = 8192 if device == "cuda" else 512
    half = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    flops = 2.0 * size**3 / seconds_of(lambda: half @ half, device)
    small = size // 2
    single = torch.randn(small, small, device=device)
    flops32 = 2.0 * small**3 / seconds_of(lambda: single @ single, device)
    source = torch.empty(2**30 if device == "cuda" else 2**25, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)
    room = 0.0
    if device == "cuda":
        del half, single, source, target
        torch.cuda.empty_cache()
        room = max(0.0, torch.cuda.mem_get_info()[0] - WEIGHTS)
    return Rates(flops=flops, flops32=flops32, bytes=moved, room=room)


def seconds_of(call: Callable[[], object], device: str) -> float:
    """The mean of ten calls behind three that warm up."""
    for _ in range(3):
        call()
    wait(device)
    began = time.perf_counter()
    for _ in range(10):
        call()
    wait(device)
    return (time.perf_counter() - began) / 10


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: str) -> float | None:
    """The allocator's highest since the last call, in GiB; None on the CPU."""
    if device != "cuda":
        return None
    found = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return found


def layers_to_answer(free: float) -> int | None:
    """How many layers of 7B's language model leave room to answer; None: all of them.

    Raises:
        MemoryError: not even two.
    """
    for layers in LAYERS:
        if WEIGHTS - (32 - layers) * LAYER_BYTES + WORKING_ROOM <= free:
            return None if layers == 32 else layers
    raise MemoryError(f"{free / GIB:.1f} GiB are free; two of 7B's layers do not fit.")


def layers_to_train(free: float, recipe: Recipe, beside: float = 0.0) -> int | None:
    """The same for a training of one pair at a time with activations computed anew, beside other
    weights that take the share ``beside`` of it.

    Raises:
        MemoryError: not even two.
    """
    whole = SHAPES["llava-1.5-7b"]
    for layers in LAYERS:
        shape = replace(whole, layers=layers)
        need = recipe_memory(shape, recipe, 2, rows=1, prompt=620, side=200)
        if need.total * (1 + beside) + RESERVED_BYTES <= free:
            return None if layers == 32 else layers
    raise MemoryError(f"{free / GIB:.1f} GiB are free; a training of two layers does not fit.")


def free_bytes() -> float:
    """Bytes that the card has left."""
    return float(torch.cuda.mem_get_info()[0])
