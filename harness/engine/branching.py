"""Diverse beam search (Vijayakumar et al., arXiv 1610.02424) of one batch: the next words of each prompt in several ways.

Beams are searched in groups, one group after the other in each step; a group sees the log-probabilities of tokens lowered for
every beam of an earlier group that took them in this step (Hamming diversity). The rest is transformers' beam search as of its
last version with groups (4.49): a group holds as many finished hypotheses as it has beams, ranked by the sum of lowered
log-probabilities over the number of tokens, and is done when no open beam looks better than the worst of them. Two things
differ: a group that is done lowers no token for the others (there it lowered the padding token), and an end may be a string.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.engine.decode import Row, Running, Speaker, Stops, decode
from methods.interface import Branching, Decoding

Next = tuple[float, int, int, float]
"""A next token: the sum with it as the search sees it, the place of the beam that it continues, itself, its log-probability."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A continuation: its tokens, the sum of their log-probabilities as the search sees them and as the model gives them."""

    ids: tuple[int, ...] = ()
    total: float = 0.0
    logp: float = 0.0
    finished: bool = False

    @property
    def score(self) -> float:
        return self.total / len(self.ids)


@dataclass(kw_only=True)
class Group:
    """One prompt's group: its open beams, the finished ones, and how many of each there may be."""

    prompt: int
    number: int
    size: int
    beams: list[Beam]
    finished: list[Beam] = field(default_factory=list)
    done: bool = False

    def finish(self, beam: Beam) -> None:
        """Keep a finished beam if it is among the best."""
        if len(self.finished) < self.size or beam.score > min(each.score for each in self.finished):
            self.finished.append(beam)
        if len(self.finished) > self.size:
            self.finished.remove(min(self.finished, key=lambda each: each.score))

    def step(self, ranked: Sequence[Next], ends: frozenset[int], stops: Stops, *, all: bool) -> list[int] | None:
        """Take one step with the best next tokens, best first: the place of the beam that each new open beam continues.

        None where fewer of them go on than there are beams, and they are not ``all`` there are.
        """
        grown: list[Beam] = []
        sources: list[int] = []
        ended: list[Beam] = []
        for rank, (total, source, token, gain) in enumerate(ranked):
            if total == -math.inf or len(grown) == self.size:
                break
            before = self.beams[source]
            ids, logp = [*before.ids, token], before.logp + gain
            if token not in ends and not stops.hit(ids):
                grown.append(Beam(ids=tuple(ids), total=total, logp=logp))
                sources.append(source)
            elif rank < self.size:  # an end that is not among the best tokens is none
                ended.append(Beam(ids=tuple(ids), total=total, logp=logp, finished=True))
        if len(grown) < self.size and not all:
            return None
        for beam in ended:
            self.finish(beam)
        length = len(self.beams[0].ids) + 1
        self.done = not grown or (
            len(self.finished) == self.size and min(beam.score for beam in self.finished) >= ranked[0][0] / length
        )
        for _ in range(self.size - len(grown)):  # a vocabulary that is nearly exhausted
            grown.append(Beam(ids=(0,) * length, total=-math.inf, logp=-math.inf))
            sources.append(0)
        self.beams = grown
        return sources

    def close(self) -> None:
        """At the limit of tokens open beams count as they are."""
        if not self.done:
            for beam in self.beams:
                if beam.total > -math.inf:
                    self.finish(beam)


def branch(speaker: Speaker, rows: Sequence[Row], branching: Branching, ends: frozenset[int], stops: Stops) -> list[list[Beam]]:
    """Each row's beams, best score first; with ``branching.end`` "apart" one more, the end at once, comes last."""
    if branching.temperature > 0:
        return sampled(speaker, rows, branching, ends, stops)
    size = branching.candidates // branching.groups
    apart = sorted(ends) if branching.end == "apart" else []
    stopping = frozenset() if branching.end == "token" else ends
    running = Running(speaker, rows, branching.max_new_tokens, copies=branching.candidates)
    groups = [
        Group(prompt=prompt, number=number, size=size, beams=[Beam()])
        for prompt in range(len(rows))
        for number in range(branching.groups)
    ]
    logps = running.logits().log_softmax(-1)
    alone: list[list[Beam]] = [[] for _ in rows]
    if apart:
        values, best_of = (found.tolist() for found in logps[:, apart].max(-1))
        alone = [
            [Beam(ids=(apart[at],), total=value, logp=value, finished=True)] for value, at in zip(values, best_of, strict=True)
        ]
        logps = logps.index_fill(1, torch.tensor(apart, device=speaker.device), -torch.inf)
    # The first step has one row a prompt; from then on every open beam has a row of its own, group by group.
    places = [group.prompt for group in groups]
    active, width = groups, 1
    for index in range(branching.max_new_tokens):
        steps = take(active, places, width, logps, branching, stopping, stops)
        for group in active:
            if index + 1 == rows[group.prompt].most:
                group.close()
                group.done = True
        left = [at for at, group in enumerate(active) if not group.done]
        if not left or index + 1 == branching.max_new_tokens:
            break
        # Copying the cache costs about a step: a few finished groups stay in, as rows that nobody reads.
        keep = left if len(left) <= len(active) * 7 // 8 else list(range(len(active)))
        sources = [places[at] + source for at in keep for source in steps.get(at, [min(j, width - 1) for j in range(size)])]
        tokens = [beam.ids[-1] for at in keep for beam in active[at].beams]
        active = [active[at] for at in keep]
        same = width == size and sources == list(range(len(running.lengths)))
        running.advance(torch.tensor(tokens, device=speaker.device), None if same else sources)
        places, width = [at * size for at in range(len(active))], size
        logps = running.logits().log_softmax(-1)
    for group in groups:
        group.close()
    found: list[list[Beam]] = [[] for _ in rows]
    for group in groups:
        found[group.prompt] += group.finished
    # Among equals the last comes first, as in transformers.
    return [sorted(beams, key=lambda beam: beam.score)[::-1] + kept for beams, kept in zip(found, alone, strict=True)]


