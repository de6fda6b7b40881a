"""Diverse beam search (Vijayakumar et al., arXiv 1610.02424) for one batch of prompts.

Beams are searched in groups, one after the other in each step. A group sees a token's
log-probability lowered for each beam of an earlier group that took the token in this step (Hamming
diversity). The rest is transformers' group beam search of version 4.49, the last that had it: a
group keeps as many finished hypotheses as it has beams, ranked by their penalised log-probability
over their number of tokens, and is done when no open beam ranks above the worst of them.

Two things differ. A finished group lowers no token for the others (transformers lowers the padding
token there), and a stop string may end a beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.engine.decode import Stops, decode
from harness.engine.decode_state import Decoder, DecodeRow, DecodeState
from methods.interface import BeamSearch, Decoding

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Candidate = tuple[float, int, int, float]
"""A next token: the beam's penalised sum with it, the beam's index, the token, its
log-probability."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A continuation and the sum of its log-probabilities."""

    ids: tuple[int, ...] = ()
    total: float = 0.0
    """The sum minus the diversity penalties; the search ranks by it."""
    logp: float = 0.0
    """The sum of the model's log-probabilities."""
    finished: bool = False

    @property
    def score(self) -> float:
        return self.total / len(self.ids)


@dataclass(kw_only=True)
class Group:
    """A group of one prompt's beams: ``size`` open ones and at most ``size`` finished ones."""

    prompt: int
    number: int
    size: int
    beams: list[Beam]
    finished: list[Beam] = field(default_factory=list)
    done: bool = False

    def finish(self, beam: Beam) -> None:
        """Add a finished beam if it is among the ``size`` best."""
        if len(self.finished) < self.size or beam.score > min(kept.score for kept in self.finished):
            self.finished.append(beam)
        if len(self.finished) > self.size:
            self.finished.remove(min(self.finished, key=lambda kept: kept.score))

    def step(
        self, ranked: Sequence[Candidate], stops: Stops, *, complete: bool
    ) -> list[int] | None:
        """Extend the beams by the best candidates, best first. Returns the index of the beam that
        each new open beam continues.

        Returns None if too few candidates stay open and ``ranked`` is not ``complete``: the caller
        must rank more."""
        open_beams: list[Beam] = []
        parents: list[int] = []
        ended_beams: list[Beam] = []
        for rank, (total, parent, token, gain) in enumerate(ranked):
            if total == -math.inf or len(open_beams) == self.size:
                break
            parent_beam = self.beams[parent]
            ids, logp = [*parent_beam.ids, token], parent_beam.logp + gain
            if not stops.hit(ids):
                open_beams.append(Beam(ids=tuple(ids), total=total, logp=logp))
                parents.append(parent)
            elif rank < self.size:  # an end counts only among the best ``size`` candidates
                ended_beams.append(Beam(ids=tuple(ids), total=total, logp=logp, finished=True))
        if len(open_beams) < self.size and not complete:
            return None
        for beam in ended_beams:
            self.finish(beam)
        length = len(self.beams[0].ids) + 1
        self.done = not open_beams or (
            len(self.finished) == self.size
            and min(beam.score for beam in self.finished) >= ranked[0][0] / length
        )
        # Fewer tokens than beams: fill with dead beams.
        for _ in range(self.size - len(open_beams)):
            open_beams.append(Beam(ids=(0,) * length, total=-math.inf, logp=-math.inf))
            parents.append(0)
        self.beams = open_beams
        return parents

    def close(self) -> None:
        """At the token limit, open beams count as they are."""
        if not self.done:
            for beam in self.beams:
                if beam.total > -math.inf:
                    self.finish(beam)


