"""What the GPU bench runs: a call of the engine, images, a clock, and the least time that a
workload can take on one H200."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from methods.interface import BeamSearch, Corrupt, Decoding, Prompt
from tests.benches import made

Kind = Literal["generate", "branch", "logps", "relevance"]

PATCHES, FORMAT = 576, 12
"""Tokens of a prompt beside its text: the image's, the format's."""
TOKEN, WEIGHTS, KEYS = 13.5e9, 13.5e9, 512 * 2**10
"""LLaVA-1.5-7B: FLOP a token, bytes of weights, bytes of a position's keys and values."""
LOOK, SAID = 0.35e12, 0.17e9
"""CLIP ViT-L/14 at 336 pixels: FLOP an image, FLOP a token of a sentence."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a card does a second: FLOP in bfloat16 and in float32, bytes of memory read; and the
    bytes that it has left for keys and values."""

    flops: float
    flops32: float
    bytes: float
    room: float


H200 = Rates(flops=790e12, flops32=67e12, bytes=4.3e12, room=120e9)
"""As others measured on such a card; float32 is its data sheet's, without tensor cores."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the engine: prompts and how each goes on; ``corrupt`` marks images made
    unreadable.

    ``lengths``: how many new tokens each prompt's answers had when the call was recorded, one
    number an answer (a branching prompt has several). ``completions``: what is scored, of a call of
    kind "logps". In a call of kind "relevance", to an image-text model, a prompt's text is a
    sentence and its image the image that it is compared with."""

    name: str
    prompts: Sequence[Prompt]
    how: Decoding | BeamSearch
    corrupt: Corrupt | None = None
    kind: Kind = "generate"
    lengths: Sequence[Sequence[int]] = ()
    completions: Sequence[str] = ()

    @property
    def most(self) -> dict[str, int]:
        """By prompt's key how many tokens each of its answers is forced to: recorded, or the mean
        of those of a node."""
        return {
            prompt.key: max(1, round(sum(lengths) / len(lengths)))
            for prompt, lengths in zip(self.prompts, self.lengths, strict=True)
            if lengths
        }


def clock(device: str) -> float:
    """Seconds: on an accelerator by the clock when its work is done, on the CPU of processor
    time."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def pictures(count: int, side: int) -> list[Image.Image]:
    """Images of random pixels."""
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def floor_seconds(calls: Sequence[Call], pictures: int, rates: Rates = H200) -> float:
    """Seconds an image below which these calls of LLaVA-1.5-7B cannot come on a card of these
    rates.

    The calls are made one after the other. The numbers below are an H200's.

    Prompts: 13.5 GFLOP a token at 790 TFLOP/s; an image's 576 tokens once for all calls (a
    corrupted one once a prompt), a text about it once, a prefix never (a search has just written
    it), a scored completion as so many prompt tokens. Decoding, a call at a time: the larger of
    13.5 GFLOP a new token, and of what is read at 4.3 TB/s. Read are 13.5 GB of weights a step, 3.1
    ms, with as many steps as the longest answer has tokens, times the fillings of 120 GB that the
    rows' keys and values make; and 512 KiB a position: the image once a step for all prompts
    about it, a prompt's text once for all its candidates, each candidate's own tokens, which grow
    from 1 to n: n (n + 1) / 2. CLIP, which runs in float32: 0.35 TFLOP an image, 0.17 GFLOP a
    token of a sentence, at 67 TFLOP/s. Texts have 1.3 tokens a word. The image tower (0.4 ms a
    image), attention's own FLOPs and all work of the CPU are left out."""
    seconds, read = 0.0, set[tuple[int, str, str]]()
    for call in calls:
        if call.kind == "relevance":
            said = sum(made.tokens(one.text) for one in call.prompts)
            seconds += (
                LOOK * len({id(one.image) for one in call.prompts}) + SAID * said
            ) / rates.flops32
            continue
        many = call.how.num_beams if isinstance(call.how, BeamSearch) else 1
        most, longest = call.most, dict[tuple[int, str], int]()
        prompt_tokens = new_tokens = positions = held = 0.0
        for place, prompt in enumerate(call.prompts):
            head = (id(prompt.image), prompt.key if call.corrupt else "")
            text, length = FORMAT + made.tokens(prompt.text), most.get(prompt.key, 0)
            behind = text + (made.tokens(prompt.prefix) if prompt.prefix else 0)
            prompt_tokens += PATCHES * ((*head, "") not in read) + text * (
                (*head, prompt.text) not in read
            )
            prompt_tokens += made.tokens(call.completions[place]) if call.kind == "logps" else 0
            read |= {(*head, ""), (*head, prompt.text)}
            new_tokens += many * length
            positions += length * behind + many * length * (length + 1) / 2
            held += behind + many * length
            longest[head] = max(longest.get(head, 0), length)
        positions += PATCHES * sum(longest.values())
        fillings = max(1.0, KEYS * (held + PATCHES * len(longest)) / rates.room)
        reading = (WEIGHTS * max(longest.values()) * fillings + KEYS * positions) / rates.bytes
        seconds += TOKEN * prompt_tokens / rates.flops + max(
            TOKEN * new_tokens / rates.flops, reading
        )
    return seconds / pictures
