"""The cached decode loop for one batch: greedy or sampled, with stop strings; finished rows leave
the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from harness.engine.backbone import Backbone
from harness.engine.kv_cache import KeyValues, SharedHeads, additive
from harness.engine.lru import Lru
from methods.interface import Decoding

GROWTH = 64
"""Positions by which a full cache grows: a cap of 4,096 new tokens must not reserve them when
answers are short."""
READ = 8192
"""Most prompt tokens in one forward pass: many more than it takes to be bound by arithmetic, few
enough for little memory."""

PASS = 128
"""Tokens that cost about what a forward pass costs by itself: reading the weights, or starting its
operations."""
NEAR = 8
"""Tokens that cost about what another copy of a head costs."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt ready to run: its tokens behind the shared head (all of them where there is none),
    and the head's keys and values (layers, 2, H, P, D). Every row of a batch has the same P.
    ``start`` is the position of the tail's first token: P, or less behind an image whose tokens
    stand on a grid. ``key`` seeds sampling. ``most``: after so many new tokens this row's answer is
    cut, whatever the batch's limit (None: by that alone). ``head`` names the head where the tail's
    keys and values are to be kept (None: they are not); those of the tail's first ``begun`` tokens
    were."""

    key: str
    tail: tuple[int, ...]
    prefix: Tensor | None
    start: int = 0
    most: int | None = None
    head: Hashable | None = None
    begun: int = 0

    @property
    def fresh(self) -> int:
        """Tokens of the tail to be read: the last one always is."""
        return max(1, len(self.tail) - self.begun)

    @property
    def shared(self) -> int:
        return 0 if self.prefix is None else int(self.prefix.shape[3])


@dataclass(kw_only=True)
class Written:
    """What has been generated for a row so far: token ids, their summed log-probability, and
    whether it ended by itself."""

    ids: list[int]
    logp: float = 0.0
    finished: bool = False
    most: int | None = None

    @property
    def over(self) -> bool:
        return self.finished or len(self.ids) == self.most


class Speaker:
    """The parts of a model that generation calls: embedding, backbone, output head; and the tails
    kept, by head and tail."""

    def __init__(
        self,
        *,
        embed: Callable[[Tensor], Tensor],
        text: Backbone,
        head: Callable[[Tensor], Tensor],
        device: torch.device,
        texts: Lru[tuple[Hashable, tuple[int, ...]]] | None = None,
    ):
        self.embed, self.text, self.head, self.device = embed, text, head, device
        self.texts = Lru(0) if texts is None else texts

    def load(self, rows: Sequence[Row], room: int, copies: int = 1) -> KeyValues:
        """A cache with each row's head and room behind it; a head that serves several rows is kept
        once where it can be.

        ``copies``: how many rows the caller will make of each.
        """
        prefixes = [row.prefix for row in rows if row.prefix is not None]
        if not prefixes:
            return KeyValues(self.text.empty(len(rows), room))
        distinct = list({id(prefix): prefix for prefix in prefixes}.values())
        if self.text.shares and 2 * len(distinct) <= copies * len(rows):
            number = {id(prefix): place for place, prefix in enumerate(distinct)}
            layers = [
                torch.stack([prefix[index] for prefix in distinct], 1)
                for index in range(len(distinct[0]))
            ]
            return KeyValues(
                self.text.empty(len(rows), room),
                heads=SharedHeads(layers, [number[id(p)] for p in prefixes]),
            )
        return self.copied(prefixes, room)

    def copied(self, prefixes: Sequence[Tensor], room: int) -> KeyValues:
        """A cache with a copy of its head in each row, and room behind it."""
        length = int(prefixes[0].shape[3])
        layers = self.text.empty(len(prefixes), length + room)
        for index, layer in enumerate(layers):
            torch.stack([prefix[index] for prefix in prefixes], 1, out=layer[:, :, :, :length])
        return KeyValues(layers, offset=length)


class Stops:
    """Stop strings. Only a token whose own text may close one makes us decode the row."""

    def __init__(self, stops: Sequence[str], tokenizer: Any) -> None:
        self.stops, self.tokenizer = tuple(stops), tokenizer
        self.last = {stop[-1] for stop in stops}
        self.closing: dict[int, bool] = {}

    def closes(self, token: int) -> bool:
        known = self.closing.get(token)
        if known is None:
            text = self.tokenizer.decode([token])
            # A piece of a character decodes to the replacement sign: it may be any character.
            known = self.closing[token] = "\ufffd" in text or any(
                last in text or not last.strip() for last in self.last
            )
        return known

    def hit(self, ids: list[int]) -> bool:
        return bool(self.stops) and self.closes(ids[-1]) and self.cut(self.text(ids)) is not None

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def cut(self, text: str) -> str | None:
        """The text up to the end of the stop string that comes first; None where there is none."""
        ends = [text.index(stop) + len(stop) for stop in self.stops if stop in text]
        return text[: min(ends)] if ends else None


class Running:
    """A batch whose tails have been read, continued token by token; ``hidden`` (B, 1, width) is
    where its next tokens come from.

    Tails are padded on the left to one length; the cache has room for the first of ``most`` new
    tokens and grows. ``copies``: how many rows the caller will make of each."""

    def __init__(self, speaker: Speaker, rows: Sequence[Row], most: int, copies: int = 1) -> None:
        self.speaker = speaker
        longest = max(len(row.tail) for row in rows)
        self.used = longest
        self.lengths = torch.tensor(
            [row.start + len(row.tail) for row in rows], device=speaker.device
        )
        self.cache = speaker.load(rows, longest + min(GROWTH, most), copies)
        self.kept = [speaker.texts.kept.get((row.head, row.tail[: row.begun])) for row in rows]
        # What was forgotten since it was looked up is read.
        rows = [
            row if kept is not None else replace(row, begun=0)
            for row, kept in zip(rows, self.kept, strict=True)
        ]
        self.packed = self.cache.heads is not None and not any(row.begun for row in rows)
        found = [self.read(rows, part) for part in parts(rows, shared=self.packed)]
        self.kept = []  # the cache holds copies
        self.hidden = torch.cat([hidden for _, hidden in found])
        order = [place for places, _ in found for place in places]
        if order != sorted(order):
            self.hidden = self.hidden[torch.tensor(order, device=speaker.device).argsort()]
        pads = torch.tensor([longest - len(row.tail) for row in rows], device=speaker.device)
        padded = torch.arange(longest, device=speaker.device)[None] < pads[:, None]
        short = any(len(row.tail) < longest for row in rows)
        self.mask = additive(padded[:, None, None], self.hidden.dtype) if short else None
        end = self.cache.offset + longest
        for place, row in enumerate(rows):
            if row.head is not None:
                tail = [
                    layer[:, place, :, end - len(row.tail) : end] for layer in self.cache.layers
                ]
                speaker.texts.put((row.head, row.tail), torch.stack(tail))

    def read(self, rows: Sequence[Row], part: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        """Read the tails of some rows, given by place in packs: a pack is one row of the forward
        pass, whose tails do not see each other, behind one copy of their head. The places, and the
        hidden states (N, 1, width) at their tails' ends.

        Where some tails are kept in part, each of the part reads as many last tokens as the one
        that has most to read."""
        device, many = self.speaker.device, max(map(len, part))
        places = [place for pack in part for place in pack]
        length = max(rows[place].fresh for place in places)
        # A pack that is not full ends with its first tail again: its results are not used.
        filled = [
            rows[place] for pack in part for place in (*pack, *[pack[0]] * (many - len(pack)))
        ]
        used = [at * many + slot for at, pack in enumerate(part) for slot in range(len(pack))]
        ids = torch.tensor(
            [[0] * (length - len(row.tail)) + list(row.tail[-length:]) for row in filled],
            device=device,
        )
        pads = torch.tensor(
            [length - len(row.tail) for row in filled], device=device
        )  # below 0: so many are not read
        step = torch.arange(length, device=device)
        starts = torch.tensor([row.start for row in filled], device=device)
        positions = (starts[:, None] + (step - pads[:, None]).clamp_min(0)).view(len(part), -1)
        padded, new = step < pads[:, None], self.used - length
        x = self.speaker.embed(ids.view(len(part), -1))
        unseen = (padded[:, None] | (step > step[:, None])).view(len(part), many, length, length)
        if not self.packed:
            whole = len(places) == len(rows)  # consecutive, one a pack
            layers = (
                self.cache.layers
                if whole
                else [layer[:, places[0] : places[-1] + 1] for layer in self.cache.layers]
            )
            self.fill(
                layers,
                [len(row.tail) for row in filled],
                self.kept[places[0] : places[-1] + 1],
                new,
            )
            before = torch.arange(-new, 0, device=device) < pads[:, None]
            unseen = torch.cat([before[:, None, None].expand(-1, 1, length, -1), unseen], -1)
            heads = (
                self.cache.heads
                if whole or self.cache.heads is None
                else self.cache.heads.of_rows(places)
            )
            into = KeyValues(layers, self.cache.offset, heads)
            return places, self.speaker.text(
                x, positions, into, new, additive(unseen, x.dtype), last=1
            )
        into = self.speaker.copied(
            [prefix for pack in part if (prefix := rows[pack[0]].prefix) is not None], many * length
        )
        alone = torch.eye(many, dtype=torch.bool, device=device)[None, :, None, :, None]
        apart = ~alone | unseen[:, :, :, None]  # (packs, many, S, many, S)
        mask = additive(apart.reshape(len(part), 1, many * length, many * length), x.dtype)
        hidden = self.speaker.text(x, positions, into, 0, mask, last=many)
        picked, targets = torch.tensor(used, device=device), torch.tensor(places, device=device)
        for layer, kept in zip(self.cache.layers, into.layers, strict=True):
            tails = (
                kept[:, :, :, into.offset :]
                .view(2, len(part), kept.shape[2], many, length, -1)
                .transpose(2, 3)
                .flatten(1, 2)
            )
            layer[:, targets, :, new : new + length] = tails[:, picked]
            if new:
                layer[:, targets, :, :new] = 0
        return places, hidden.flatten(0, 1)[picked][:, None]

    def fill(
        self,
        layers: Sequence[Tensor],
        lengths: Sequence[int],
        kept: Sequence[Tensor | None],
        new: int,
    ) -> None:
        """Write what is kept of tails of these lengths to the first ``new`` positions behind the
        head of their rows."""
        start, end = self.cache.offset, self.cache.offset + new
        bare = start + min(new, self.used - min(lengths))
        for index, layer in enumerate(layers):
            layer[:, :, :, start:bare] = 0  # what nobody sees must be finite all the same
            for place, (length, tail) in enumerate(zip(lengths, kept, strict=True)):
                begin = start + self.used - length
                if tail is not None and begin < end:
                    layer[:, place : place + 1, :, begin:end] = tail[
                        index, :, None, :, : end - begin
                    ]

    def logits(self) -> Tensor:
        """The next token's, (B, V), float32."""
        return self.speaker.head(self.hidden)[:, 0].float()

    def advance(self, tokens: Tensor, rows: Sequence[int] | None = None) -> None:
        """Go on with a token each, (B,); with ``rows`` the batch is those rows from now on, a row
        once, often or never."""
        used, room = self.used, self.cache.room
        if rows is not None or used == room:
            self.cache.resize(rows, used, room if used < room else used + max(GROWTH, used // 4))
        if rows is not None:
            keep = torch.tensor(rows, device=self.speaker.device)
            self.lengths = self.lengths[keep]
            self.mask = None if self.mask is None else self.mask[keep]
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_zeros(len(self.mask), 1, 1, 1)], -1)
        x = self.speaker.embed(tokens[:, None])
        self.hidden = self.speaker.text(
            x, self.lengths[:, None], self.cache, used, self.mask, last=1
        )
        self.lengths, self.used = self.lengths + 1, used + 1


