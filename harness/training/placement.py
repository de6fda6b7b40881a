"""How training uses the machine: batch size, checkpointing, sharding, optimiser.

Except for the optimiser and the trainer, these choices change results only by rounding, so they are
not part of the training's identity. The 8-bit optimiser (Dettmers et al., arXiv 2110.02861) gives
other weights, so its name is part of the identity. So is trl, which is there to be compared."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch.nn import Parameter

from harness.errors import RowEnded, UserError
from harness.models.device_memory import free_memory
from harness.models.find_family import family_of
from harness.training.memory import GIB, MemoryEstimate, Workload, estimate_memory, shape_of
from harness.training.pair_batches import EncodedPair
from harness.training.ranks import Ranks

RESERVED_BYTES = 1.5 * GIB
"""Bytes of a device kept free for its context, library workspaces and fragmentation."""

Optimizer = Literal["adamw", "adamw8bit"]
Trainer = Literal["own", "trl"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The user's choices; :func:`fit` replaces every None by a value that fits in memory."""

    device_batch: int = 8
    """Pairs in one forward pass; halved until they fit."""
    checkpointing: bool | None = None
    """Recompute activations in the backward pass instead of keeping them."""
    sharded: bool | None = None
    """Shard weights, gradients and optimiser state over the processes (FSDP2). With adapters, only
    the frozen weights are sharded."""
    optimizer: Optimizer = "adamw"
    trainer: Trainer = "own"
    """Who takes the steps: the loop of this folder, or trl's DPOTrainer (trl_training.py)."""
    memory: int | None = None
    """Memory per device to plan for, in bytes. None: the device's own memory."""
    find_batch_size: bool | None = None
    """Before the first step, try whether the batch with the longest pairs fits."""
    log_to: tuple[str, ...] = ("",)
    """Trackers (loggers.py); "" means TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        if self.device_batch < 1:
            raise UserError(f"device_batch is {self.device_batch}; it must be at least 1.")

    @property
    def identity(self) -> dict[str, str]:
        """The choices that give other weights, where they are not the default ones."""
        choices = {"optimizer": (self.optimizer, "adamw"), "trainer": (self.trainer, "own")}
        return {name: value for name, (value, default) in choices.items() if value != default}


DEFAULT_PLACEMENT = Placement()


def estimate(
    model: Any,
    trained: Mapping[str, Parameter],
    longest: Sequence[EncodedPair],
    *,
    sides: int,
    checkpointing: bool,
    processes: int = 1,
    optimizer: Optimizer = "adamw",
) -> MemoryEstimate:
    """The memory that training needs if its largest batch is ``longest`` (memory.py).

    Weights are sharded over ``processes`` processes. Adapters are assumed on every linear layer of
    the transformer blocks."""
    dropout = any(
        "lora_dropout" in name and getattr(module, "p", 0) > 0
        for name, module in model.named_modules()
    )
    value_bytes = 4 if model.dtype == torch.float32 else 2
    # Adapters of earlier rounds are float32 on any base.
    frozen = (p.nbytes // value_bytes for p in model.parameters() if not p.requires_grad)
    ranks = (parameter.shape[0] for name, parameter in trained.items() if "lora_A" in name)
    answer = max(max(len(pair.chosen), len(pair.rejected)) for pair in longest)
    load = Workload(
        trained=sum(parameter.numel() for parameter in trained.values()),
        frozen=sum(frozen),
        value_bytes=value_bytes,
        rank=max(ranks, default=0),
        dropout=dropout,
        pairs=len(longest),
        pair_tokens=max(pair.length for pair in longest),
        answer_tokens=len(longest) * sides * answer,
        checkpointing=checkpointing,
        processes=processes,
        moment_bytes={"adamw": 8, "adamw8bit": 2}[optimizer],
    )
    tower = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if re.match(family_of(model).tower, name)
    )
    return estimate_memory(replace(shape_of(model), tower=tower), load)


def with_device_memory(placement: Placement, model: Any, ranks: Ranks) -> Placement:
    """``placement`` with the smallest memory over all processes, so that all of them make the same
    choice. Different choices would make training hang."""
    memories = [
        memory
        for memory in ranks.gather(placement.memory or device_memory(model))
        if memory is not None
    ]
    return replace(placement, memory=min(memories, default=None))


def fit(
    placement: Placement,
    model: Any,
    trained: Mapping[str, Parameter],
    pairs: Sequence[EncodedPair],
    *,
    sides: int,
    processes: int,
    adapted: bool,
) -> Placement:
    """``placement`` with every None decided: the fastest configuration that fits in its memory.

    Tried in order: everything on each device; with checkpointing; sharded; both; then the same with
    half as many pairs. If the memory is unknown, as on the CPU, every None becomes False.

    Raises:
        RowEnded: nothing fits (with the numbers).
        UserError: the choices cannot be combined.
    """
    _check_choices(placement, processes)
    if placement.memory is None:
        return replace(
            placement,
            checkpointing=bool(placement.checkpointing),
            sharded=bool(placement.sharded),
            find_batch_size=bool(placement.find_batch_size),
        )
    options = (False, True)
    may_shard = processes > 1 and placement.optimizer == "adamw"
    shardings = options if placement.sharded is None and may_shard else (bool(placement.sharded),)
    checkpointings = options if placement.checkpointing is None else (placement.checkpointing,)
    by_length = sorted(pairs, key=lambda pair: -pair.length)
    batch = placement.device_batch
    while True:
        for sharded, checkpointing in product(shardings, checkpointings):
            needed = estimate(
                model,
                trained,
                by_length[:batch],
                sides=sides,
                checkpointing=checkpointing,
                processes=processes if sharded else 1,
                optimizer=placement.optimizer,
            )
            if needed.total + RESERVED_BYTES <= placement.memory:
                return replace(
                    placement,
                    device_batch=batch,
                    checkpointing=checkpointing,
                    sharded=sharded,
                    find_batch_size=placement.find_batch_size is not False,
                )
        if batch == 1:
            raise RowEnded(
                _too_large(needed, placement.memory, adapted, processes, by_length[0].length)
            )
        batch //= 2


def _too_large(
    needed: MemoryEstimate, memory: int, adapted: bool, processes: int, length: int
) -> str:
    breakdown = ", ".join(
        f"{name} {getattr(needed, name) / GIB:.1f}"
        for name in ("weights", "gradients", "optimizer", "activations")
    )
    remedies = [f"more than {processes} GPUs (torchrun --nproc_per_node N)"]
    remedies = remedies if adapted else ["LoRA (--lora)", *remedies, "--eight-bit"]
    remedies += ["shorter answers", "a smaller base"]
    return (
        f"One pair of up to {length} tokens at a time needs about"
        f" {(needed.total + RESERVED_BYTES) / GIB:.1f} GiB per device to train ({breakdown}), but"
        f" only {memory / GIB:.1f} GiB are available; use {', '.join(remedies[:-1])} or"
        f" {remedies[-1]}."
    )


def _check_choices(placement: Placement, processes: int) -> None:
    if placement.sharded and processes == 1:
        raise UserError(
            "Sharding needs several processes; start them with: torchrun --nproc_per_node N -m"
            " harness run ..."
        )
    check_optimizer(placement.optimizer)
    if placement.optimizer == "adamw8bit" and placement.sharded:
        raise UserError(
            "The 8-bit optimiser does not work with sharded weights; leave --eight-bit out, or"
            " train on one GPU."
        )


def check_optimizer(optimizer: Optimizer) -> None:
    """Check that this machine can run the optimiser.

    Raises:
        UserError: it is the 8-bit optimiser, and bitsandbytes is not installed.
    """
    if optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "The 8-bit optimiser needs bitsandbytes, which is not installed: pip install"
            " bitsandbytes, or leave --eight-bit out."
        )


def check_trainer(placement: Placement, processes: int, cluster: str | None = None) -> None:
    """Check that trl can train as asked. ``cluster``: the cluster that runs the stages.

    Raises:
        UserError: it cannot.
    """
    if placement.trainer == "own":
        return
    if processes > 1:
        raise UserError(
            "trl trains in one process here; start without torchrun, or leave --trainer out."
        )
    if cluster is not None:
        raise UserError(
            f"Training by trl has not been tried on a {cluster.title()} cluster; leave --on or"
            " --trainer out."
        )
    if placement.optimizer != "adamw":
        raise UserError(
            "trl trains with AdamW in 32 bits here; leave --eight-bit or --trainer out."
        )


def device_memory(model: Any) -> int | None:
    """Bytes available for training on the model's device: the free memory plus the memory of the
    model itself. None on the CPU."""
    if model.device.type != "cuda":
        return None
    model_bytes: int = sum(
        tensor.nbytes
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.device.type == "cuda"
    )
    return (free_memory(model.device) or 0) + model_bytes


def make_optimizer(groups: list[dict[str, Any]], optimizer: Optimizer) -> torch.optim.Optimizer:
    """AdamW with transformers' defaults (betas 0.9 and 0.999, epsilon 1e-8) and no weight decay."""
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    from bitsandbytes.optim import AdamW8bit  # optional

    eight_bit: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=0.0)
    return eight_bit
