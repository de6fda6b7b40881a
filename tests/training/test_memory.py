"""Memory estimates are compared with counts (in a process of their own), and the cards' shapes with
transformers' models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from harness.models.base_cards import BASES
from harness.models.find_family import family_of
from harness.training.memory import SHAPES
from tests.benches.bench_memory import build

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("which", "least"),
    [("not slow", 6), pytest.param("slow", 10, marks=pytest.mark.slow)],
    ids=["fast", "slow"],
)
def test_the_estimates_agree_with_counts(which: str, least: int) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        which,
        "tests/training/counted.py",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= least


@pytest.mark.parametrize("name", SHAPES)
def test_a_cards_shape_is_that_of_the_model(name: str) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        if BASES[name].family == "llava-1.5":
            model = build(shape, torch.bfloat16)
        else:
            text = {
                "vocab_size": shape.vocabulary,
                "hidden_size": shape.width,
                "intermediate_size": shape.inner,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.keys * shape.heads // shape.width,
                "tie_word_embeddings": shape.tied,
            }
            vision = {
                "hidden_size": 1280,
                "out_hidden_size": shape.width,
                "depth": 32,
                "num_heads": 16,
            }
            vision["intermediate_size"] = 3420
            config = Qwen2_5_VLConfig(
                text_config=text, vision_config=vision, tie_word_embeddings=shape.tied
            )
            model = Qwen2_5_VLForConditionalGeneration(config)
    family = family_of(model)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    assert sum(sizes.values()) == shape.parameters
    assert sum(size for key, size in sizes.items() if re.match(family.tower, key)) == shape.tower
    assert (
        sum(size for key, size in sizes.items() if re.match(family.projector, key))
        == shape.projector
    )
    assert BASES[name].parameters == pytest.approx(shape.parameters, rel=0.002)
