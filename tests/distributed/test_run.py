"""A study done by a team of two under torchrun, whole and with a member killed, ends as one process
ends it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.study.reference import StudyReference
from harness.training.ranks import SINGLE, Ranks, ranks
from tests.distributed.studies import exact, told, write_study
from tests.distributed.test_training import torchrun
from tests.running import run_study


def test_ranks_cover_everything_once_and_a_process_is_single_by_default() -> None:
    assert ranks() is SINGLE
    things = list(range(7))
    parts = [Ranks(rank=rank, size=3).share(things) for rank in range(3)]
    assert sorted(thing for part in parts for thing in part) == things


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def alone(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process made."""
    out = tmp_path_factory.mktemp("alone") / "out"
    run_study(StudyReference(str(study)).load(), out)
    return out


@pytest.mark.slow
def test_a_team_ends_as_one_process_ends_also_when_a_member_is_killed(
    study: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["-m", "harness", "run", str(study), "--out", str(out), "--log-to", "none"]
    killed = torchrun(*command, DIE="1")
    assert killed.returncode != 0
    assert f"Signal {signal.SIGKILL.value}" in killed.stderr
    shards = out / "runs" / "toy" / "seed0" / "round1" / "pairs" / "shards"
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.jsonl")}
    assert 1 <= len(kept) < 4
    again = torchrun(*command)
    assert again.returncode == 0, again.stderr[-4000:]
    assert "untrained" in again.stdout  # the first process alone prints the table
    assert again.stdout.count("toys: Does it run?") == 1
    assert {
        name: (shards / name).stat().st_mtime_ns for name in kept
    } == kept  # finished shards were not done again
    assert exact(out) == exact(alone)
    assert told(out) == told(alone)
    for round in ("round1", "round2"):
        where = f"runs/toy/seed0/{round}/train/model/model.safetensors"
        one, two = load_file(alone / where), load_file(out / where)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=5e-5)
    assert os.environ.get("RANK") is None  # the test itself is no member