def sampled(speaker: Speaker, rows: Sequence[Row], branching: Branching, ends: frozenset[int], stops: Stops) -> list[list[Beam]]:
    """Independent samples in place of beams, each seeded by its row's key and its number."""
    many = branching.candidates
    drawn = [replace(row, key=f"{row.key}/{number}") for row in rows for number in range(many)]
    decoding = Decoding(
        max_new_tokens=branching.max_new_tokens, temperature=branching.temperature, top_p=branching.top_p, seed=branching.seed
    )
    written = decode(speaker, drawn, decoding, frozenset() if branching.end == "token" else ends, stops)
    beams = [Beam(ids=tuple(each.ids), total=each.logp, logp=each.logp, finished=each.finished) for each in written]
    return [sorted(beams[at : at + many], key=lambda beam: -beam.score) for at in range(0, len(beams), many)]


def take(
    groups: Sequence[Group],
    places: Sequence[int],
    width: int,
    logps: Tensor,
    branching: Branching,
    ends: frozenset[int],
    stops: Stops,
) -> dict[int, list[int]]:
    """One step of every group that is not done, the groups of a prompt in their order.

    ``logps`` (B, V) hold ``width`` rows a group, from its place on. Returned by a group's index: the places of the beams that
    its new ones continue.
    """
    taken: dict[int, list[int]] = {}
    words = logps.shape[1]
    lowered = logps.new_zeros(max(group.prompt for group in groups) + 1, words)
    for number in range(branching.groups):
        members = [at for at, group in enumerate(groups) if group.number == number and not group.done]
        if not members:
            continue
        prompts = torch.tensor([groups[at].prompt for at in members], device=logps.device)
        rows = torch.tensor([[places[at] + j for j in range(width)] for at in members], device=logps.device)
        before = torch.tensor([[beam.total for beam in groups[at].beams] for at in members], device=logps.device)
        plain = logps[rows]
        totals = (plain - lowered[prompts][:, None] + before[:, :, None]).flatten(1)
        size = branching.candidates // branching.groups
        many = min(totals.shape[1], size * (2 + len(ends) + 4 * len(stops.stops)))
        for at, total, row, ranked in zip(members, totals, plain, best(totals, plain, many), strict=True):
            sources = groups[at].step(ranked, ends, stops, all=many == totals.shape[1])
            if sources is None:
                everything = best(total[None], row[None], totals.shape[1])[0]
                sources = groups[at].step(everything, ends, stops, all=True)
            taken[at] = sources or []
        if branching.diversity_penalty and number + 1 < branching.groups:
            chosen = torch.tensor([[beam.ids[-1] for beam in groups[at].beams] for at in members], device=logps.device)
            penalty = torch.full_like(chosen, 1, dtype=logps.dtype).flatten() * branching.diversity_penalty
            lowered.index_put_((prompts.repeat_interleave(chosen.shape[1]), chosen.flatten()), penalty, accumulate=True)
    return taken


def best(totals: Tensor, plain: Tensor, many: int) -> list[list[Next]]:
    """The ``many`` best next tokens of each group: totals (N, width * V), log-probabilities (N, width, V)."""
    values, flat = totals.topk(many)
    gains = plain.flatten(1).gather(1, flat)
    words = plain.shape[2]
    found = zip(values.tolist(), flat.tolist(), gains.tolist(), strict=True)
    return [[(v, at // words, at % words, g) for v, at, g in zip(*three, strict=True)] for three in found]
