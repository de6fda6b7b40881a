"""A team of two processes (gloo, CPU) saves the adapter that it trained: one process writes, and it
is the saved model. On a base in half precision the next round trains on top of it, with the base's
weights sharded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from harness.models.adapters import Parent, attach_adapter, merge_adapter
from harness.training.ranks import leave, ranks
from tests.distributed.test_training import torchrun
from tests.distributed.trainings import ADAPTED
from tests.tiny_models import tiny_llava
from tests.training.cases import TARGETS, train

pytestmark = pytest.mark.slow

PARENT = Parent(name="org/base", revision="ab")


def run(folder: Path) -> None:
    train(folder, ADAPTED, device_batch=2, lora_targets=TARGETS, parent=PARENT)
    model = tiny_llava()[0].to(torch.bfloat16)
    for name in ("half1", "half2"):
        train(
            folder / name,
            ADAPTED,
            model,
            device_batch=2,
            lora_targets=TARGETS,
            parent=PARENT,
            sharded=ranks().size > 1,
        )
        model = attach_adapter(tiny_llava()[0].to(torch.bfloat16), folder / name / "adapter")


def adapter(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "adapter" / "adapter_model.safetensors"))


def test_what_a_team_saves_is_what_it_merged(tmp_path: Path) -> None:
    run(tmp_path / "alone")
    done = torchrun("-m", "tests.distributed.test_adapters", str(tmp_path / "pair"))
    assert done.returncode == 0, done.stderr[-4000:]
    mine, theirs = (adapter(tmp_path / who) for who in ("pair", "alone"))
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=2e-5)
    merged = merge_adapter(tiny_llava()[0], tmp_path / "pair" / "adapter")
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "pair" / "model")
    assert all(
        torch.equal(value, saved.get_parameter(name)) for name, value in merged.named_parameters()
    )
    assert not list((tmp_path / "pair").glob(".*"))
    for name in ("half1", "half2"):
        assert not (tmp_path / "pair" / name / "model").exists()
        mine, theirs = (adapter(tmp_path / who / name) for who in ("pair", "alone"))
        assert mine.keys() == theirs.keys()
        # Adam turns bfloat16's rounding of a small gradient into a whole step.
        apart = sum(float((mine[key] - theirs[key]).square().sum()) for key in mine)
        way = sum(float(theirs[key].square().sum()) for key in theirs if "lora_B" in key)
        assert apart < 0.1**2 * way


if __name__ == "__main__":
    run(Path(sys.argv[1]))
    leave()
