"""A scripted model for SENA: a pure function of the prompt's text and pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import torch

from methods.interface import (
    Completion,
    Corrupt,
    Decoding,
    Item,
    Prompt,
)
from methods.sena.prompts import SYNTHETIC
from tests.tiny_models import picture

Script = Callable[[Prompt, bool, int], str | None]
WORDS = "red green blue ball box cup plate house tree boat fish yes no".split()
ASKED = (
    "what colour is the ball?",
    "is there a cup? how many balls are there?",
    "what is the name of the boat?",
    "there is a ball.",
    "a ball and a box. where is the box?",
)


class ScriptedVLM:
    """Answers computed from the prompt's text and pixels; ``script`` may answer first. Calls are
    recorded."""

    def __init__(self, script: Script | None = None) -> None:
        self.calls: list[tuple[list[Prompt], Decoding, bool]] = []
        self.script = script

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        assert prompts, "an empty call reached the model"
        assert len({prompt.key for prompt in prompts}) == len(prompts)
        self.calls.append((list(prompts), decoding, corrupt is not None))
        return [self._answer(prompt, corrupt) for prompt in prompts]

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:  # noqa: ARG002
        raise AssertionError("SENA asks for no scores")

    def _answer(self, prompt: Prompt, corrupt: Corrupt | None) -> Completion:
        seen = b""
        if prompt.image is not None:
            pixels = (
                torch.frombuffer(bytearray(prompt.image.tobytes()), dtype=torch.uint8)
                .float()
                .reshape(3, 60, 60)
                / 255
            )
            seen = (corrupt(pixels, prompt.key) if corrupt else pixels).numpy().tobytes()
        number = int.from_bytes(hashlib.sha256(seen + prompt.text.encode()).digest()[:6], "big")
        text = self.script(prompt, corrupt is not None, number) if self.script else None
        if text is None:
            text = _scripted(prompt.text, number)
        return Completion(
            text=text, logp=-float(number % 97), n_tokens=len(text.split()) + 1, finished=True
        )


def _scripted(text: str, number: int) -> str:
    words: list[str] = [
        WORDS[number // int(len(WORDS) ** place) % len(WORDS)] for place in range(6)
    ]
    if text == SYNTHETIC.ask:
        return ASKED[number % len(ASKED)]
    if text.startswith("can this be answered"):
        return (
            f"keep : {text.rsplit(' : ', 1)[-1]}" if number % 3 else "ask : what is in the picture?"
        )
    if text.endswith(SYNTHETIC.brief):
        return f"there is a {words[0]} {words[1]} and a {words[2]} {words[3]}."
    if text.endswith(SYNTHETIC.word):
        return words[4]
    return f"precise answer : a {words[0]} {words[1]}" if number % 4 else f"a {words[2]}"


ITEMS = [
    Item(id=f"picture/{index}", image=picture(index), another=partial(picture, 100 + index))
    for index in range(12)
]
