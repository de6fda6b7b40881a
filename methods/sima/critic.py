"""SIMA's second step, the in-context self-critic (arXiv 2405.15973, section 3.2): the same model
says which response is better.

The critic writes a verdict (``text``, as published) or is scored on the two verdicts (``margin``:
log P([[1]]) - log P([[2]]), which a small model answers better). ``order`` says which response
stands first; asked in both orders, a critic that only likes a place contradicts itself, and its
liking cancels out of the margin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from methods.interface import JSON, VLM, Decoding, Prompt
from methods.keys import coin
from methods.sima.prompts import SimaPrompts
from methods.sima.responses import Responses, reference

Order = Literal["random", "fixed", "both"]
Verdict = Literal["text", "margin"]
Side = Literal["greedy", "sample"]

NO_VERDICT = "no verdict"
INCONSISTENT = "inconsistent verdicts"
UNCERTAIN = "uncertain verdict"

FIRST, SECOND = "[[1]]", "[[2]]"
_BRACKETED = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """The critic asked once: which response stood ``first``, the prompt, and what came of it.

    ``text`` is what the critic wrote (None where it was scored), ``margin`` is log P([[1]]) - log
    P([[2]]) in nats (None where it wrote), ``verdict`` the better one's number (None: not readable,
    or both equally likely)."""

    first: Side
    prompt: str
    text: str | None
    margin: float | None
    verdict: Literal[1, 2] | None

    @property
    def winner(self) -> Side | None:
        return (
            None if self.verdict is None else self.first if self.verdict == 1 else other(self.first)
        )

    @property
    def for_greedy(self) -> float:
        """The margin (nats) by which the greedy response is preferred; only where the critic was
        scored."""
        assert self.margin is not None
        return self.margin if self.first == "greedy" else -self.margin

    def as_json(self) -> JSON:
        return {**asdict(self), "winner": self.winner}


@dataclass(frozen=True, kw_only=True)
class Critic:
    """How the critic is asked; the fields are those of the method, explained there."""

    prompts: SimaPrompts
    order: Order
    verdict: Verdict
    criteria: bool
    examples: bool
    ground_truth: bool
    max_new_tokens: int

    def opinions(self, vlm: VLM, compared: Sequence[Responses]) -> list[tuple[Opinion, ...]]:
        """The critic's opinions on each comparison, one an order asked: all in one call to the
        model."""
        firsts = [orders(responses.key, self.order) for responses in compared]
        asks = [
            Prompt(
                key=f"{responses.key}/critic/{first}",
                text=self.prompt(responses, first),
                image=responses.item.image,
                prefix=self.prompts.verdict_lead if self.verdict == "margin" else "",
            )
            for responses, sides in zip(compared, firsts, strict=True)
            for first in sides
        ]
        if not asks:
            return []
        heard = iter(self._score(vlm, asks) if self.verdict == "margin" else self._read(vlm, asks))
        told = ((ask.text, *next(heard)) for ask in asks)
        return [tuple(_opinion(first, *next(told)) for first in sides) for sides in firsts]

    def prompt(self, responses: Responses, first: Side) -> str:
        """The critic's prompt with the ``first`` response at the first place."""
        texts = {"greedy": responses.greedy.text, "sample": responses.sample.text}
        return self.prompts.render(
            responses.question,
            reference(responses.item) if self.ground_truth else None,
            texts[first],
            texts[other(first)],
            criteria=self.criteria,
            examples=self.examples,
        )

    def _read(self, vlm: VLM, asks: Sequence[Prompt]) -> list[tuple[str | None, float | None]]:
        return [
            (answer.text, None)
            for answer in vlm.generate(asks, Decoding(max_new_tokens=self.max_new_tokens))
        ]

    def _score(self, vlm: VLM, asks: Sequence[Prompt]) -> list[tuple[str | None, float | None]]:
        logps = vlm.logps([ask for ask in asks for _ in range(2)], [FIRST, SECOND] * len(asks))
        return [(None, one - two) for one, two in zip(logps[::2], logps[1::2], strict=True)]


def _opinion(first: Side, prompt: str, text: str | None, margin: float | None) -> Opinion:
    preferred: Literal[1, 2] | None = 1 if (margin or 0) > 0 else 2 if (margin or 0) < 0 else None
    verdict = preferred if text is None else read_verdict(text)
    return Opinion(first=first, prompt=prompt, text=text, margin=margin, verdict=verdict)


def read_verdict(text: str) -> Literal[1, 2] | None:
    """The last bracketed verdict: 1 or 2; None where there is none or it says anything else."""
    found = _BRACKETED.findall(text)
    said = found[-1].strip() if found else ""
    return 1 if said == "1" else 2 if said == "2" else None


def decide(opinions: Sequence[Opinion], least_margin: float) -> Side | str:
    """Which response is better, or the reason why nobody can say.

    Written verdicts must be readable and name the same response in every order asked. Margins are
    averaged over the orders asked; their mean must be at least ``least_margin`` nats away from
    zero, and not zero."""
    if opinions[0].margin is None:
        winners = {opinion.winner for opinion in opinions}
        if None in winners:
            return NO_VERDICT
        return (
            INCONSISTENT
            if len(winners) > 1
            else next(winner for winner in winners if winner is not None)
        )
    margin = mean_margin(opinions)
    assert margin is not None
    if not abs(margin) > 0 or abs(margin) < least_margin:
        return UNCERTAIN
    return "greedy" if margin > 0 else "sample"


def mean_margin(opinions: Sequence[Opinion]) -> float | None:
    """The mean margin (nats) in favour of the greedy response; None where verdicts were written."""
    if opinions[0].margin is None:
        return None
    return sum(opinion.for_greedy for opinion in opinions) / len(opinions)


def orders(key: str, order: Order) -> tuple[Side, ...]:
    """Which responses stand first, an element a time the critic is asked. Fixed: the sample, as in
    the released code."""
    if order == "both":
        return ("greedy", "sample")
    if order == "fixed":
        return ("sample",)
    return ("greedy",) if coin(f"{key}/order") else ("sample",)


def other(side: Side) -> Side:
    return "sample" if side == "greedy" else "greedy"
