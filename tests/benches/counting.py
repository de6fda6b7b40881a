"""Memory, FLOPs and misplaced tensors of code that runs on an accelerator, counted without one.

Fake tensors (``torch._subclasses.FakeTensorMode``) have shapes, types and devices, but no content.
Every storage made on the pretended accelerator is added up while it lives, every operation's FLOPs
by torch's own formulas, and an operation that meets tensors of two devices raises, as it would on a
GPU. What is counted is what the program asks for: workspaces inside kernels and the allocator's
fragmentation come on top.

The accelerator is torch's place for a backend written in Python, named ``pretend``, because fake
CUDA tensors need a build of torch with CUDA to go backward. Attention is the memory-efficient
kernel that CUDA takes for an additive mask, and autocast casts what CUDA's does among the
operations that the models here use (a test holds both to the real ones, on the CPU)."""

# mypy: allow-untyped-calls

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

ACCELERATOR = "pretend"
LOWERED = ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention")
_KEPT: list[torch.library.Library] = []
_copies: Any = WeakIdKeyDictionary()


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@cache
def accelerator() -> str:
    """The name of the pretended accelerator, registered once in a process."""
    _setup_privateuseone_for_python_backend(ACCELERATOR, _Backend())
    others, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in LOWERED:
        aten.impl(name, _lowered(getattr(torch.ops.aten, name)), "AutocastPrivateUse1")
    aten.impl("scaled_dot_product_attention", _attention, "AutogradPrivateUse1")
    _KEPT.extend([others, aten])  # they are undone when they are collected
    return ACCELERATOR


def _lowered(operation: Any) -> Callable[..., Any]:
    """An operation as autocast has it: float32 arguments in bfloat16, a trained weight's copy kept
    until autocast ends."""

    kinds: Any = torch._C.DispatchKey
    keys = torch._C.DispatchKeySet(kinds.AutocastPrivateUse1)

    def cast(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.dtype == torch.float32):
            return value
        if not (value.is_leaf and value.requires_grad and torch.is_autocast_cache_enabled()):
            return value.to(torch.bfloat16)
        if value not in _copies:
            _copies[value] = value.to(torch.bfloat16)
        return _copies[value]

    def run(*given: Any, **named: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operation(
                *map(cast, given), **{name: cast(value) for name, value in named.items()}
            )

    return run


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As CUDA does it: a mask whose rows are not aligned to 8 is copied into one that is, then the
    memory-efficient kernel."""
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if attn_mask is not None:
        length = attn_mask.shape[-1]
        if any(
            stride % 8
            for stride, size in zip(attn_mask.stride()[:-1], attn_mask.shape[:-1], strict=True)
            if size > 1
        ):
            attn_mask = torch.nn.functional.pad(attn_mask, (0, 8 - length % 8))[..., :length]
        attn_mask = attn_mask.expand(*query.shape[:2], query.shape[2], length)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    needs = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    return kernel(query, key, value, attn_mask, needs, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class Count:
    """Bytes that live on the accelerator, their peak so far, and what was sent to it from main
    memory (bytes, times)."""

    now: int = 0
    peak: int = 0
    sent: int = 0
    transfers: int = 0
    flops: int = 0


class _Fake(FakeTensorMode):
    avoid_device_init = True
    """Never run anything on the accelerator, not even for constants: there is none."""


class _Storages(TorchDispatchMode):
    """Adds up the storages on the accelerator that an operation brings up, and takes them off when
    they go."""

    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count, self.known = count, WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (flops := flop_registry.get(func._overloadpacket)) is not None:
            self.count.flops += flops(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor) and tensor.device.type == ACCELERATOR:
                self.saw(tensor)
        if (
            func is torch.ops.aten._to_copy.default
            and out.device.type == ACCELERATOR != args[0].device.type
        ):
            self.count.sent += out.nbytes
            self.count.transfers += 1
        return out

    def saw(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known[storage] = size
        weakref.finalize(storage, self.gone, size)
        self.count.now += size
        self.count.peak = max(self.count.peak, self.count.now)

    def gone(self, size: int) -> None:
        self.count.now -= size


class _Answers(TorchFunctionMode):
    """Numbers read from fake tensors: a half each, which is all that a step's bookkeeping needs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("tolist", "item", "__float__", "__bool__", "__int__") and isinstance(
            args[0], FakeTensor
        ):
            value: Any = 0.5
            for size in reversed(args[0].shape):
                value = [value] * size
            return {"__bool__": bool, "__int__": int}.get(name, lambda one: one)(value)
        return func(*args, **(kwargs or {}))


def _converted(module: Any, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """``Module._apply`` for fake tensors, which the real one cannot swap: parameters are replaced
    (tied ones come apart)."""
    for child in module.children() if recurse else ():
        child._apply(convert)
    for name, one in module._parameters.items():
        if one is not None:
            module._parameters[name] = torch.nn.Parameter(
                convert(one.detach()), requires_grad=one.requires_grad
            )
    for name, one in module._buffers.items():
        if one is not None:
            module._buffers[name] = convert(one)
    return module


@contextmanager
def counted() -> Iterator[Count]:
    """Everything inside works with fake tensors; build a model and move it to ``accelerator()``."""
    accelerator()
    count = Count()
    with (
        patch.object(torch.nn.Module, "_apply", _converted),
        patch.object(torch, "clear_autocast_cache", _copies.clear),
        _Fake(),
        _Storages(count),
        _Answers(),
    ):
        yield count
