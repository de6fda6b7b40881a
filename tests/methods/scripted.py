"""A scripted model for SIMA and the references: a pure function of the prompt, its pixels and, for
samples, its key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from methods.interface import Completion, Corrupt, Decoding, Item, Prompt
from methods.sima.prompts import SYNTHETIC
from tests.tiny_models import picture

COLOURS = "red green blue yellow".split()
THINGS = "ball box cup plate house tree boat fish".split()
_SIDES = re.compile(
    r"question : .* truth : (?P<truth>.*) first : (?P<first>.*)"
    r" second : (?P<second>.*?) (?:compare|which)"
)


def number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def caption(seed: int) -> str:
    """Three things with their colours."""
    names = [
        f"a {COLOURS[seed // 7**place % 4]} {THINGS[seed // 11**place % 8]}" for place in range(3)
    ]
    return f"there is {names[0]} , {names[1]} and {names[2]} ."


ITEMS = [
    Item(
        id=f"picture/{index}",
        image=picture(index),
        question="describe the image in detail .",
        reference=caption(number(index)),
    )
    for index in range(10)
]


class ScriptedVLM:
    """Captions computed from the pixels; samples depend on the prompt's key and the seed, too. The
    critic counts the words that each response shares with the truth and favours the first response
    by ``bias`` nats. ``script`` may answer first. Calls are recorded."""

    def __init__(
        self, script: Callable[[Prompt, Decoding], str | None] | None = None, bias: float = 0.0
    ) -> None:
        self.calls: list[tuple[list[Prompt], Decoding | None]] = []
        self.script = script
        self.bias = bias

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        assert prompts, "an empty call reached the model"
        assert len({prompt.key for prompt in prompts}) == len(prompts)
        assert corrupt is None
        self.calls.append((list(prompts), decoding))
        return [self._answer(prompt, decoding) for prompt in prompts]

    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        assert prompts, "an empty call reached the model"
        self.calls.append((list(prompts), None))
        # Half of the margin either way, as far below zero as log-probabilities lie.
        return [
            -10.0 + self.margin(prompt) * (0.5 if text == "[[1]]" else -0.5)
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    def margin(self, prompt: Prompt) -> float:
        """The first response's words shared with the truth, less the second's, plus the bias."""
        found = _SIDES.search(prompt.text)
        assert found is not None, prompt.text
        truth = set(found["truth"].split())
        first, second = (len(truth & set(found[side].split())) for side in ("first", "second"))
        return first - second + self.bias

    def _answer(self, prompt: Prompt, decoding: Decoding) -> Completion:
        text = self.script(prompt, decoding) if self.script else None
        if text is None and prompt.text.endswith(SYNTHETIC.verdict):
            margin = self.margin(prompt)
            text = f"perhaps [[2]] . no : [[{1 if margin > 0 else 2}]]" if margin else "neither ."
        if text is None:
            assert prompt.image is not None
            chance = (prompt.key, decoding.seed) if decoding.temperature else ()
            text = caption(number(prompt.image.tobytes(), prompt.text, *chance))
        return Completion(
            text=text, logp=-float(number(text) % 97), n_tokens=len(text.split()) + 1, finished=True
        )
