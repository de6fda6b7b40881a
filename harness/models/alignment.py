"""Tensors at addresses where torch's own allocator would put them.

On the CPU, matrix products choose their code by the address, and the codes round differently.
Tensors read from a file lie where the file's header ends, so a saved and loaded model would give
other bits than the model in memory. The functions copy such tensors.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Torch's CPU allocator aligns every tensor to this many bytes."""


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where its address on the CPU is not aligned."""
    if tensor.device.type != "cpu" or tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone()


def align(model: torch.nn.Module) -> None:
    """Apply :func:`aligned` to every parameter and buffer, in place; tied tensors stay tied."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        before = tensor.data
        if (after := aligned(before)) is not before:
            # Two parameters may be views of one memory.
            memory = (before.data_ptr(), before.dtype, before.shape, before.stride())
            tensor.data = copies.setdefault(memory, after)
