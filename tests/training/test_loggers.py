"""Curves beside log.jsonl: TensorBoard's files where it is installed, others by name; the unknown and the absent are said."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from harness import __main__ as cli
from harness.errors import Problem
from methods.interface import Recipe
from tests.training.cases import train

RECIPE = Recipe(lr=1e-3, epochs=2, global_batch=3)


def test_an_unknown_tracker_and_one_that_is_not_installed_are_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Problem, match=r"no tracker 'tensorbord'; did you mean 'tensorboard'"):
        train(tmp_path / "a", RECIPE, log_to=("tensorbord",))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest))
    with pytest.raises(Problem, match="wandb is not installed; pip install wandb"):
        train(tmp_path / "a", RECIPE, log_to=("wandb",))
    assert not (tmp_path / "a").exists()


def test_the_command_line_refuses_what_this_machine_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "smoke", "--log-to", "trackoi"]) == 2
    assert "There is no tracker 'trackoi'; did you mean 'trackio'?" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert cli.main(["plan", "smoke", "--eight-bit"]) == 2
        assert "needs a CUDA GPU and there is none; leave --eight-bit out." in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard_holds_the_curves_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, RECIPE, log_to=("",))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [one.step for one in losses] == [row["step"] for row in rows]
    assert [one.value for one in losses] == pytest.approx([row["loss"] for row in rows], rel=1e-6)
