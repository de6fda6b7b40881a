"""Diverse beam search (Vijayakumar et al., arXiv 1610.02424) of one batch: the next words of each
prompt in several ways.

Beams are searched in groups, one group after the other in each step; a group sees the
log-probabilities of tokens lowered for every beam of an earlier group that took them in this step
(Hamming diversity). The rest is transformers' beam search as of its last version with groups
(4.49): a group holds as many finished hypotheses as it has beams, ranked by the sum of lowered
log-probabilities over the number of tokens, and is done when no open beam looks better than the
worst of them. Two things differ: a group that is done lowers no token for the others (there it
lowered the padding token), and an end may be a string."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.engine.decode import Row, Running, Speaker, Stops, decode
from methods.interface import BeamSearch, Decoding

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]
Next = tuple[float, int, int, float]
"""A next token: the sum with it as the search sees it, the place of the beam that it continues,
itself, its log-probability."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A continuation: its tokens, the sum of their log-probabilities as the search sees them and as
    the model gives them."""

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

    def step(
        self, ranked: Sequence[Next], ends: frozenset[int], stops: Stops, *, all: bool
    ) -> list[int] | None:
        """Take one step with the best next tokens, best first: the place of the beam that each new
        open beam continues.

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
            len(self.finished) == self.size
            and min(beam.score for beam in self.finished) >= ranked[0][0] / length
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


def branch(
    speaker: Speaker, rows: Sequence[Row], branching: BeamSearch, ends: frozenset[int], stops: Stops
) -> list[list[Beam]]:
    """Each row's beams, best score first; with ``branching.end`` "apart" one more, the end at once,
    comes last."""
    if branching.temperature > 0:
        return sampled(speaker, rows, branching, ends, stops)
    size = branching.num_beams // branching.num_beam_groups
    apart = sorted(ends) if branching.end == "apart" else []
    stopping = frozenset() if branching.end == "token" else ends
    running = Running(speaker, rows, branching.max_new_tokens, copies=branching.num_beams)
    groups = [
        Group(prompt=prompt, number=number, size=size, beams=[Beam()])
        for prompt in range(len(rows))
        for number in range(branching.num_beam_groups)
    ]
    logps = running.logits().log_softmax(-1)
    alone: list[list[Beam]] = [[] for _ in rows]
    if apart:
        values, best_of = (found.tolist() for found in logps[:, apart].max(-1))
        alone = [
            [Beam(ids=(apart[at],), total=value, logp=value, finished=True)]
            for value, at in zip(values, best_of, strict=True)
        ]
        logps = logps.index_fill(1, torch.tensor(apart, device=speaker.device), -torch.inf)
    # The first step has one row a prompt; from then on every open beam has a row of its own, group
    # by group.
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
        # Copying the cache costs about a step: a few finished groups stay in, as rows that nobody
        # reads.
        keep = left if len(left) <= len(active) * 7 // 8 else list(range(len(active)))
        sources = [
            places[at] + source
            for at in keep
            for source in steps.get(at, [min(j, width - 1) for j in range(size)])
        ]
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
    return [
        sorted(beams, key=lambda beam: beam.score)[::-1] + kept
        for beams, kept in zip(found, alone, strict=True)
    ]


def sampled(
    speaker: Speaker, rows: Sequence[Row], branching: BeamSearch, ends: frozenset[int], stops: Stops
) -> list[list[Beam]]:
    """Independent samples in place of beams, each seeded by its row's key and its number."""
    many = branching.num_beams
    drawn = [replace(row, key=f"{row.key}/{number}") for row in rows for number in range(many)]
    decoding = Decoding(
        max_new_tokens=branching.max_new_tokens,
        temperature=branching.temperature,
        top_p=branching.top_p,
        seed=branching.seed,
    )
    written = decode(
        speaker, drawn, decoding, frozenset() if branching.end == "token" else ends, stops
    )
    beams = [
        Beam(ids=tuple(each.ids), total=each.logp, logp=each.logp, finished=each.finished)
        for each in written
    ]
    return [
        sorted(beams[at : at + many], key=lambda beam: -beam.score)
        for at in range(0, len(beams), many)
    ]


