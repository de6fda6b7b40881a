"""The engine's reference: transformers' processor, ``generate`` and full forward pass, one prompt
at a time."""

from __future__ import annotations

from typing import Any

import torch

from harness.models.chat_format import renderer
from methods.interface import Prompt
from tests.tiny_models import picture, tiny_llava


def inputs(processor: Any, prompt: Prompt, completion: str = "") -> Any:
    text = (
        renderer(processor).render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
        + completion
    )
    return processor(images=prompt.image, text=text, return_tensors="pt", add_special_tokens=False)


def greedy(model: Any, processor: Any, prompt: Prompt, limit: int) -> list[int]:
    """The new token ids that ``model.generate`` gives."""
    given = inputs(processor, prompt)
    ids = model.generate(**given, max_new_tokens=limit, do_sample=False)
    return list(ids[0, given["input_ids"].shape[1] :].tolist())


@torch.no_grad()
def logp_of(model: Any, processor: Any, prompt: Prompt, ids: list[int]) -> float:
    """The summed log-probability of token ids behind the prompt, from one full forward pass."""
    given = inputs(processor, prompt)
    start, new = given["input_ids"].shape[1], torch.tensor([ids])
    given["input_ids"] = torch.cat([given["input_ids"], new], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    logps = model(**given).logits[0, start - 1 : -1].log_softmax(-1)
    return float(logps.gather(1, new[0, :, None]).sum())


def logp(model: Any, processor: Any, prompt: Prompt, answer: str) -> float:
    """The summed log-probability of an answer and the end token."""
    start = inputs(processor, prompt)["input_ids"].shape[1]
    whole = inputs(processor, prompt, renderer(processor).render_completion(answer))["input_ids"]
    return logp_of(model, processor, prompt, whole[0, start:].tolist())


def ending(seed: int = 0) -> tuple[Any, Any]:
    """A tiny model that often ends its answers. Plain random weights rarely choose the end
    token."""
    model, processor = tiny_llava(seed)
    with torch.no_grad():
        # The weights are tied. The end token's row is 1.3 times the sum of some other rows.
        rows = model.lm_head.weight
        rows[processor.tokenizer.eos_token_id] = 1.3 * rows[[12, 20, 31, 40]].sum(0)
    return model, processor


TEXTS = (
    "what is there ?",
    "describe the picture briefly .",
    "is there a red ball in the image ? answer with a single word or phrase .",
    "colour",
)


def mixed() -> list[Prompt]:
    """16 prompts of different lengths: four for each of three images, each time as a copy, and four
    without an image; some have a prefix."""
    prompts = []
    for number in range(4):
        for place, text in enumerate(TEXTS):
            image = None if number == 3 else picture(number).copy()
            prefix = "a red ball and" if place == number else ""
            prompts.append(Prompt(key=f"{number}/{place}", text=text, image=image, prefix=prefix))
    return prompts
