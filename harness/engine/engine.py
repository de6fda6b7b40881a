"""The one engine that answers and scores: batched generation and log-probabilities of a LLaVA,
images shared.

It computes what ``model.generate`` and a full forward pass compute, prompt by prompt, and differs
in cost alone: an image is looked at once, the prompt's beginning up to the image's last patch is
computed once an image, prompts run in length-sorted batches, finished answers leave the batch, and
a batch that does not fit in memory is halved. Of a text that goes on from one asked for before only
the new tokens are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from harness.engine.backbone import backbone
from harness.engine.batching import Batches, spare, windows
from harness.engine.beam_search import Beam, branch
from harness.engine.decode import Row, Speaker, Stops, decode
from harness.engine.prefix_cache import Head, Sharing, content
from harness.engine.scoring import PACKED, Pack, score
from harness.errors import UserError
from harness.models.chat_format import renderer
from harness.models.find_family import family_of
from methods.interface import BeamSearch, Branch, Completion, Corrupt, Decoding, Prompt

R = TypeVar("R")

LIKE = 4
"""Tails whose lengths differ by less may share a batch in any order: the pads cost less than a
image read twice."""


EXPECTED = 128
"""New tokens a row that memory is set aside for; the few that write more grow into what else is
left."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A prompt cut in two, as token ids: its head (up to the image; None without one) and its
    tail."""

    key: str
    head: Head | None
    tail: tuple[int, ...]


class Engine:
    """A :class:`methods.interface.BeamSearchVLM` over a loaded model and processor.

    ``batch_size`` counts rows of a batch (a prompt's candidates are rows) and changes no answer
    beyond rounding (None: 64 on the CPU, 256 elsewhere). ``shared_bytes`` bounds the keys and
    values kept for images between calls, and half as many bytes are for texts that ``branch`` may
    go on from. ``memory``, in bytes, is what keys, values and activations may take together: what
    the accelerator has left beside the weights, unbounded on the CPU. Three tenths of it are for
    images kept, as much for one call's own images (corrupted ones), where those texts lie
    between, as much for a batch.
    ``tokens_generated`` counts over the engine's life. The model is only read; when its weights
    were changed since the last call, all that was kept is forgotten."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int | None = None,
        shared_bytes: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.renderer, self.family = renderer(processor), family_of(self.model, processor)
        self.tokenizer = processor.tokenizer
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.renderer.image)
        self.device: torch.device = next(self.model.parameters()).device
        memory = spare(self.device) if memory is None else memory
        most = 64 if self.device.type == "cpu" else 256
        self.batches = Batches(
            most if batch_size is None else batch_size, None if memory is None else 3 * memory // 10
        )
        kept = 2**29 if memory is None else 3 * memory // 10
        self.limit = kept if shared_bytes is None else shared_bytes
        ends = self.model.generation_config.eos_token_id
        self.ends = frozenset(
            {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        )
        self.tokens_generated = 0
        self.stamp: tuple[tuple[int, int], ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the weights anew if any was replaced or written to since they were last read."""
        stamp = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters()
        )
        if stamp == self.stamp:
            return
        self.stamp = stamp
        with torch.inference_mode():
            language_model = self.model.model.language_model
            embed, text = language_model.get_input_embeddings(), backbone(language_model)
            self.sharing = Sharing(self.model, self.family, embed, self.limit)
            texts = self.sharing.texts
            self.speaker = Speaker(
                embed=embed, text=text, head=self.model.lm_head, device=self.device, texts=texts
            )
            self.position_bytes = sum(layer.nbytes for layer in text.empty(1, 1))

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        """Answers in the order of the prompts; with a prefix, what follows it.

        A stop string ends an answer and the text ends with it, even where its last token goes on.
        Equal keys are a UserError: a key seeds its prompt's sampling and corruption."""
        self.refresh()
        stops = Stops(decoding.stop, self.tokenizer)
        run = partial(decode, self.speaker, decoding=decoding, ends=self.ends, stops=stops)
        answers = []
        for _, answer in self.written(prompts, run, corrupt, new=decoding.max_new_tokens):
            text = stops.text(answer.ids)
            cut = stops.cut(text)
            self.tokens_generated += len(answer.ids)
            answers.append(
                Completion(
                    text=(text if cut is None else cut).strip(),
                    logp=answer.logp,
                    n_tokens=len(answer.ids),
                    finished=answer.finished,
                )
            )
        return answers

    @torch.inference_mode()
    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        """Each prompt's branches (:class:`methods.interface.BeamSearch`), best score first.

        What earlier calls read of a text is not read again, unless all texts begin here: so a
        search as a whole, which a continued run begins anew, has the same bits whatever was asked
        before it."""
        self.refresh()
        if not any(prompt.prefix for prompt in prompts):
            self.sharing.texts.clear()
        stops = Stops(branching.stop, self.tokenizer)
        search = partial(branch, self.speaker, branching=branching, ends=self.ends, stops=stops)
        found = self.written(
            prompts,
            search,
            None,
            new=branching.max_new_tokens,
            copies=branching.num_beams,
            keep=True,
        )
        return [
            [self.told(prompt, plan, beam, stops) for beam in beams]
            for prompt, (plan, beams) in zip(prompts, found, strict=True)
        ]

    def told(self, prompt: Prompt, plan: Planned, beam: Beam, stops: Stops) -> Branch:
        """A beam in words: decoded behind its prompt, so that the white space between them is
        known."""
        self.tokens_generated += len(beam.ids)
        before, after = stops.text(list(plan.tail)), stops.text([*plan.tail, *beam.ids])
        text = after[len(before) :] if after.startswith(before) else stops.text(list(beam.ids))
        cut = stops.cut(text)
        text = (text if cut is None else cut).rstrip()
        return Branch(
            text=text if prompt.prefix.strip() else text.lstrip(),
            logp=beam.logp,
            n_tokens=len(beam.ids),
            finished=beam.finished,
            score=beam.score,
            ended=not self.ends.isdisjoint(beam.ids),
        )

    def written(
        self,
        prompts: Sequence[Prompt],
        run: Callable[[Sequence[Row]], Sequence[R]],
        corrupt: Corrupt | None,
        *,
        new: int,
        copies: int = 1,
        keep: bool = False,
    ) -> list[tuple[Planned, R]]:
        """What ``run`` writes for each prompt, ``copies`` rows of ``new`` tokens, in their order;
        equal keys are a UserError.

        ``keep``: later prompts may go on from these, as these may from earlier ones.
        """
        twice = [
            key for key, count in Counter(prompt.key for prompt in prompts).items() if count > 1
        ]
        if twice:
            raise UserError(
                f"{len(twice)} prompt keys occur twice in one call, such as {twice[0]!r}; give each"
                " prompt its own key."
            )
        rendered = [
            self.renderer.render_prompt(p.text, p.image is not None, p.prefix) for p in prompts
        ]
        plans, pictures = self.plan(prompts, self.renderer.encode(rendered), corrupt)
        results: dict[int, R] = {}
        for places, rows in self.windows(plans, pictures, corrupt):
            if keep and self.speaker.text.shares:
                rows = self.sharing.texts.begun([plans[place].head for place in places], rows)
            # Longest first: a batch size that does not fit shows at once. Of like length, a
            # image's prompts stay together.
            order = sorted(
                range(len(rows)),
                key=lambda i: (-rows[i].shared, rows[i].begun > 0, -(len(rows[i].tail) // LIKE)),
            )
            work, takes = [rows[i] for i in order], self.takes(rows, new, copies)
            self.sharing.texts.due(work)
            done = self.batches.run(
                work, run, lambda row: (row.shared, row.begun > 0), rows=copies, takes=takes
            )
            results |= {places[i]: result for i, result in zip(order, done, strict=True)}
            rows = work = []  # before the next images are read: these may be kept nowhere else
        return [(plan, results[place]) for place, plan in enumerate(plans)]

    @torch.inference_mode()
    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Sum of log-probabilities (nats) of each completion and its end token, given its prompt
        (and its prefix)."""
        if len(prompts) != len(completions):
            raise UserError(
                f"{len(prompts)} prompts and {len(completions)} completions; give one completion"
                " for each prompt."
            )
        self.refresh()
        rendered = [
            self.renderer.render_prompt(p.text, p.image is not None, p.prefix) for p in prompts
        ]
        pairs = self.renderer.encode_pairs(
            rendered,
            [
                self.renderer.render_completion(text, p.prefix)
                for p, text in zip(prompts, completions, strict=True)
            ],
        )
        plans, pictures = self.plan(prompts, [asked for asked, _ in pairs], None)
        places: dict[tuple[Head | None, tuple[int, ...]], list[int]] = {}
        for place, plan in enumerate(plans):
            places.setdefault((plan.head, plan.tail), []).append(place)
        groups = [
            group[start : start + PACKED]
            for group in places.values()
            for start in range(0, len(group), PACKED)
        ]
        sums = [0.0] * len(plans)
        for chosen, rows in self.windows([plans[group[0]] for group in groups], pictures, None):
            packs = [
                Pack(
                    row=row,
                    places=tuple(groups[i]),
                    completions=tuple(tuple(pairs[place][1]) for place in groups[i]),
                )
                for i, row in zip(chosen, rows, strict=True)
            ]
            packs.sort(key=lambda pack: (pack.row.shared, pack.length), reverse=True)
            scored = self.batches.run(
                packs,
                partial(score, self.speaker),
                lambda pack: pack.row.shared,
                takes=lambda pack: float((pack.row.shared + pack.length) * self.position_bytes),
            )
            for pack, values in zip(packs, scored, strict=True):
                for place, value in zip(pack.places, values, strict=True):
                    sums[place] = value
            del rows, packs, pack
        return sums

    def takes(self, rows: Sequence[Row], new: int, copies: int) -> Callable[[Row], float]:
        """The bytes that a row's keys and values take in a batch: its share of a head that several
        read, its tail, and as many new tokens as answers have rather than may have."""
        readers = Counter(id(row.prefix) for row in rows)

        def bytes_of(row: Row) -> float:
            several = readers[id(row.prefix)]
            alone = several * copies == 1 or not self.speaker.text.shares
            head = row.shared * copies if alone else row.shared / several
            return (head + copies * (len(row.tail) + min(new, EXPECTED))) * self.position_bytes

        return bytes_of

    def plan(
        self, prompts: Sequence[Prompt], ids: Sequence[list[int]], corrupt: Corrupt | None
    ) -> tuple[list[Planned], dict[str, Image]]:
        """Each prompt's tokens cut behind its image token, and the distinct images by their
        content's hash.

        The head is cut from the prompt's own tokens, so it is always truly the prompt's beginning.
        """
        names: dict[int, str] = {}  # an image object is hashed once a call
        pictures: dict[str, Image] = {}
        plans: list[Planned] = []
        for prompt, tokens in zip(prompts, ids, strict=True):
            if tokens.count(self.image_id) != (prompt.image is not None):
                raise UserError(
                    f"Prompt {prompt.key!r} does not hold one image token for its image; check"
                    " the tokenizer's tokens."
                )
            if prompt.image is None:
                plans.append(Planned(key=prompt.key, head=None, tail=tuple(tokens)))
                continue
            name = names.setdefault(id(prompt.image), "") or content(prompt.image)
            names[id(prompt.image)] = name
            pictures.setdefault(name, prompt.image)
            cut = tokens.index(self.image_id) + 1
            noise, span = None if corrupt is None else prompt.key, self.family.span(prompt.image)
            head = Head(picture=name, noise=noise, ids=tuple(tokens[:cut]), span=span)
            plans.append(Planned(key=prompt.key, head=head, tail=tuple(tokens[cut:])))
        return plans, pictures

    def windows(
        self, plans: Sequence[Planned], pictures: dict[str, Image], corrupt: Corrupt | None
    ) -> Iterator[tuple[list[int], list[Row]]]:
        """Places and rows, as many images at a time as their keys and values may take memory;
        images stay whole."""
        longest = max((plan.head.length for plan in plans if plan.head is not None), default=1)
        room, order = self.limit // (longest * self.position_bytes), list(range(len(plans)))
        if len({plan.head for plan in plans}) > room:
            # Those that are there come first: in the order of the call, more than fit would all be
            # forgotten before their turn. Only then: what a continued run still holds is not what
            # an undisturbed one does, and order is rounding.
            order.sort(key=lambda place: plans[place].head not in self.sharing.prefixes.kept)
        for some in windows([plans[place].head for place in order], room):
            places = [order[at] for at in some]
            heads = [head for place in places if (head := plans[place].head) is not None]
            shared = self.sharing.keys_and_values(
                heads, pictures, self.speaker.text, self.batches, corrupt
            )
            rows = [row_of(plans[place], shared) for place in places]
            # what is read next must find this memory free again: the caller lets go of its rows,
            # too
            del shared
            yield places, rows
            del rows


def row_of(plan: Planned, shared: dict[Head, Tensor]) -> Row:
    if plan.head is None:
        return Row(key=plan.key, tail=plan.tail, prefix=None)
    return Row(key=plan.key, tail=plan.tail, prefix=shared[plan.head], start=plan.head.next)
