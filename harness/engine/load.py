"""Loads a base model and checks it; pipeline, command line and tests load models here.

The engine must compute what transformers computes for the model's family. The checks take a few
forward passes over one small image and run at every load. A library's new version, a converted
checkpoint or another tokenizer must not change results unnoticed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.base_cards import BaseCard
from harness.models.chat_format import check_template, renderer
from harness.models.find_family import family_of
from harness.models.llava import shape_image
from harness.models.load_base import load_base
from harness.models.processor_checks import explain_load_errors
from methods.interface import Prompt

TOLERANCE, HALF_TOLERANCE = 2e-3, 0.1
"""Allowed difference of a log-probability (nats per token) in float32, and in half precision. They
allow for rounding; a wrong position or mask differs by more."""

QUESTION = "What?"
PROMPTS = (
    "Is there a red ball?",
    "Describe the picture. What is on the left, and what is on the right of it?",
)
ANSWER = "There is a red ball."


def load_model(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor; checked against transformers.

    Args:
        weights: a folder with a fine-tuned model of the same architecture, loaded in place of the
            card's weights; the processor is always the card's.

    Raises:
        UserError: the model cannot be loaded here (:func:`load_base`), or a check failed
            (:func:`check_model`).
    """
    model, processor = load_base(card, device, weights)
    # A forward pass shows what the files do not, such as a layer that is not there.
    with explain_load_errors(f"Base {card.name!r}", str(weights or card.source), card.revision):
        check_model(model, processor)
    return model, processor


def check_model(model: Any, processor: Any) -> None:
    """Check the chat template, the image tokens, and log-probabilities, alone and in a batch.

    Raises:
        UserError: one differs from transformers; the message names it and the difference.
    """
    check_template(processor)
    check_tokens(model, processor)
    check_batch(model, processor)


def check_tokens(model: Any, processor: Any) -> None:
    """Check that an image takes the same number of tokens in our prompts, as the tower's features,
    and in transformers' processor.

    Raises:
        UserError: the counts differ.
    """
    family, chat = family_of(model, processor), renderer(processor)
    for size in ((96, 64), (64, 96)):
        image = sample_image(size)
        expected = family.span(image).tokens
        [features] = family.encode(family.pixels([image]))
        short_ids = chat.encode([chat.render_prompt(QUESTION, True)])[0]  # the image is one token
        processor_tokens = len(prompt_ids(model, processor, image, QUESTION)) - len(short_ids) + 1
        for source, count in (
            ("features", len(features)),
            ("its processor's tokens", processor_tokens),
        ):
            if count != expected:
                raise UserError(
                    f"Image tokens: an image of {size[0]} x {size[1]} takes {expected} tokens in"
                    f" our prompts and {count} as {source}; the processor's settings (patch size,"
                    " image size) do not go with this model."
                )


def check_batch(model: Any, processor: Any) -> None:
    """Check that prompts of different lengths score the same in a padded batch, alone, and in
    transformers' own forward pass.

    Raises:
        UserError: the log-probabilities differ by more than the tolerance, or are not finite.
    """
    image, chat = sample_image((96, 64)), renderer(processor)
    prompts = [Prompt(key=str(index), text=text, image=image) for index, text in enumerate(PROMPTS)]
    tokens = len(chat.encode([chat.render_completion(ANSWER)])[0])
    allowed = (TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE) * tokens
    engine = Engine(model, processor, batch_size=2)
    batched = engine.logps(prompts, [ANSWER] * 2)
    single_logps = [engine.logps([prompt], [ANSWER])[0] for prompt in prompts]
    reference = [answer_logp(model, processor, image, text) for text in PROMPTS]
    if not all(map(math.isfinite, reference)):
        raise UserError(
            "The model gives a short answer a log-probability that is not finite"
            f" ({reference[0]}) in transformers' own forward pass: its weights are damaged, or"
            " overflow in this precision; download or save it again."
        )
    own_pass = "transformers' own forward pass"
    for source, other_logps in (("a prompt alone", single_logps), (own_pass, reference)):
        for logp, other in zip(batched, other_logps, strict=True):
            if not abs(logp - other) <= allowed:
                raise UserError(
                    f"Padding and positions: in a batch an answer's log-probability is {logp:.4f},"
                    f" by {source} {other:.4f} (allowed: {allowed:.4f} apart); this version of"
                    " transformers computes this model otherwise, so its results cannot be"
                    " trusted: install the pinned versions (constraints.txt)."
                )


def prompt_ids(model: Any, processor: Any, image: Image.Image, text: str) -> list[int]:
    """A prompt's token ids with one token per image feature, made by transformers' processor."""
    rendered = renderer(processor).render_prompt(text, True)
    if family_of(model, processor).span(image).axes == 1:
        inputs = processor(images=image, text=rendered, add_special_tokens=False)
        return list(inputs["input_ids"][0])
    # Qwen2.5-VL's own processor needs torchvision; it repeats the image token like this.
    grid = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0]
    count = int(grid.prod()) // processor.image_processor.merge_size**2
    wide = rendered.replace(processor.image_token, processor.image_token * count)
    return list(processor.tokenizer(wide)["input_ids"])


@torch.inference_mode()
def answer_logp(model: Any, processor: Any, image: Image.Image, text: str) -> float:
    """The log-probability of ANSWER by transformers' own forward pass over the whole prompt."""
    chat = renderer(processor)
    prompt = prompt_ids(model, processor, image, text)
    rendered = chat.render_prompt(text, True)
    [(_, answer)] = chat.encode_pairs([rendered], [chat.render_completion(ANSWER)])
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    shaped = shape_image(image, processor.image_processor)
    pixels = processor.image_processor(images=[shaped], return_tensors="pt")
    inputs: dict[str, Tensor] = {name: value.to(model.device) for name, value in pixels.items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
    logps = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(logps.gather(1, ids[0, len(prompt) :, None]).sum())


def sample_image(size: tuple[int, int]) -> Image.Image:
    """A small image (width, height): a red rectangle on blue."""
    image = Image.new("RGB", size, (30, 60, 200))
    image.paste((220, 30, 30), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    return image
