"""A team of two processes (gloo, CPU) saves the adapter that it trained: one process writes, and it
is the saved model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from harness.models.adapters import Parent, merge_adapter
from harness.training.ranks import leave
from tests.distributed.test_training import torchrun
from tests.distributed.trainings import ADAPTED
from tests.tiny_models import tiny_llava
from tests.training.cases import TARGETS, train

pytestmark = pytest.mark.slow


def run(folder: Path) -> None:
    train(
        folder,
        ADAPTED,
        device_batch=2,
        lora_targets=TARGETS,
        parent=Parent(name="org/base", revision="ab"),
    )


def test_what_a_team_saves_is_what_it_merged(tmp_path: Path) -> None:
    run(tmp_path / "alone")
    done = torchrun("-m", "tests.distributed.test_adapters", str(tmp_path / "pair"))
    assert done.returncode == 0, done.stderr[-4000:]
    mine, theirs = (
        load_file(tmp_path / who / "adapter" / "adapter_model.safetensors")
        for who in ("pair", "alone")
    )
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=2e-5)
    merged = merge_adapter(tiny_llava()[0], tmp_path / "pair" / "adapter")
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "pair" / "model")
    assert all(
        torch.equal(value, saved.get_parameter(name)) for name, value in merged.named_parameters()
    )
    assert not list((tmp_path / "pair").glob(".*"))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
    leave()
