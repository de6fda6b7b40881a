"""A team of two processes (gloo, CPU) trains what one process trains: losses, norms and weights,
replicated and sharded."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.trainings import ADAPTED, FULL, begins, ends, run
from tests.training.cases import saved

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {"full": FULL, "adapted": ADAPTED}
pytestmark = pytest.mark.slow


def torchrun(
    *arguments: str, processes: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        *arguments,
    ]
    given = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of one process and of two."""
    alone, pair = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("pair")
    run(alone)
    for name, recipe in RECIPES.items():
        for sharded in (False, True):
            begins(pair / f"{name}_from_one_{sharded}", recipe)
    done = torchrun("-m", "tests.distributed.trainings", str(pair))
    assert done.returncode == 0, done.stderr[-4000:]
    for name, recipe in RECIPES.items():
        for sharded in (False, True):
            ends(pair / f"{name}_from_two_{sharded}", recipe)
    return alone, pair


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


CASES = [
    ("full", "full"),
    ("adapted", "adapted"),
    ("odd", "odd"),
    ("full", "sharded"),
    ("odd", "odd_sharded"),
    ("adapted", "adapted_sharded"),
    ("full", "resumed"),
    ("full", "rehearsed"),
    ("full", "unlike"),
    *(
        (name, f"{name}_from_{size}_{sharded}")
        for name in RECIPES
        for size in ("one", "two")
        for sharded in (False, True)
    ),
]


@pytest.mark.parametrize(("alone", "pair"), CASES)
def test_two_processes_train_what_one_trains(
    both: tuple[Path, Path], alone: str, pair: str
) -> None:
    one, two = log(both[0] / alone), log(both[1] / pair)
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "dpo", "alignment", "margin", "accuracy", "grad_norm", "lr"):
            assert b[name] == pytest.approx(a[name], abs=1e-5), name
    assert (
        abs(one[-1]["dpo"] - one[0]["dpo"]) > 0.002
    )  # something was learnt, so equality means something
    left, right = saved(both[0] / alone), saved(both[1] / pair)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        torch.testing.assert_close(
            right[name], value, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_team_that_was_cut_ends_as_one_that_was_not(both: tuple[Path, Path]) -> None:
    left, right = saved(both[1] / "sharded"), saved(both[1] / "resumed")
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=1e-6)
    assert not list((both[1] / "resumed" / "checkpoints").glob("step-*"))


def test_sharded_weights_in_half_precision_start_at_their_reference(
    both: tuple[Path, Path],
) -> None:
    rows = log(both[1] / "half_sharded")
    assert rows[0]["dpo"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["dpo"] < rows[0]["dpo"]
    weights = saved(both[1] / "half_sharded")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_a_killed_team_continues_to_what_one_process_reaches(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    killed = torchrun("-m", "tests.distributed.trainings", str(tmp_path / "killed"), "killed")
    assert killed.returncode != 0
    assert f"Signal {signal.SIGKILL.value}" in killed.stderr
    assert list((tmp_path / "killed" / "checkpoints").glob("step-*"))
    again = torchrun("-m", "tests.distributed.trainings", str(tmp_path / "killed"), "killed")
    assert again.returncode == 0, again.stderr[-4000:]
    left, right = saved(both[0] / "full"), saved(tmp_path / "killed")
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=2e-5)
