"""A training that is ready to run, and the summary of one that is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.training.loop import Loop
from harness.training.pair_batches import EncodedPair
from harness.training.placement import Placement


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training used."""

    steps: int
    """Optimiser steps."""
    pairs_made: int
    pairs_used: int
    visits: int
    """Pairs, counted as often as they were trained on."""
    tokens: int
    """Answer tokens of these visits, end tokens included."""
    cut: int
    """Used pairs with an answer that was cut at the model's length."""
    seconds: float
    """Of the optimiser steps, over all pieces of a resumed training."""
    processes: int
    device_batch: int
    """Pairs in one forward pass."""
    checkpointing: bool
    sharded: bool
    optimizer: str
    trainer: str = "own"
    update_kept: float | None = None
    """The share of the update that is left in the precision of the model that answers."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is ready to run."""

    out: Path
    model: Any
    dtype: torch.dtype
    """In which the model was loaded and is saved."""
    wrapped: Any
    """peft's LoraModel around it; None for full training."""
    config: Placement
    loop: Loop
    optimizer: torch.optim.Optimizer
    steps: list[list[EncodedPair]]
    """The pairs of each optimiser step."""
    encoded: list[EncodedPair]
    """The pairs used."""
    start: Mapping[str, Tensor]
    """Some of the trained weights' values before training; empty with adapters."""

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"


def summary_of(training: Training, pairs_made: int, seconds: float, kept: float) -> TrainSummary:
    """``pairs_made``: pairs of the round; ``kept``: see ``update_kept``."""
    config, loop = training.config, training.loop
    visited = [pair for step in training.steps for pair in step]
    answers = (answer for pair in visited for answer in (pair.chosen, pair.rejected)[: loop.sides])
    return TrainSummary(
        steps=len(training.steps),
        pairs_made=pairs_made,
        pairs_used=len(training.encoded),
        visits=len(visited),
        tokens=sum(map(len, answers)),
        cut=sum(pair.cut for pair in training.encoded),
        seconds=seconds,
        processes=loop.ranks.size,
        device_batch=loop.device_batch,
        checkpointing=bool(config.checkpointing),
        sharded=loop.sharded,
        optimizer=config.optimizer,
        trainer=config.trainer,
        update_kept=kept,
    )
