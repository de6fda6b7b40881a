"""A scripted model and scorer for CSR: pure functions of image, text and prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL.Image import Image

from methods.interface import (
    BeamSearch,
    Branch,
    Completion,
    Item,
    Prompt,
)
from tests.tiny_models import picture

Script = Callable[[Prompt, BeamSearch], list[Branch]]
WORDS = "red green blue yellow purple orange brown".split()
THINGS = "ball box cup plate house tree boat fish".split()


def look(image: Image | None) -> bytes:
    return b"" if image is None else image.tobytes()[::997]


def number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def step(
    text: str, score: float = -0.5, *, end: bool = False, stopped: bool = True, tokens: int = 5
) -> Branch:
    return Branch(
        text=text,
        logp=score * tokens,
        n_tokens=tokens,
        finished=end or stopped,
        score=score,
        ended=end,
    )


def end(score: float) -> Branch:
    return step("", score, end=True, tokens=1)


def scripted(prompt: Prompt, branching: BeamSearch) -> list[Branch]:
    """Sentences with scores drawn from the prompt; the end gets likelier as the text grows."""
    seen = number(look(prompt.image), prompt.text, prompt.prefix)
    lead = " " if prompt.prefix else ""
    found = []
    for place in range(branching.num_beams):
        draw = number(seen, place)
        text = f"{lead}a {WORDS[draw % 7]} {THINGS[draw // 7 % 8]} is there."
        logp = -(draw % 1000) / 100 - place
        # A diversity penalty of 3 for each group before.
        found.append(
            Branch(
                text=text,
                logp=logp,
                n_tokens=7,
                finished=True,
                score=(logp - 3.0 * place) / 7,
                ended=draw % 29 == 0,
            )
        )
    found.sort(key=lambda branch: -branch.score)
    at_once = -(seen % 900) / 100 * 0.4 ** prompt.prefix.count(".")
    return [*found, end(at_once)] if branching.end == "apart" else found


class ScriptedVLM:
    """Branches from a script; calls are recorded."""

    def __init__(self, script: Script = scripted) -> None:
        self.script, self.calls = script, list[tuple[list[Prompt], BeamSearch]]()

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        assert prompts, "an empty call reached the model"
        assert len({prompt.key for prompt in prompts}) == len(prompts)
        self.calls.append((list(prompts), branching))
        return [self.script(prompt, branching) for prompt in prompts]

    def generate(self, *_: Any, **__: Any) -> list[Completion]:
        raise AssertionError("CSR only branches")

    def logps(self, *_: Any) -> list[float]:
        raise AssertionError("CSR only branches")


class ScriptedScorer:
    """A relevance from image and sentence alone."""

    def __init__(self) -> None:
        self.calls = 0

    def relevance(self, images: Sequence[Image], sentences: Sequence[str]) -> list[float]:
        self.calls += 1
        return [
            number(look(image), said) % 4000 / 100 - 2
            for image, said in zip(images, sentences, strict=True)
        ]


ITEMS = [
    Item(id=f"picture/{index}", image=picture(index), question=f"describe {index} .")
    for index in range(12)
]


def fixed(root: list[Branch], later: list[Branch]) -> Script:
    return lambda prompt, _: later if prompt.prefix else root
