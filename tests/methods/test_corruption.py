"""Corrupted images: the noise schedule equals the authors'; properties of every corruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from methods.keys import torch_seed
from methods.sena.corruption import (
    CORRUPTIONS,
    Corruption,
    corruption,
    diffuse,
    noise_schedule,
)

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "diffusion_noise.json").read_text())
PICTURE = torch.randn(3, 24, 36, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("step", [int(step) for step in ORACLE])
def test_the_schedule_is_the_authors(step: int) -> None:
    signal, spread = noise_schedule()
    assert [float(signal[step]), float(spread[step])] == pytest.approx(ORACLE[str(step)], abs=1e-6)


@pytest.mark.parametrize("step", [int(step) for step in ORACLE])
def test_diffusion_mixes_image_and_noise_as_the_authors_do(step: int) -> None:
    signal, spread = ORACLE[str(step)]
    noise = diffuse(torch.zeros(3, 200, 200), "a", step)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02 * spread)
    assert float(noise.std()) == pytest.approx(spread, rel=0.01)
    assert torch.allclose(
        diffuse(torch.ones(3, 200, 200), "a", step) - noise, torch.tensor(signal), atol=1e-5
    )


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 24, 36), (1, 5, 4), (3, 1, 1)])
def test_shape_and_dtype_stay_and_the_input_is_untouched(
    kind: Corruption, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = pixels.clone()
    made = corruption(kind, 600)(pixels, "a")
    assert (made.shape, made.dtype) == (pixels.shape, pixels.dtype)
    assert bool(made.isfinite().all())
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_image_changes_and_the_key_alone_decides_how(kind: Corruption) -> None:
    corrupt = corruption(kind, 600)
    first = corrupt(PICTURE, "a")
    torch.manual_seed(5)  # the global generator must not matter, nor what came between
    corrupt(PICTURE, "b")
    assert torch.equal(corrupt(PICTURE, "a"), first)
    assert not torch.equal(first, PICTURE)


@pytest.mark.parametrize("kind", ["diffusion", "crop"])
def test_random_corruptions_are_fresh_for_each_prompt(kind: Corruption) -> None:
    corrupt = corruption(kind, 600)
    assert not torch.equal(corrupt(PICTURE, "a"), corrupt(PICTURE, "b"))


def test_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    for kind in CORRUPTIONS:
        corruption(kind, 600)(PICTURE, "a")
    assert torch.equal(torch.get_rng_state(), state)


def test_later_steps_keep_less_of_the_image() -> None:
    kept = [
        float(
            torch.nn.functional.cosine_similarity(
                diffuse(PICTURE, "a", t).flatten(), PICTURE.flatten(), dim=0
            )
        )
        for t in (100, 300, 600, 999)
    ]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.99
    assert kept[-1] < 0.5


def test_blank_blur_and_crop_do_what_they_say() -> None:
    assert torch.equal(corruption("blank", 1)(PICTURE, "a"), torch.zeros_like(PICTURE))
    flat = torch.full((3, 20, 20), 0.7)
    assert torch.allclose(corruption("blur", 1)(flat, "a"), flat, atol=1e-6)
    assert float(corruption("blur", 1)(PICTURE, "a").std()) < 0.7 * float(PICTURE.std())
    # An image that rises from left to right still does after a crop, over half of the range.
    ramp = torch.linspace(0, 1, 40).expand(3, 40, 40)
    window = corruption("crop", 1)(ramp, "a")[0, 0]
    assert bool((window.diff() >= 0).all())
    assert float(window[-1] - window[0]) == pytest.approx(0.5, abs=0.05)


def test_the_seed_of_a_key_is_fixed() -> None:
    assert torch_seed("0/a/description/0/reject") == 1221615655969603833