def parts(rows: Sequence[Row], *, shared: bool) -> list[list[list[int]]]:
    """The rows' places in packs of one head each (``shared``; else each row alone), the packs in
    parts that are read together: at most ``READ`` tokens, and not more than ``PASS`` pads."""
    found: list[list[list[int]]] = []
    many = wide = real = 0
    for pack in packs(rows) if shared else [[place] for place in range(len(rows))]:
        lengths = [rows[place].fresh for place in pack]
        many, wide, real = max(many, len(pack)), max(wide, *lengths), real + sum(lengths)
        tokens = many * wide * (len(found[-1]) + 1) if found else 0
        if not found or tokens > READ or tokens - real > PASS:
            found.append([])
            many, wide, real = len(pack), max(lengths), sum(lengths)
        found[-1].append(pack)
    return found


def packs(rows: Sequence[Row]) -> list[list[int]]:
    """Places of rows of one head and of nearly one length, the largest packs first. A pack has no
    more tokens than its head, so that little attention is computed to be masked away."""
    by_head: dict[int, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda place: -len(rows[place].tail)):
        by_head.setdefault(id(rows[place].prefix), []).append(place)
    found = []
    for places in by_head.values():
        while places:
            longest = len(rows[places[0]].tail)
            like = list(takewhile(lambda place: longest - len(rows[place].tail) <= NEAR, places))  # noqa: B023
            most = max(1, rows[places[0]].shared // longest)
            size = -(-len(like) // -(-len(like) // most))  # of equal packs
            found.append(places[:size])
            places = places[size:]
    return sorted(found, key=lambda pack: (-len(pack), -len(rows[pack[0]].tail)))


def decode(
    speaker: Speaker, rows: Sequence[Row], decoding: Decoding, ends: frozenset[int], stops: Stops
) -> list[Written]:
    """Answers of one batch, in its order."""
    written = [Written(ids=[], most=row.most) for row in rows]
    # Equal prompts, of which several samples are drawn, are read once.
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    source = [numbers.setdefault((id(row.prefix), row.tail), len(numbers)) for row in rows]
    several = len(numbers) < len(rows)
    firsts = list(dict(zip(source, rows, strict=True)).values()) if several else rows
    running = Running(speaker, firsts, decoding.max_new_tokens, -(-len(rows) // len(firsts)))
    draws = uniform(rows, decoding, speaker.device)
    active = list(range(len(rows)))
    for index in range(decoding.max_new_tokens):
        logits = running.logits()
        if several and not index:
            logits = logits[torch.tensor(source, device=speaker.device)]
        logps = logits.log_softmax(-1)
        chosen = logits.argmax(-1) if draws is None else sample(logits, decoding, draws[:, index])
        # One transfer a step: doubles hold token ids exactly.
        tokens, gains = torch.stack(
            [chosen.double(), logps.gather(1, chosen[:, None])[:, 0].double()]
        ).tolist()
        for row, token, gain in zip(active, tokens, gains, strict=True):
            answer = written[row]
            if not answer.over:
                answer.ids.append(int(token))
                answer.logp += gain
                answer.finished = int(token) in ends or stops.hit(answer.ids)
        alive = [place for place, row in enumerate(active) if not written[row].over]
        if not alive or index + 1 == decoding.max_new_tokens:
            break
        leave = (
            len(alive) <= len(active) * 7 // 8
        )  # copying the cache costs about a step: a few finished rows stay in
        if leave:
            active = [active[place] for place in alive]
            keep = torch.tensor(alive, device=speaker.device)
            chosen, draws = chosen[keep], None if draws is None else draws[keep]
        if several and not index:
            running.advance(
                chosen, [source[place] for place in (alive if leave else range(len(rows)))]
            )
        else:
            running.advance(chosen, alive if leave else None)
    return written


def uniform(rows: Sequence[Row], decoding: Decoding, device: torch.device) -> Tensor | None:
    """Each row's own random numbers in [0, 1), (B, max_new_tokens), from its key and the seed
    alone; None when greedy."""
    if decoding.temperature == 0:
        return None
    drawn = []
    for row in rows:
        seed = hashlib.sha256(f"{decoding.seed}\0{row.key}".encode()).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
        drawn.append(torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(drawn).to(device)


def sample(logits: Tensor, decoding: Decoding, draw: Tensor) -> Tensor:
    """Tokens (B,) of logits (B, V) at the temperature, from the smallest set whose probability
    reaches ``top_p`` (Holtzman et al., arXiv 1904.09751), by inverting the distribution function at
    ``draw`` (B,) in [0, 1)."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranked = (logits.gather(1, order).double() / decoding.temperature).softmax(-1)
    below = ranked.cumsum(-1) - ranked
    ranked = ranked * (below < decoding.top_p)
    cumulative = ranked.cumsum(-1)
    place = torch.searchsorted(cumulative, (draw * cumulative[:, -1])[:, None], right=True)
    last = (ranked > 0).sum(-1, keepdim=True) - 1
    return order.gather(1, torch.minimum(place, last))[:, 0]
