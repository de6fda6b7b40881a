"""Trainings that a team of two processes runs under torchrun and one process runs alone; the test
compares what they leave."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.training.placement import RESERVED_BYTES
from harness.training.ranks import leave, ranks
from methods.interface import Lora, Recipe
from tests.tiny_models import tiny_llava
from tests.training.cases import TARGETS, train
from tests.training.test_placement import needed

FULL = Recipe(lr=1e-3, epochs=2, global_batch=4, warmup=0.0, alignment_weight=0.5)  # 3 steps
ADAPTED = replace(FULL, lora=Lora(r=4, alpha=8, dropout=0.1), projector_lr=1e-3)


class Cut(Exception):  # noqa: N818
    """Stands for a kill."""


def cut(what: str, done: int, _total: int) -> None:
    if what == "train" and done == 2:
        raise Cut


def die(what: str, done: int, _total: int) -> None:
    """A real kill, of the second process."""
    if what == "train" and done == 2 and ranks().rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def ends(
    out: Path,
    recipe: Recipe = FULL,
    progress: Callable[[str, int, int], None] | None = None,
    **laid: Any,
) -> None:
    """A training with a checkpoint a step; what is there of it is continued."""
    train(
        out,
        recipe,
        device_batch=2,
        checkpoint_every=1,
        lora_targets=TARGETS,
        progress=progress,
        **laid,
    )


def begins(out: Path, recipe: Recipe = FULL, **laid: Any) -> None:
    """The same, cut after its second step."""
    try:
        ends(out, recipe, cut, **laid)
    except Cut:
        return
    raise AssertionError("it was not cut")


def run(out: Path) -> None:
    """Full and adapted trainings, and one of three pieces, for which two processes have no even
    share."""
    train(out / "full", FULL, device_batch=2)
    train(out / "adapted", ADAPTED, device_batch=2, lora_targets=TARGETS)
    train(out / "odd", replace(FULL, global_batch=3), device_batch=1, max_steps=3)


def run_sharded(out: Path) -> None:
    """What takes two processes: weights spread, straight through and cut; the same handed over from
    one process and to one."""
    train(out / "sharded", FULL, device_batch=2, sharded=True, checkpointing=True)
    train(
        out / "adapted_sharded",
        ADAPTED,
        device_batch=2,
        lora_targets=TARGETS,
        sharded=True,
        checkpointing=True,
    )
    train(
        out / "odd_sharded",
        replace(FULL, global_batch=3),
        device_batch=1,
        max_steps=3,
        sharded=True,
    )
    begins(out / "resumed", sharded=True)
    ends(out / "resumed", sharded=True)
    for name, recipe in (("full", FULL), ("adapted", ADAPTED)):
        for sharded in (False, True):
            ends(out / f"{name}_from_one_{sharded}", recipe, sharded=sharded)
            begins(out / f"{name}_from_two_{sharded}", recipe, sharded=sharded)
    half, _ = tiny_llava()
    train(
        out / "half_sharded",
        replace(FULL, alignment_weight=0.0),
        half.to(torch.bfloat16),
        device_batch=2,
        sharded=True,
    )
    rehearsed(out / "rehearsed")
    unlike(out / "unlike")


def unlike(out: Path) -> None:
    """The second process has room for one pair at a time, the first for anything: they lay the
    training out alike."""
    memory = int(RESERVED_BYTES) + (2**40 if ranks().is_main else needed(1, True))
    summary = train(out, FULL, device_batch=4, memory=memory, sharded=False)
    assert (summary.device_batch, summary.checkpointing) == (1, True)


def rehearsed(out: Path) -> None:
    """Every process runs out of memory in the middle of the model with more than one pair at once,
    whose weights are spread."""
    model, _ = tiny_llava()

    def small(module: Any, args: Any) -> None:
        if module.training and len(args[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.model.language_model.layers[1].register_forward_pre_hook(small)
    summary = train(out, FULL, model, device_batch=4, sharded=True, find_batch_size=True)
    hook.remove()
    assert summary.device_batch == 1


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2:] == ["killed"]:
        ends(where, progress=die if not (where / "log.jsonl").exists() else None, sharded=True)
    else:
        run(where)
        run_sharded(where)
    leave()
