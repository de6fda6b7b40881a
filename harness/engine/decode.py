"""The decoding loop of one batch: greedy or sampled, with stop strings. Finished rows leave the
batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.decode_state import Decoder, DecodeRow, DecodeState
from methods.interface import Decoding


@dataclass(kw_only=True)
class Generated:
    """What has been generated for a row so far."""

    ids: list[int]
    """Token ids, with the end token if there is one."""
    logp: float = 0.0
    """The sum of their log-probabilities, in nats."""
    finished: bool = False
    """Whether the end token or a stop string ended it."""
    max_new_tokens: int | None = None

    @property
    def done(self) -> bool:
        return self.finished or len(self.ids) == self.max_new_tokens


class Stops:
    """What ends an answer: stop strings and end tokens (``ends``, their ids). A row is decoded to
    text only if its last token may complete a stop string."""

    def __init__(self, stops: Sequence[str], tokenizer: Any, ends: frozenset[int]) -> None:
        self.stops, self.tokenizer, self.ends = tuple(stops), tokenizer, ends
        self.last_characters = {stop[-1] for stop in stops}
        self.may_end: dict[int, bool] = {}

    def may_end_stop(self, token: int) -> bool:
        """Whether a stop string may end in this token."""
        result = self.may_end.get(token)
        if result is None:
            text = self.tokenizer.decode([token])
            # Part of a character decodes to the replacement sign: it may be any character.
            result = self.may_end[token] = "\ufffd" in text or any(
                character in text or not character.strip() for character in self.last_characters
            )
        return result

    def hit(self, ids: list[int]) -> bool:
        """Whether the last token ends the answer."""
        if ids[-1] in self.ends:
            return True
        return (
            bool(self.stops) and self.may_end_stop(ids[-1]) and self.cut(self.text(ids)) is not None
        )

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def cut(self, text: str) -> str | None:
        """The text up to the end of its first stop string; None where it has none."""
        ends = [text.index(stop) + len(stop) for stop in self.stops if stop in text]
        return text[: min(ends)] if ends else None


def decode(
    decoder: Decoder, rows: Sequence[DecodeRow], decoding: Decoding, stops: Stops
) -> list[Generated]:
    """The answers of one batch, in its order."""
    answers = [Generated(ids=[], max_new_tokens=row.max_new_tokens) for row in rows]
    # Equal prompts (several samples of one) are read once.
    slots: dict[tuple[int, tuple[int, ...]], int] = {}
    prompt_of = [slots.setdefault((id(row.prefix), row.suffix), len(slots)) for row in rows]
    repeated = len(slots) < len(rows)
    distinct = list(dict(zip(prompt_of, rows, strict=True)).values()) if repeated else rows
    state = DecodeState(decoder, distinct, decoding.max_new_tokens, -(-len(rows) // len(distinct)))
    draws = uniform_draws(rows, decoding, decoder.device)
    active = list(range(len(rows)))
    for step in range(decoding.max_new_tokens):
        logits = state.logits()
        if repeated and not step:
            logits = logits[torch.tensor(prompt_of, device=decoder.device)]
        logps = logits.log_softmax(-1)
        chosen = logits.argmax(-1) if draws is None else sample(logits, decoding, draws[:, step])
        # One transfer a step: float64 holds token ids exactly.
        gains = logps.gather(1, chosen[:, None])[:, 0]
        for row, token, gain in zip(
            active, *torch.stack([chosen.double(), gains.double()]).tolist(), strict=True
        ):
            answer = answers[row]
            if not answer.done:
                answer.ids.append(int(token))
                answer.logp += gain
                answer.finished = stops.hit(answer.ids)
        remaining = [index for index, row in enumerate(active) if not answers[row].done]
        if not remaining or step + 1 == decoding.max_new_tokens:
            break
        shrink = decoder.should_shrink(len(remaining), len(active))
        if shrink:
            active = [active[index] for index in remaining]
            keep = torch.tensor(remaining, device=decoder.device)
            chosen, draws = chosen[keep], None if draws is None else draws[keep]
        if repeated and not step:
            state.advance(chosen, [prompt_of[row] for row in active])
        else:
            state.advance(chosen, remaining if shrink else None)
    return answers


def uniform_draws(
    rows: Sequence[DecodeRow], decoding: Decoding, device: torch.device
) -> Tensor | None:
    """Each row's random numbers in [0, 1), (B, max_new_tokens), from its key and the seed alone;
    None when greedy."""
    if decoding.temperature == 0:
        return None
    draws = []
    for row in rows:
        seed = hashlib.sha256(f"{decoding.seed}\0{row.key}".encode()).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
        draws.append(torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(draws).to(device)


def sample(logits: Tensor, decoding: Decoding, draw: Tensor) -> Tensor:
    """Tokens (B,) drawn from logits (B, V) by nucleus sampling (Holtzman et al., arXiv 1904.09751)
    among the ``top_k`` most likely tokens: the inverse distribution function at ``draw`` (B,) in
    [0, 1)."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    order = order[:, : decoding.top_k]
    ranked = (logits.gather(1, order).double() / decoding.temperature).softmax(-1)
    below = ranked.cumsum(-1) - ranked
    ranked = ranked * (below < decoding.top_p)
    cumulative = ranked.cumsum(-1)
    rank = torch.searchsorted(cumulative, (draw * cumulative[:, -1])[:, None], right=True)
    last = (ranked > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(rank, last))[:, 0]
