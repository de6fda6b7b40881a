"""SIMA's second step, the in-context self-critic (Wang et al., arXiv 2405.15973, section 3.2): the
same model says which of two responses is better.

The critic writes a verdict ("text", as published), or the log-probabilities of both verdicts are
compared ("margin": log P([[1]]) - log P([[2]])), which is more reliable for a small model. A critic
may prefer the response that it reads first. Asked in both orders, such a critic contradicts itself,
and the preference cancels in the mean margin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from methods.interface import JSON, VLM, Decoding, Prompt
from methods.keys import coin
from methods.sima.prompts import SimaPrompts
from methods.sima.responses import Responses

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
    """What the critic said when it was asked once."""

    first: Side
    """The response that it read first."""
    prompt: str
    text: str | None
    """What it wrote; None if the verdicts were scored."""
    margin: float | None
    """log P([[1]]) - log P([[2]]) in nats; None if it wrote."""
    verdict: Literal[1, 2] | None
    """The number of the better response; None: not readable, or both equally likely."""

    @property
    def winner(self) -> Side | None:
        if self.verdict is None:
            return None
        return self.first if self.verdict == 1 else other(self.first)

    @property
    def margin_for_greedy(self) -> float:
        """The margin (nats) in favour of the greedy response; only if the verdicts were scored."""
        assert self.margin is not None
        return self.margin if self.first == "greedy" else -self.margin

    def as_json(self) -> JSON:
        return {**asdict(self), "winner": self.winner}


@dataclass(frozen=True, kw_only=True)
class Critic:
    """How the critic is asked; the fields are those of the method."""

    prompts: SimaPrompts
    order: Order
    verdict: Verdict
    criteria: bool
    examples: bool
    ground_truth: bool
    max_new_tokens: int
    request_first: bool = False

    def opinions(self, vlm: VLM, compared: Sequence[Responses]) -> list[tuple[Opinion, ...]]:
        """The opinions on each comparison, one per order; all are asked in one call.

        Raises:
            ValueError: an item has no reference answer, and the prompt shows it.
        """
        questions = [
            (responses, first)
            for responses in compared
            for first in orders(responses.key, self.order)
        ]
        prompts = [
            Prompt(
                key=f"{responses.key}/critic/{first}",
                text=self.prompt(responses, first),
                image=responses.item.image,
                prefix=self.prompts.verdict_lead if self.verdict == "margin" else "",
            )
            for responses, first in questions
        ]
        if not prompts:
            return []
        answers = (
            self._score(vlm, prompts) if self.verdict == "margin" else self._read(vlm, prompts)
        )
        opinions: dict[str, list[Opinion]] = {}
        for (responses, first), prompt, answer in zip(questions, prompts, answers, strict=True):
            opinions.setdefault(responses.key, []).append(_opinion(first, prompt.text, *answer))
        return [tuple(opinions[responses.key]) for responses in compared]

    def prompt(self, responses: Responses, first: Side) -> str:
        """The critic's prompt; the ``first`` response is number 1."""
        texts = {"greedy": responses.greedy.text, "sample": responses.sample.text}
        return self.prompts.render(
            responses.question,
            responses.item.required("reference") if self.ground_truth else None,
            texts[first],
            texts[other(first)],
            criteria=self.criteria,
            examples=self.examples,
            request_first=self.request_first,
        )

    def _read(self, vlm: VLM, prompts: Sequence[Prompt]) -> list[tuple[str | None, float | None]]:
        """The texts that the critic writes."""
        answers = vlm.generate(prompts, Decoding(max_new_tokens=self.max_new_tokens))
        return [(answer.text, None) for answer in answers]

    def _score(self, vlm: VLM, prompts: Sequence[Prompt]) -> list[tuple[str | None, float | None]]:
        """The margins between both verdicts."""
        twice = [prompt for prompt in prompts for _ in range(2)]
        logps = vlm.logps(twice, [FIRST, SECOND] * len(prompts))
        return [(None, a - b) for a, b in zip(logps[::2], logps[1::2], strict=True)]


def _opinion(first: Side, prompt: str, text: str | None, margin: float | None) -> Opinion:
    preferred: Literal[1, 2] | None = 1 if (margin or 0) > 0 else 2 if (margin or 0) < 0 else None
    verdict = preferred if text is None else read_verdict(text)
    return Opinion(first=first, prompt=prompt, text=text, margin=margin, verdict=verdict)


def read_verdict(text: str) -> Literal[1, 2] | None:
    """The last bracketed verdict, 1 or 2; None if there is none or it is anything else."""
    bracketed = _BRACKETED.findall(text)
    last = bracketed[-1].strip() if bracketed else ""
    return 1 if last == "1" else 2 if last == "2" else None


def decide(opinions: Sequence[Opinion], least_margin: float) -> Side | str:
    """Which response is better, or the reason for no decision.

    Written verdicts must be readable and must name the same response in every order. Margins are
    averaged over the orders; the mean must not be zero, and must be at least ``least_margin`` nats
    away from it."""
    if opinions[0].margin is None:
        winners = [opinion.winner for opinion in opinions]
        if None in winners:
            return NO_VERDICT
        return INCONSISTENT if len(set(winners)) > 1 else str(winners[0])
    margin = mean_margin(opinions)
    assert margin is not None
    if not abs(margin) > 0 or abs(margin) < least_margin:
        return UNCERTAIN
    return "greedy" if margin > 0 else "sample"


def mean_margin(opinions: Sequence[Opinion]) -> float | None:
    """The mean margin (nats) in favour of the greedy response; None if verdicts were written."""
    if opinions[0].margin is None:
        return None
    return sum(opinion.margin_for_greedy for opinion in opinions) / len(opinions)


def orders(key: str, order: Order) -> tuple[Side, ...]:
    """The response to be read first, one entry for each time the critic is asked. "fixed" is the
    sample, as in the released code."""
    if order == "both":
        return ("greedy", "sample")
    if order == "fixed":
        return ("sample",)
    return ("greedy",) if coin(f"{key}/order") else ("sample",)


def other(side: Side) -> Side:
    return "sample" if side == "greedy" else "greedy"
