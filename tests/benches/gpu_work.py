"""What the GPU bench runs: a model of LLaVA-1.5-7B's exact shape, and calls of the lengths that the methods' real runs have.

The model is built on the device from random weights; nothing is downloaded. Texts are fillers of a given number of tokens and
answers are forced to a given length, so every run does the same work whatever the weights say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.world import words
from harness.bases import BASES, load_base
from harness.embedded.architecture import Sizes, build_processor, build_tokenizer
from methods.interface import Branching, Corrupt, Decoding, Prompt
from methods.sena.corruption import corruption

Kind = Literal["generate", "branch", "logps", "relevance"]

FILLER = (
    "a red ball and a green box stand on the left of a blue table while two yellow plates and a small cup are near the window"
).split()


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Text tokens of prompts and new tokens of answers, by kind."""

    question: int
    sentence: int
    word: int
    response: int
    critic: int
    verdict: int
    levels: int
    answer: int
    side: int
    """A preferred or rejected answer in training."""


LENGTHS = {
    # SENA about 120 new tokens an image; SIMA 2 x 100 and a critic of 1,300 text tokens and 60 new; CSR 13 nodes of 5 x 20.
    "7b": Lengths(question=24, sentence=22, word=4, response=100, critic=1300, verdict=60, levels=5, answer=2, side=100),
    "tiny": Lengths(question=12, sentence=10, word=2, response=20, critic=160, verdict=8, levels=3, answer=2, side=20),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the engine: prompts and how each goes on; ``corrupt`` marks pictures made unreadable.

    ``lengths``: how many new tokens each prompt's answers had when the call was recorded, one number an answer (a branching
    prompt has several). ``completions``: what is scored, of a call of kind "logps". In a call of kind "relevance", to an
    image-text model, a prompt's text is a sentence and its image the picture that it is compared with.
    """

    name: str
    prompts: Sequence[Prompt]
    how: Decoding | Branching
    corrupt: Corrupt | None = None
    kind: Kind = "generate"
    lengths: Sequence[Sequence[int]] = ()
    completions: Sequence[str] = ()

    @property
    def most(self) -> dict[str, int]:
        """By prompt's key how many tokens each of its answers is forced to: recorded, or the mean of those of a node."""
        return {
            prompt.key: max(1, round(sum(lengths) / len(lengths)))
            for prompt, lengths in zip(self.prompts, self.lengths, strict=True)
            if lengths
        }


def build(shape: str, device: str) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its processor: ``tiny`` is the embedded base (trained, float32), ``7b`` random."""
    if shape == "tiny":
        return load_base(BASES["embedded"], device)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(words.vocabulary())
    sizes = Sizes(image=336, patch=14, positions=4096)
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=576,
        pad_token_id=tokenizer.pad_token_id,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    return model, build_processor(tokenizer, sizes)


def clock(device: str) -> float:
    """Seconds: on an accelerator by the clock when its work is done, on the CPU of processor time."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def pictures(count: int, side: int) -> list[Image.Image]:
    """Pictures of random pixels."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def filler(tokens: int, turn: int = 0) -> str:
    """A text of that many tokens of the word-level tokenizer."""
    return " ".join(FILLER[(turn + place) % len(FILLER)] for place in range(tokens))


def sena(images: Sequence[Image.Image], size: Lengths) -> list[Call]:
    """Eight generations a picture: ask, check, describe, answer, two betterings, two answers on a noised picture."""
    noise = corruption("diffusion", 600)
    kinds = [
        ("ask", 24, size.question, None),
        ("check", 60, size.question, None),
        ("describe", 20, size.sentence, None),
        ("answer", 30, size.word, None),
        ("better description", 90, size.sentence, None),
        ("better answer", 80, size.word, None),
        ("noised description", 20, size.sentence, noise),
        ("noised answer", 30, size.word, noise),
    ]
    return [
        Call(name=f"sena {name}", prompts=asked(name, images, text), how=Decoding(max_new_tokens=new), corrupt=corrupt)
        for name, text, new, corrupt in kinds
    ]


def sima(images: Sequence[Image.Image], size: Lengths) -> list[Call]:
    """Two responses and a critic's verdict a prompt. Both responses are greedy here: what is timed does not depend on it."""
    return [
        Call(name="sima response 1", prompts=asked("r1", images, 30), how=Decoding(max_new_tokens=size.response)),
        Call(name="sima response 2", prompts=asked("r2", images, 31), how=Decoding(max_new_tokens=size.response)),
        Call(name="sima critic", prompts=asked("critic", images, size.critic), how=Decoding(max_new_tokens=size.verdict)),
    ]


def csr(images: Sequence[Image.Image], size: Lengths) -> list[Call]:
    """The tree's levels: a root, then three nodes kept of each level, every one continued by five candidates of 20 tokens."""
    how = Branching(candidates=5, groups=5, diversity_penalty=3.0, max_new_tokens=20)
    calls = []
    for level in range(size.levels):
        prompts = [
            Prompt(key=f"{place}/{node}", text=filler(30), image=image, prefix=filler(20 * level, node))
            for place, image in enumerate(images)
            for node in range(3 if level else 1)
        ]
        calls.append(Call(name=f"csr level {level + 1}", prompts=prompts, how=how))
    return calls


def pope(images: Sequence[Image.Image], size: Lengths) -> list[Call]:
    """Eighteen short questions a picture."""
    prompts = [
        Prompt(key=f"{place}/{number}", text=filler(16, number), image=image)
        for place, image in enumerate(images)
        for number in range(18)
    ]
    return [Call(name="pope", prompts=prompts, how=Decoding(max_new_tokens=size.answer))]


def asked(kind: str, images: Sequence[Image.Image], tokens: int) -> list[Prompt]:
    """A prompt a picture; texts of a kind differ a little in length, as real ones do."""
    return [
        Prompt(key=f"{kind}/{place}", text=filler(tokens - place % 3, place), image=image) for place, image in enumerate(images)
    ]


WORK: dict[str, Callable[[Sequence[Image.Image], Lengths], list[Call]]] = {"sena": sena, "sima": sima, "csr": csr, "pope": pope}

FLOORS = {"sena": 0.045, "sima": 0.050, "csr": 0.060, "pope": 0.023}
"""Seconds a picture on one H200 (790 TFLOP/s in bfloat16, 4.3 TB/s), image prefixes computed once and everything batched: SENA
8 shared prefills 33 ms and decoding 11 ms; SIMA 20 and 26 ms; CSR 9 ms, 13 nodes' decoding 50 ms with a node's keys read once for
its five beams, 2 ms of CLIP (not run here); POPE 576 + 18 x 40 prompt tokens at 13.5 GFLOP each."""
