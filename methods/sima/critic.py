"""SIMA's second step, the in-context self-critic (Wang et al., arXiv 2405.15973, section 3.2): the
same model says which of two responses is better.

The critic writes a verdict ("text", as published), or the log-probabilities of both verdicts are
compared ("margin": log P([[1]]) - log P([[2]])), which is more reliable for a small model. A critic
may prefer the response that it reads first. Asked in both orders, such a critic contradicts itself,
and the preference cancels in the mean margin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from methods.interface import JSON, Dropped, PreferencePair
from methods.keys import coin_flip

Order = Literal["random", "fixed", "both"]
Verdict = Literal["text", "margin"]
Side = Literal["greedy", "sample"]
SIDES: tuple[Side, ...] = get_args(Side)

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
        return self.first if self.verdict == 1 else other_side(self.first)

    @property
    def margin_for_greedy(self) -> float:
        """The margin (nats) in favour of the greedy response; only if the verdicts were scored."""
        assert self.margin is not None
        return self.margin if self.first == "greedy" else -self.margin

    def as_json(self) -> JSON:
        return {**asdict(self), "winner": self.winner}


def read_verdict(text: str) -> Literal[1, 2] | None:
    """The last bracketed verdict, 1 or 2; None if there is none or it is anything else."""
    bracketed = _BRACKETED.findall(text)
    last = bracketed[-1].strip() if bracketed else ""
    return 1 if last == "1" else 2 if last == "2" else None


def opinion_from_answer(first: Side, prompt: str, answer: str | float) -> Opinion:
    """The opinion in the text that the critic wrote, or in the margin between both verdicts."""
    if isinstance(answer, str):
        verdict = read_verdict(answer)
        return Opinion(first=first, prompt=prompt, text=answer, margin=None, verdict=verdict)
    verdict = 1 if answer > 0 else 2 if answer < 0 else None
    return Opinion(first=first, prompt=prompt, text=None, margin=answer, verdict=verdict)


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


def first_sides(key: str, order: Order) -> tuple[Side, ...]:
    """The response to be read first, one entry for each time the critic is asked. "fixed" is the
    sample, as in the released code."""
    if order == "both":
        return ("greedy", "sample")
    if order == "fixed":
        return ("sample",)
    return ("greedy",) if coin_flip(f"{key}/order") else ("sample",)


def other_side(side: Side) -> Side:
    return "sample" if side == "greedy" else "greedy"


@dataclass(frozen=True, kw_only=True)
class CriticReport:
    """What the critic did in a round; a share is None if there is nothing to divide by.

    Whether it was right is measured where the exact truth is known, by the record's pair
    statistics. The paper reports 89.8 % agreement with people with the criteria in the prompt,
    78.2 % without them."""

    compared: int
    """Comparisons that the critic was asked about."""
    asked: int
    """How often it was asked: twice per comparison in both orders."""
    pairs: int
    verdict_rate: float | None
    """Share of ``asked`` with a verdict."""
    greedy_wins: float | None
    """Share of the pairs whose chosen side is the greedy response."""
    first_wins: float | None
    """Share of the verdicts for the response read first. 0.5 is no position bias, where orders are
    random or both are asked."""
    inconsistent: float | None
    """Of the comparisons with a verdict in both orders, the share with different winners."""


def critic_report(records: Iterable[PreferencePair | Dropped]) -> CriticReport:
    """The report on SIMA's pairs and drops of a round."""
    records = list(records)
    traces: list[Mapping[str, Any]] = [record.trace for record in records]
    comparisons = [trace["critic"] for trace in traces if trace.get("critic")]
    all_opinions = [opinion for opinions in comparisons for opinion in opinions]
    verdicts = [opinion["verdict"] for opinion in all_opinions if opinion["verdict"] is not None]
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    winners = [[opinion["winner"] for opinion in opinions] for opinions in comparisons]
    in_both_orders = [sides for sides in winners if len(sides) == 2 and None not in sides]
    return CriticReport(
        compared=len(comparisons),
        asked=len(all_opinions),
        pairs=len(pairs),
        verdict_rate=_share(len(verdicts), len(all_opinions)),
        greedy_wins=_share(sum(pair.trace["greedy_won"] is True for pair in pairs), len(pairs)),
        first_wins=_share(verdicts.count(1), len(verdicts)),
        inconsistent=_share(
            sum(first != second for first, second in in_both_orders), len(in_both_orders)
        ),
    )


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
