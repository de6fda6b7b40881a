"""How a training is laid on the machine: what fits, and how. Nothing here is part of a result's
identity but the optimiser.

Pairs at once, recomputed activations and weights sharded over processes change a result by rounding
alone. The 8-bit optimiser (Dettmers et al., arXiv 2110.02861) computes other weights: it stands in
the training's identity where it is asked for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import Parameter

from harness.engine.batching import spare
from harness.errors import UserError
from harness.models.find_family import family_of
from harness.training.memory import GIB, Load, Need, need, shape_of
from harness.training.pair_batches import EncodedPair
from harness.training.ranks import Ranks

SPARE = 1.5 * GIB
"""What a device's context, its libraries' workspaces and fragmentation take."""

Optimizer = Literal["adamw", "adamw8bit"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What was asked for; None is decided by what fits (:func:`fit`).

    ``device_batch`` pairs go through the model at once. ``checkpointing`` computes activations anew
    in the backward pass instead of keeping them. ``sharded`` spreads weights, gradients and
    optimiser over the team's processes (FSDP2); of a training of adapters the frozen weights.
    ``memory`` (bytes a device) stands in for what the device says. ``rehearse`` tries the longest
    batch before the schedule starts. ``log_to`` names trackers (harness/training/loggers.py); the
    name "" stands for TensorBoard's files where it is installed."""

    device_batch: int = 8
    checkpointing: bool | None = None
    sharded: bool | None = None
    optimizer: Optimizer = "adamw"
    memory: int | None = None
    rehearse: bool | None = None
    log_to: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if self.device_batch < 1:
            raise UserError(f"device_batch is {self.device_batch}; it must be at least 1.")


AS_FITS = Placement()


def estimate(
    model: Any,
    trained: Mapping[str, Parameter],
    longest: Sequence[EncodedPair],
    *,
    sides: int,
    checkpointing: bool,
    processes: int = 1,
    optimizer: Optimizer = "adamw",
) -> Need:
    """What training needs with ``longest``, the longest batch that meets the model at once
    (harness/training/memory.py).

    ``processes``: over how many the trained part is sharded. Adapters are taken to sit on every
    linear map of the layers."""
    drops = any(
        "lora_dropout" in name and getattr(module, "p", 0) > 0
        for name, module in model.named_modules()
    )
    load = Load(
        trained=sum(parameter.numel() for parameter in trained.values()),
        frozen=sum(
            parameter.numel() for parameter in model.parameters() if not parameter.requires_grad
        ),
        value=4 if model.dtype == torch.float32 else 2,
        rank=max(
            (parameter.shape[0] for name, parameter in trained.items() if "lora_A" in name),
            default=0,
        ),
        dropout=drops,
        rows=len(longest),
        length=max(one.length for one in longest),
        words=len(longest)
        * sides
        * max(max(len(one.chosen), len(one.rejected)) for one in longest),
        checkpointing=checkpointing,
        processes=processes,
        moments={"adamw": 8, "adamw8bit": 2}[optimizer],
    )
    tower = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if re.match(family_of(model).tower, name)
    )
    return need(replace(shape_of(model), tower=tower), load)


def measured(asked: Placement, model: Any, ranks: Ranks) -> Placement:
    """What was asked for, with what the team's smallest device has left as its ``memory``:
    processes that decided by their own would lay out one training in several ways, and wait for
    each other for ever."""
    there = ranks.gather(asked.memory or device_memory(model))
    return replace(
        asked, memory=min((memory for memory in there if memory is not None), default=None)
    )


def fit(
    asked: Placement,
    model: Any,
    trained: Mapping[str, Parameter],
    pairs: Sequence[EncodedPair],
    *,
    sides: int,
    processes: int,
    adapted: bool,
) -> Placement:
    """What was asked for with every None decided: the fastest way that fits the device's memory.

    In order: everything on each device; activations recomputed; weights sharded over the processes;
        fewer pairs at once. Where no
    ``memory`` is told (:func:`measured`), as on the CPU, nothing is decided by it.

    Raises:
        UserError: nothing fits (with the numbers), or what was asked for does not go together.
    """
    _check(asked, processes)
    memory = asked.memory
    if memory is None:
        return replace(
            asked,
            checkpointing=bool(asked.checkpointing),
            sharded=bool(asked.sharded),
            rehearse=bool(asked.rehearse),
        )
    may_shard = processes > 1 and asked.optimizer == "adamw"
    smallest: Need | None = None
    batch = asked.device_batch
    while batch >= 1:
        longest = sorted(pairs, key=lambda one: -one.length)[:batch]
        for sharded in (
            (False, True) if asked.sharded is None and may_shard else (bool(asked.sharded),)
        ):
            for checkpointing in (
                (False, True) if asked.checkpointing is None else (asked.checkpointing,)
            ):
                smallest = estimate(
                    model,
                    trained,
                    longest,
                    sides=sides,
                    checkpointing=checkpointing,
                    processes=processes if sharded else 1,
                    optimizer=asked.optimizer,
                )
                if smallest.total + SPARE <= memory:
                    rehearse = True if asked.rehearse is None else asked.rehearse
                    return replace(
                        asked,
                        device_batch=batch,
                        checkpointing=checkpointing,
                        sharded=sharded,
                        rehearse=rehearse,
                    )
        batch //= 2
    assert smallest is not None
    raise UserError(
        _too_large(smallest, memory, adapted, processes, max(one.length for one in pairs))
    )


def _too_large(need: Need, memory: int, adapted: bool, processes: int, length: int) -> str:
    parts = ", ".join(
        f"{name} {getattr(need, name) / GIB:.1f}"
        for name in ("weights", "gradients", "optimizer", "activations")
    )
    mends = [f"more than {processes} GPUs (torchrun --nproc_per_node N)"]
    mends = mends if adapted else ["a recipe with LoRA", *mends, "--eight-bit"]
    mends += ["shorter answers", "a smaller base"]
    return (
        f"One pair of up to {length} tokens at a time needs about {(need.total + SPARE) / GIB:.1f}"
        f" GiB a device to train ({parts}) and {memory / GIB:.1f} GiB are there; give"
        f" {', '.join(mends[:-1])} or {mends[-1]}."
    )


def _check(asked: Placement, processes: int) -> None:
    if asked.sharded and processes == 1:
        raise UserError(
            "Weights are sharded over several processes; start them with: torchrun --nproc_per_node"
            " N -m harness run ..."
        )
    check_optimizer(asked.optimizer)
    if asked.optimizer == "adamw8bit" and asked.sharded:
        raise UserError(
            "The 8-bit optimiser does not take sharded weights; leave --eight-bit out, or train on"
            " one GPU."
        )


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimiser that this machine cannot run.

    Raises:
        UserError: the 8-bit one without bitsandbytes.
    """
    if optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "The 8-bit optimiser needs bitsandbytes, which is not installed: pip install"
            " bitsandbytes, or leave --eight-bit out."
        )


def device_memory(model: Any) -> int | None:
    """Bytes of its device that the training of a model may take: what is left, and what the model
    itself holds, but not what else lies there (a scorer); None on the CPU."""
    if model.device.type != "cuda":
        return None
    left = spare(model.device)
    assert left is not None
    held: int = sum(
        tensor.nbytes
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.device.type == "cuda"
    )
    return left + held


def make_optimizer(groups: list[dict[str, Any]], optimizer: Optimizer) -> torch.optim.Optimizer:
    """AdamW with transformers' defaults (0.9, 0.999, 1e-8) and no weight decay."""
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=0.0)
    return made
