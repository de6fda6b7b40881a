"""What is checked each time a model is loaded: that the machine can hold it, and that we ask it as
its family does.

The checks of :func:`check_model` cost a few forward passes over one small picture, so they are made
at every load: a library's new version, a converted checkpoint or another tokenizer must not change
results in silence."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.chat_format import check_template, renderer
from harness.models.device_memory import free_memory as spare
from harness.models.find_family import family_of
from methods.interface import Prompt

LARGE = 1e9
"""Parameters from which a model is not run on the CPU."""

WORKING = 2.0
"""GiB beside the weights: keys and values of one batch, features, the libraries' workspaces."""

TOLERANCE = {torch.float32: 2e-3}
TOLERANCE_HALF = 0.1
"""How far a log-probability (nats a token) may lie from transformers' own: rounding, never another
position or mask."""

ASKED = (
    "Is there a red ball?",
    "Describe the picture. What is on the left, and what is on the right of it?",
)
ANSWER = "There is a red ball."


def check_machine(
    name: str, device: str, stored: int | None, parameters: float | None, dtype: str
) -> None:
    """Raise UserError unless a model fits this machine: ``stored`` bytes of weights, or so many
    ``parameters``; before loading."""
    wide = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    count = stored / wide if stored is not None else parameters
    if count is None:
        return
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and count > LARGE:
        raise UserError(
            f"Base {name!r} has {count / 1e9:.1f} billion parameters and this machine has no GPU"
            " that torch can use; run it on one that has, or take --base synthetic."
        )
    need = count * (4 if on_cpu else wide) / 2**30
    spare = WORKING if count > LARGE else 0.0
    if (free := free_memory(device)) is not None and need + spare > free:
        raise UserError(
            f"Base {name!r} needs about {need + spare:.1f} GiB ({need:.1f} of weights and"
            f" {spare:.1f} to work with), and {free:.1f} GiB of"
            f" {'memory' if on_cpu else 'GPU memory'} are free; free some, or take a smaller base."
        )


def free_memory(device: str) -> float | None:
    """GiB that are free on the device; None where the system does not say."""
    if (left := spare(torch.device(device))) is not None:
        return left / 2**30  # with what a model before it has left in torch's hands
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        names = os.sysconf_names if hasattr(os, "sysconf") else {}
        return (
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
            if "SC_PHYS_PAGES" in names
            else None
        )


def check_model(model: Any, processor: Any) -> None:
    """Hold a loaded model to its family: its chat template, its pictures' tokens, and the
    log-probabilities of transformers' own forward pass, alone and in a padded batch.

    Raises:
        UserError: which of them differs, and by how much.
    """
    check_template(processor)
    check_tokens(model, processor)
    check_batch(model, processor)


def check_tokens(model: Any, processor: Any) -> None:
    """Raise UserError unless a picture takes as many tokens as its family says, as prompt and as
    features."""
    family = family_of(model, processor)
    for size in ((96, 64), (64, 96)):
        picture = dummy(size)
        span = family.span(picture)
        [features] = family.look(family.pixels([picture]))
        own = (
            len(whole_prompt(model, processor, picture, "What?"))
            - len(renderer(processor).encode([asked(processor)])[0])
            + 1
        )
        for what, count in (("features", len(features)), ("its processor's tokens", own)):
            if count != span.tokens:
                raise UserError(
                    f"Image tokens: a picture of {size[0]} x {size[1]} takes {span.tokens} tokens"
                    f" in our prompts and {count} as {what}; the processor's settings (patch size,"
                    " image size) do not go with this model."
                )


def asked(processor: Any) -> str:
    return renderer(processor).render_prompt("What?", True)


def whole_prompt(model: Any, processor: Any, picture: Image.Image, text: str) -> list[int]:
    """A prompt's ids as transformers' processor widens them."""
    rendered = renderer(processor).render_prompt(text, True)
    if family_of(model, processor).span(picture).axes == 1:
        return list(
            processor(images=picture, text=rendered, add_special_tokens=False)["input_ids"][0]
        )
    grid = processor.image_processor(images=[picture], return_tensors="pt")["image_grid_thw"][0]
    count = int(grid.prod()) // processor.image_processor.merge_size**2
    return list(
        processor.tokenizer(rendered.replace(processor.image_token, processor.image_token * count))[
            "input_ids"
        ]
    )


@torch.inference_mode()
def own_logp(model: Any, processor: Any, picture: Image.Image, text: str) -> float:
    """The log-probability of ANSWER by transformers' own forward pass over the whole prompt."""
    words = renderer(processor)
    prompt = whole_prompt(model, processor, picture, text)
    rendered = words.render_prompt(text, True)
    [(_, answer)] = words.encode_pairs([rendered], [words.render_completion(ANSWER)])
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    pixels = processor.image_processor(images=[picture], return_tensors="pt")
    inputs: dict[str, Tensor] = {name: value.to(model.device) for name, value in pixels.items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[
        0, len(prompt) - 1 : -1
    ]
    logps = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
    return float(logps.sum())


def check_batch(model: Any, processor: Any) -> None:
    """Raise UserError unless a batch of prompts of unlike length scores as each alone, and as
    transformers' forward pass does."""
    picture, words = dummy((96, 64)), renderer(processor)
    prompts = [Prompt(key=str(place), text=text, image=picture) for place, text in enumerate(ASKED)]
    tokens = len(words.encode([words.render_completion(ANSWER)])[0])
    allowed = TOLERANCE.get(model.dtype, TOLERANCE_HALF) * tokens
    engine = Engine(model, processor, batch_size=2)
    together = engine.logps(prompts, [ANSWER] * 2)
    alone = [engine.logps([prompt], [ANSWER])[0] for prompt in prompts]
    own = [own_logp(model, processor, picture, text) for text in ASKED]
    if not all(map(math.isfinite, own)):
        raise UserError(
            f"The model gives a short answer a log-probability that is not finite ({own[0]}) in"
            " transformers' own forward pass: its weights are damaged, or overflow in this"
            " precision; download or save it again."
        )
    for what, other in (("a prompt alone", alone), ("transformers' own forward pass", own)):
        for mine, theirs in zip(together, other, strict=True):
            if not abs(mine - theirs) <= allowed:
                raise UserError(
                    f"Padding and positions: in a batch an answer's log-probability is {mine:.4f},"
                    f" by {what} {theirs:.4f} (allowed: {allowed:.4f} apart); this version of"
                    " transformers computes this model otherwise, so its results cannot be"
                    " trusted: install the pinned versions (constraints.txt)."
                )


def dummy(size: tuple[int, int]) -> Image.Image:
    """A small picture with something in it: a red disc's worth of red on blue."""
    picture = Image.new("RGB", size, (30, 60, 200))
    picture.paste((220, 30, 30), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    return picture