def take(
    groups: Sequence[Group],
    places: Sequence[int],
    width: int,
    logps: Tensor,
    branching: BeamSearch,
    ends: frozenset[int],
    stops: Stops,
) -> dict[int, list[int]]:
    """One step of every group that is not done, the groups of a prompt in their order.

    ``logps`` (B, V) hold ``width`` rows a group, from its place on. Returned by a group's index:
    the places of the beams that its new ones continue.

    What a group sees is lowered for the tokens that earlier groups took, and for no others: its
    best tokens are among those that are best when nothing is lowered, if as many more are looked at
    as may be lowered. So the device is asked once, for all groups; the rest is sums of the same
    float32 numbers here."""
    size = branching.num_beams // branching.num_beam_groups
    many = size * (2 + len(ends) + 4 * len(stops.stops))
    words = logps.shape[1]
    values, tokens = best(logps, min(words, many + branching.num_beams - size))
    lowering = np.concatenate(
        [[0], np.full(branching.num_beams, branching.diversity_penalty)]
    ).astype(np.float32)
    lowering = np.add.accumulate(lowering)  # as they add up one by one
    taken: dict[int, list[int]] = {}
    chosen: dict[int, list[int]] = {}
    for number in range(branching.num_beam_groups):
        members = [
            at for at, group in enumerate(groups) if group.number == number and not group.done
        ]
        if not members:
            continue
        rows = np.array([[places[at] + j for j in range(width)] for at in members])
        before = np.array(
            [[beam.total for beam in groups[at].beams] for at in members], dtype=np.float32
        )
        earlier = [chosen.setdefault(groups[at].prompt, []) for at in members]
        plain, words_of = values[rows], tokens[rows]  # (N, width, K)
        totals = plain - lowering[times(words_of, earlier)] + before[:, :, None]
        ranked = rank(totals, plain, words_of, min(many, width * words))
        for at, row, one in zip(members, rows, ranked, strict=True):
            group = groups[at]
            sources = group.step(one, ends, stops, all=len(one) == width * words)
            if sources is None:  # too many of the best are ends: all tokens are looked at
                plain = logps[torch.from_numpy(row).to(logps.device)].cpu().numpy()[None]
                every = np.broadcast_to(np.arange(words), plain.shape)
                start = np.array([[beam.total for beam in group.beams]], dtype=np.float32)
                totals = plain - lowering[times(every, [chosen[group.prompt]])] + start[:, :, None]
                sources = group.step(
                    rank(totals, plain, every, width * words)[0], ends, stops, all=True
                )
            taken[at] = sources or []
        if branching.diversity_penalty and number + 1 < branching.num_beam_groups:
            for at in members:
                chosen[groups[at].prompt] += [beam.ids[-1] for beam in groups[at].beams]
    return taken


def best(logps: Tensor, many: int) -> tuple[Floats, Whole]:
    """The ``many`` best tokens of each row of (B, V) and their log-probabilities, (B, many), in one
    transfer."""
    values, tokens = logps.topk(many)
    both = (
        torch.stack([values.double(), tokens.double()]).cpu().numpy()
    )  # doubles hold either exactly
    return both[0].astype(np.float32), both[1].astype(np.int64)


def times(tokens: Whole, chosen: Sequence[Sequence[int]]) -> Whole:
    """How often each of the tokens (N, width, K) was chosen, by a list for each of N."""
    most = max(map(len, chosen))
    padded = np.array(
        [[*some, *[-1] * (most - len(some))] for some in chosen], dtype=np.int64
    ).reshape(len(chosen), most)
    found: Whole = (tokens[..., None] == padded[:, None, None]).sum(-1)
    return found


def rank(totals: Floats, plain: Floats, tokens: Whole, many: int) -> list[list[Next]]:
    """The ``many`` best of each group's next tokens, best first; all are (N, width, K)."""
    flat = totals.reshape(len(totals), -1)
    order = np.argsort(-flat, 1, kind="stable")[:, :many]
    found = (
        np.take_along_axis(each.reshape(len(totals), -1), order, 1).tolist()
        for each in (totals, plain, tokens)
    )
    beams = (order // totals.shape[2]).tolist()
    return [
        list(zip(total, beam, token, gain, strict=True))
        for total, gain, token, beam in zip(*found, beams, strict=True)
    ]
