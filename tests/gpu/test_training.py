"""Training on CUDA: where DPO starts, recomputed activations, and a training that was killed.

CUDA adds gradients up in no fixed order, so weights are compared by how far they are apart, as a
share of how far training moved them; on the CPU that is 0.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from methods.interface import Lora, Recipe
from tests.gpu.killed import RECIPE, STEPS_ALIVE
from tests.tiny_models import tiny_llava
from tests.training.cases import TARGETS, saved, train

pytestmark = pytest.mark.gpu

NEAR = 0.02
"""Of the way that training took: rounding, blown up by Adam where a gradient is nearly 0."""
PATIENCE = 180
"""Seconds in which a fresh process must have come to its third step."""


def apart(folder: Path, first: str, second: str) -> float:
    """The distance of two trained models as a share of the first one's way from the start."""
    tiny_llava()[0].save_pretrained(folder / "start" / "model")
    begun, one, two = (saved(folder / name) for name in ("start", first, second))
    assert begun.keys() == one.keys() == two.keys()
    between = sum(float((one[name] - two[name]).square().sum()) for name in one)
    way = sum(float((one[name] - begun[name]).square().sum()) for name in one)
    assert way > 0
    return float((between / way) ** 0.5)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_dpo_starts_at_ln_2(tmp_path: Path, device: str, half: bool, record_property: Any) -> None:
    model = tiny_llava()[0].to(device)
    recipe = replace(RECIPE, epochs=4, global_batch=6, alignment_weight=0.0)
    train(tmp_path, recipe, model.bfloat16() if half else model)
    rows = log(tmp_path)
    record_property("first loss less ln 2", rows[0]["dpo"] - math.log(2))
    assert rows[0]["dpo"] == pytest.approx(math.log(2), abs=0.02 if half else 1e-5)
    assert rows[-1]["dpo"] < rows[0]["dpo"]


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_recomputed_activations_change_nothing(
    tmp_path: Path,
    device: str,
    adapted: bool,
    record_property: Any,
) -> None:
    lora = Lora(r=4, alpha=8, dropout=0.1) if adapted else None
    recipe: Recipe = replace(RECIPE, lora=lora)
    for name, recomputed in (("plain", False), ("recomputed", True)):
        model = tiny_llava()[0].to(device)
        train(
            tmp_path / name,
            recipe,
            model,
            lora_targets=TARGETS,
            checkpointing=recomputed,
            find_batch_size=True,
        )
    found = apart(tmp_path, "plain", "recomputed")
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("plain", "recomputed")]
    record_property("apart, of the way trained", found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert found < NEAR


def test_a_killed_training_goes_on_to_the_same_end(
    tmp_path: Path,
    device: str,
    record_property: Any,
) -> None:
    train(tmp_path / "straight", RECIPE, tiny_llava()[0].to(device), checkpoint_every=1)
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "tests.gpu.killed", str(cut), device]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    reached = cut / "checkpoints" / f"step-{STEPS_ALIVE:07d}"
    until = time.monotonic() + PATIENCE
    while not reached.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the child ended by itself"
    assert reached.exists(), "the child never came so far"
    steps: list[int] = []

    def progress(what: str, done: int, _total: int) -> None:
        if what == "train":
            steps.append(done)

    train(cut, RECIPE, tiny_llava()[0].to(device), checkpoint_every=1, progress=progress)
    assert steps[0] == STEPS_ALIVE + 1  # it went on, and did not begin anew
    found = apart(tmp_path, "straight", "cut")
    record_property("apart, of the way trained", found)
    losses = [[row["loss"] for row in log(tmp_path / name)] for name in ("straight", "cut")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert found < NEAR
