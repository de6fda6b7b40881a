"""Estimates of time and memory: from this machine's records on the same base, and by arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts import results_folder
from harness.artifacts.environment import hardware
from harness.models.base_cards import BASES
from harness.pipeline.estimate import Estimate
from harness.pipeline.stage_identity import Checkpoint
from harness.pipeline.tasks import Task
from harness.study.cost_model import shape_for, training_memory, unmerged_gib
from harness.training.memory import GIB, SHAPES, backward_share, forward_flops
from methods.interface import Lora, Recipe


def test_estimates_are_of_this_machine_and_this_base(tmp_path: Path) -> None:
    def task(base: str) -> Task:
        card = replace(BASES["synthetic"], name=base)
        return Task(
            key="",
            kind="pairs",
            title="",
            name="toy",
            stage=results_folder.Stage(tmp_path, {}),
            checkpoint=Checkpoint(card=card, id=""),
        )

    record = {
        "stage": "pairs",
        "base": "tiny",
        "name": "toy",
        "items": 10,
        "seconds": 5.0,
        "hardware": hardware(),
    }
    results_folder.write_json(tmp_path / "a" / "record.json", record)
    results_folder.write_json(
        tmp_path / "b" / "record.json",
        {**record, "seconds": 500.0, "hardware": {"processor": "other"}},
    )
    estimate = Estimate(tmp_path)
    assert estimate.rate(task("tiny")) == pytest.approx(0.5)
    assert estimate.rate(task("other")) is None


def test_the_cost_of_a_training_is_that_of_its_base_and_recipe() -> None:
    full = Recipe(lr=1e-6)
    adapted = Recipe(lr=1e-6, lora=Lora(r=128, alpha=256), projector_lr=2e-5)
    small, large = BASES["llava-1.5-7b"], BASES["llava-1.5-13b"]
    found = {
        (card.name, recipe.lora is None): training_memory(card, recipe)
        for card in (small, large)
        for recipe in (full, adapted)
    }
    # Weights, gradients and two moments in float32 of what trains; else the base in half precision;
    # the rest is a tenth.
    for card in (small, large):
        count = SHAPES[card.name]
        least = {
            True: 16 * (count.language + count.projector),
            False: 2 * count.parameters + 16 * count.adapters(128),
        }
        for whole, bytes in least.items():
            assert 1.0 < found[card.name, whole] * GIB / bytes < 1.35
    # Adapters that are not merged: in float32, and on the disk nothing but them.
    count = SHAPES[small.name]
    beside = 4 * (count.adapters(128) + count.projector) / GIB
    assert unmerged_gib(small, adapted) == pytest.approx(beside)
    assert unmerged_gib(small, full) == unmerged_gib(replace(small, dtype="float32"), adapted) == 0
    halved = replace(small, name="other", parameters=3.5e9)
    assert shape_for(halved).parameters == pytest.approx(3.5e9, rel=0.05)
    assert training_memory(halved, full) < found[small.name, True]


def test_a_forward_pass_takes_the_flops_that_are_counted() -> None:
    """10.80 TFLOP at 7B by results/benches/memory-7b.md: 602 tokens and two answers of 100."""
    stored = json.loads(Path("results/benches/memory-7b.json").read_text(encoding="utf-8"))["rows"]
    for row in stored:
        if row["trains"] == "full" and not row["recomputed"]:
            flops = forward_flops(SHAPES[row["base"]], prompt=600, side=100)
            assert flops / 1e12 == pytest.approx(row["reference_tflop"], rel=0.02)
            assert row["step_tflop"] / row["reference_tflop"] == pytest.approx(
                1 + backward_share(Recipe(lr=1e-6)), rel=0.02
            )
        if row["trains"] == "LoRA" and not row["recomputed"]:
            lora = Recipe(lr=1e-6, lora=Lora(r=128, alpha=256))
            assert row["step_tflop"] / row["reference_tflop"] == pytest.approx(
                1 + backward_share(lora), rel=0.02
            )


def test_a_frozen_projector_is_not_kept_beside_the_adapters() -> None:
    card, lora = BASES["llava-1.5-7b"], Lora(r=128, alpha=256)
    kept = [
        unmerged_gib(card, Recipe(lr=1e-6, lora=lora, projector_lr=rate))
        for rate in (None, 0.0, 2e-5)
    ]
    projector = 4 * SHAPES[card.name].projector / GIB
    assert kept[0] == kept[1] == pytest.approx(kept[2] - projector)