def beam_search(
    decoder: Decoder, rows: Sequence[DecodeRow], search: BeamSearch, stops: Stops
) -> list[list[Beam]]:
    """Each row's beams, best score first. With ``search.end`` "apart" the beam that ends at once
    comes last, as an extra one; with "token" the caller's ``stops`` have no end tokens."""
    if search.temperature > 0:
        return sample_beams(decoder, rows, search, stops)
    size = search.num_beams // search.num_beam_groups
    state = DecodeState(decoder, rows, search.max_new_tokens, copies=search.num_beams)
    groups = [
        Group(prompt=prompt, number=number, size=size, beams=[Beam()])
        for prompt in range(len(rows))
        for number in range(search.num_beam_groups)
    ]
    logps = state.logits().log_softmax(-1)
    extra: list[list[Beam]] = [[] for _ in rows]
    if search.end == "apart" and stops.ends:
        extra, logps = split_end(logps, sorted(stops.ends))
    # The first step has one row a prompt; later every open beam has its own row, group by group.
    first_rows, width, active = [group.prompt for group in groups], 1, groups
    for step in range(search.max_new_tokens):
        parents = step_groups(active, first_rows, width, logps, search, stops)
        for group in active:
            if step + 1 == rows[group.prompt].max_new_tokens:
                group.close()
                group.done = True
        live = [index for index, group in enumerate(active) if not group.done]
        if not live or step + 1 == search.max_new_tokens:
            break
        # Finished groups that stay are unused rows.
        keep = live if decoder.should_shrink(len(live), len(active)) else list(range(len(active)))
        unused = [min(beam, width - 1) for beam in range(size)]
        source_rows = [
            first_rows[index] + parent for index in keep for parent in parents.get(index, unused)
        ]
        tokens = [beam.ids[-1] for index in keep for beam in active[index].beams]
        active = [active[index] for index in keep]
        same = width == size and source_rows == list(range(len(state.lengths)))
        state.advance(torch.tensor(tokens, device=decoder.device), None if same else source_rows)
        first_rows, width = [index * size for index in range(len(active))], size
        logps = state.logits().log_softmax(-1)
    beams: list[list[Beam]] = [[] for _ in rows]
    for group in groups:
        group.close()
        beams[group.prompt] += group.finished
    # Among equal scores the last comes first, as in transformers.
    return [
        sorted(finished, key=lambda beam: beam.score)[::-1] + ending
        for finished, ending in zip(beams, extra, strict=True)
    ]


def split_end(logps: Tensor, ends: list[int]) -> tuple[list[list[Beam]], Tensor]:
    """Each row's beam that ends at once, and the first step's log-probabilities (B, V) without the
    end tokens."""
    values, best = (column.tolist() for column in logps[:, ends].max(-1))
    beams = [
        [Beam(ids=(ends[index],), total=value, logp=value, finished=True)]
        for value, index in zip(values, best, strict=True)
    ]
    return beams, logps.index_fill(1, torch.tensor(ends, device=logps.device), -torch.inf)


def sample_beams(
    decoder: Decoder, rows: Sequence[DecodeRow], search: BeamSearch, stops: Stops
) -> list[list[Beam]]:
    """Independent samples instead of beams, each seeded by its row's key and its number."""
    count = search.num_beams
    samples = [replace(row, key=f"{row.key}/{number}") for row in rows for number in range(count)]
    decoding = Decoding(
        max_new_tokens=search.max_new_tokens,
        temperature=search.temperature,
        top_p=search.top_p,
        seed=search.seed,
    )
    beams = [
        Beam(ids=tuple(answer.ids), total=answer.logp, logp=answer.logp, finished=answer.finished)
        for answer in decode(decoder, samples, decoding, stops)
    ]
    return [
        sorted(beams[start : start + count], key=lambda beam: -beam.score)
        for start in range(0, len(beams), count)
    ]


