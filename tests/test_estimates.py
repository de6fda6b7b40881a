"""Estimates come from what this machine measured before, on the same base."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import runner, store
from harness.identity import hardware
from harness.steps import Step


def test_estimates_are_of_this_machine_and_this_base(tmp_path: Path) -> None:
    def step(base: str) -> Step:
        stage = store.Stage(tmp_path, {})
        return Step(title="", kind="pairs", name="toy", base=base, items=1, stage=stage, work=lambda _progress: None)

    record = {"stage": "pairs", "base": "tiny", "name": "toy", "items": 10, "seconds": 5.0, "hardware": hardware()}
    store.write_json(tmp_path / "a" / "record.json", record)
    store.write_json(tmp_path / "b" / "record.json", {**record, "seconds": 500.0, "hardware": {"processor": "other"}})
    estimate = runner.Estimate(tmp_path)
    assert estimate.rate(step("tiny")) == pytest.approx(0.5)
    assert estimate.rate(step("other")) is None
