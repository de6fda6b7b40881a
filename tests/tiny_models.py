"""A tiny real LLaVA in memory (random weights, fixed seed), for tests that would otherwise patch or
mock."""

from __future__ import annotations

from functools import cache

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from harness.synthetic.architecture import Sizes, build_llava, build_processor, build_tokenizer

WORDS = (
    "user assistant : . , ? ! a an the is are there in of image picture what where colour how many"
    " red green blue yellow ball box cup plate house tree boat fish top left right middle bottom"
    " centre yes no one two three describe briefly answer question ask short sentence single word"
    " or phrase with and about [[1]] [[2]]"
).split()
SIZES = Sizes(
    vision_width=32, vision_layers=2, text_width=32, text_layers=1, width=64, layers=2, ffn=96
)


def tiny_llava(
    seed: int = 0, sizes: Sizes = SIZES
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A fresh model and its processor; the weights are spread wide enough that greedy answers
    differ between pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(WORDS)
        model = build_llava(tokenizer, sizes)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                torch.nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
    return model, build_processor(tokenizer, sizes)


@cache
def picture(seed: int) -> Image.Image:
    """A small picture of random colour blocks, 60 x 60."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8).numpy()
    return Image.fromarray(blocks).resize((60, 60), Image.Resampling.NEAREST)