def step_groups(
    groups: Sequence[Group],
    first_rows: Sequence[int],
    width: int,
    logps: Tensor,
    search: BeamSearch,
    stops: Stops,
) -> dict[int, list[int]]:
    """One step of every open group, a prompt's groups in their order. ``logps`` (B, V) holds
    ``width`` rows a group, from ``first_rows`` on. Returns, by a group's index, the indices of the
    beams that its new beams continue.

    Penalties lower only the tokens that earlier groups took. A group's best tokens are therefore
    among the best unpenalised ones, if as many more are ranked as may be lowered. So one transfer
    from the device serves all groups; penalties are applied here, to the same float32 numbers."""
    size, vocabulary = search.num_beams // search.num_beam_groups, logps.shape[1]
    count = size * (2 + len(stops.ends) + 4 * len(stops.stops))
    values, tokens = top_tokens(logps, min(vocabulary, count + search.num_beams - size))
    single = np.full(search.num_beams, search.diversity_penalty)
    penalties = np.add.accumulate(np.concatenate([[0], single]).astype(np.float32))
    parents: dict[int, list[int]] = {}
    taken_tokens: dict[int, list[int]] = {group.prompt: [] for group in groups}

    def rank(
        subset: Sequence[Group], gains: Floats, ids: Integers, count: int
    ) -> list[list[Candidate]]:
        totals = np.array([[beam.total for beam in group.beams] for group in subset], np.float32)
        penalty = penalties[count_chosen(ids, [taken_tokens[group.prompt] for group in subset])]
        return rank_candidates(gains - penalty + totals[:, :, None], gains, ids, count)

    for number in range(search.num_beam_groups):
        members = [
            index for index, group in enumerate(groups) if group.number == number and not group.done
        ]
        if not members:
            continue
        rows = np.array([[first_rows[index] + beam for beam in range(width)] for index in members])
        subset, gains, ids = [groups[index] for index in members], values[rows], tokens[rows]
        ranked = rank(subset, gains, ids, min(count, width * vocabulary))
        for index, row, candidates in zip(members, rows, ranked, strict=True):
            group, complete = groups[index], len(candidates) == width * vocabulary
            group_parents = group.step(candidates, stops, complete=complete)
            if group_parents is None:  # too many of the best are ends: rank the whole vocabulary
                gains = logps[torch.from_numpy(row).to(logps.device)].cpu().numpy()[None]
                ids = np.broadcast_to(np.arange(vocabulary), gains.shape)
                [everything] = rank([group], gains, ids, width * vocabulary)
                group_parents = group.step(everything, stops, complete=True)
            parents[index] = group_parents or []
        if search.diversity_penalty and number + 1 < search.num_beam_groups:
            for index in members:
                taken_tokens[groups[index].prompt] += [beam.ids[-1] for beam in groups[index].beams]
    return parents


def top_tokens(logps: Tensor, count: int) -> tuple[Floats, Integers]:
    """The log-probabilities and ids of the ``count`` best tokens of each row of (B, V), each
    (B, count), in one transfer."""
    values, tokens = logps.topk(count)
    # float64 holds both exactly.
    stacked = torch.stack([values.double(), tokens.double()]).cpu().numpy()
    return stacked[0].astype(np.float32), stacked[1].astype(np.int64)


def count_chosen(tokens: Integers, chosen: Sequence[Sequence[int]]) -> Integers:
    """How often each of the tokens (N, width, K) is in the list of its N."""
    longest = max(map(len, chosen))
    padded = [[*ids, *[-1] * (longest - len(ids))] for ids in chosen]
    table = np.array(padded, dtype=np.int64).reshape(len(chosen), longest)
    counts: Integers = (tokens[..., None] == table[:, None, None]).sum(-1)
    return counts


def rank_candidates(
    totals: Floats, gains: Floats, tokens: Integers, count: int
) -> list[list[Candidate]]:
    """The ``count`` best candidates of each of N groups, best first; the arrays are (N, width,
    K)."""
    order = np.argsort(-totals.reshape(len(totals), -1), 1, kind="stable")[:, :count]
    best_totals, best_gains, best_tokens = (
        np.take_along_axis(array.reshape(len(totals), -1), order, 1).tolist()
        for array in (totals, gains, tokens)
    )
    beams = (order // totals.shape[2]).tolist()
    return [
        list(zip(*columns, strict=True))
        for columns in zip(best_totals, beams, best_tokens, best_gains, strict=True)
    ]
