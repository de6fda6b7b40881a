"""Corruptions of an image, for SENA's rejected answers (Tan et al., arXiv 2412.15650, preference
pairs from corrupted images).

Each works on the *normalised* image ``(C, H, W)`` and keeps its shape, dtype and device. All
randomness is drawn from the prompt's key, so each prompt has noise of its own, and neither batch
nor order matters. "another" shows another image of the round (``Item.another``); the method does
that itself."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from methods.interface import Corrupt
from methods.keys import torch_seed

PixelCorruption = Literal["diffusion", "blank", "crop", "blur"]
Corruption = Literal[PixelCorruption, "another"]
CORRUPTIONS: tuple[PixelCorruption, ...] = get_args(PixelCorruption)

STEPS = 1000
"""Steps of the diffusion schedule."""
CROP_SIDE = 0.5
"""Share of height and width that a crop keeps. A quarter of the image remains: most objects are
gone, and the rest looks natural."""
BLUR_SIGMA = 0.06
"""Share of the shorter side. Outlines disappear; colours and layout stay."""


def corruption(kind: PixelCorruption, noise_step: int) -> Corrupt:
    """The function ``(pixels (C, H, W), key) -> pixels (C, H, W)`` of this name; only "diffusion"
    uses ``noise_step``."""
    if kind == "diffusion":
        return lambda pixels, key: diffuse(pixels, key, noise_step)
    return {"blank": _blank, "crop": _crop, "blur": _blur}[kind]


@cache
def noise_schedule() -> tuple[torch.Tensor, torch.Tensor]:
    """(sqrt(abar_t), sqrt(1 - abar_t)) for t = 0..999, each ``(1000,)`` float32.

    abar_t = prod_{s<=t} (1 - beta_s), beta = sigmoid(linspace(-6, 6, 1000)) * (0.5e-2 - 1e-5) +
    1e-5."""
    betas = torch.sigmoid(torch.linspace(-6, 6, STEPS)) * (0.5e-2 - 1e-5) + 1e-5
    alphas_bar = torch.cumprod(1 - betas, dim=0)
    return alphas_bar.sqrt(), (1 - alphas_bar).sqrt()


def diffuse(pixels: torch.Tensor, key: str, step: int) -> torch.Tensor:
    """Forward diffusion to step t: x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (Ho et al., arXiv
    2006.11239, eq. 4)."""
    # Noise is drawn on the CPU in float32, so that a key gives the same noise on every device and
    # in every precision.
    generator = torch.Generator().manual_seed(torch_seed(key))
    noise = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    signal_scale, noise_scale = (float(schedule[step]) for schedule in noise_schedule())
    return (signal_scale * pixels.float() + noise_scale * noise).to(pixels.dtype)


def _blank(pixels: torch.Tensor, _key: str) -> torch.Tensor:
    """The mean colour everywhere, which is 0 in normalised pixels."""
    return torch.zeros_like(pixels)


def _crop(pixels: torch.Tensor, key: str) -> torch.Tensor:
    """A window of half the height and width, at a place drawn from the key, enlarged to the
    image's size."""
    height, width = pixels.shape[-2:]
    crop_height, crop_width = (max(1, round(side * CROP_SIDE)) for side in (height, width))
    generator = torch.Generator().manual_seed(torch_seed(key))
    top, left = (
        int(torch.randint(0, spare + 1, (), generator=generator))
        for spare in (height - crop_height, width - crop_width)
    )
    window = pixels[None, :, top : top + crop_height, left : left + crop_width].float()
    return F.interpolate(window, size=(height, width), mode="bilinear", align_corners=False)[0].to(
        pixels.dtype
    )


def _blur(pixels: torch.Tensor, _key: str) -> torch.Tensor:
    """A Gaussian blur; edges are continued by reflection."""
    channels, height, width = pixels.shape
    sigma = BLUR_SIGMA * min(height, width)
    radius = min(math.ceil(3 * sigma), min(height, width) - 1)
    weights = torch.exp(
        -(torch.arange(-radius, radius + 1, device=pixels.device) ** 2)
        / (2 * max(sigma, 1e-6) ** 2)
    )
    weights = (weights / weights.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(pixels[None].float(), (radius, radius, radius, radius), mode="reflect")
    blurred_rows = F.conv2d(padded, weights, groups=channels)
    return F.conv2d(blurred_rows, weights.transpose(2, 3), groups=channels)[0].to(pixels.dtype)
