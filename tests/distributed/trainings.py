"""Trainings that a team of two processes runs under torchrun and one process runs alone; the test compares what they leave."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.distributed import leave, team
from methods.interface import Lora, Recipe
from tests.training.cases import TARGETS, train

FULL = Recipe(lr=1e-3, epochs=2, global_batch=4, warmup=0.0, anchor_weight=0.5)  # 3 steps
ADAPTED = replace(FULL, lora=Lora(r=4, alpha=8, dropout=0.1), projector_lr=1e-3)


class Cut(Exception):  # noqa: N818
    """Stands for a kill."""


def cut(what: str, done: int, _total: int) -> None:
    if what == "train" and done == 2:
        raise Cut


def run(out: Path, sharded: bool) -> None:
    """Full and adapted trainings; with ``sharded`` the full one again with its weights spread, straight through and cut."""
    train(out / "full", FULL, device_batch=2)
    train(out / "adapted", ADAPTED, device_batch=2, lora_targets=TARGETS)
    odd: dict[str, Any] = {"device_batch": 1, "max_steps": 3}
    train(out / "odd", replace(FULL, global_batch=3), **odd)  # three pieces for two processes: one goes along for nothing
    if sharded:
        train(out / "sharded", FULL, device_batch=2, sharded=True, checkpointing=True)
        train(out / "odd_sharded", replace(FULL, global_batch=3), sharded=True, **odd)
        try:
            train(out / "resumed", FULL, device_batch=2, sharded=True, checkpoint_every=1, progress=cut)
        except Cut:
            train(out / "resumed", FULL, device_batch=2, sharded=True, checkpoint_every=1)


if __name__ == "__main__":
    run(Path(sys.argv[1]), team().size > 1)
    leave()
