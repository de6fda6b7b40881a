"""Batched generation, beam search and log-probabilities of a vision-language model.

The engine computes what ``model.generate`` and a full forward pass compute, prompt by prompt; only
the cost differs. An image is encoded once, and so is the prompt's beginning up to the image.
Prompts run in length-sorted batches, finished answers leave the batch, and a batch that does not
fit in memory is halved. If a prompt continues an earlier one, only its new tokens are read."""

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
from harness.engine.batching import Batches, windows
from harness.engine.beam_search import Beam, beam_search
from harness.engine.decode import Stops, decode
from harness.engine.decode_state import EXPECTED_TOKENS, Decoder, DecodeRow
from harness.engine.prefix_cache import ImagePrefix, PrefixCache, content_hash
from harness.engine.scoring import MAX_PACKED, Pack, score
from harness.engine.step_graph import StepGraphs
from harness.errors import PromptTooLong, UserError
from harness.models.chat_format import renderer
from harness.models.device_memory import free_memory
from harness.models.find_family import family_of
from methods.interface import BeamSearch, Branch, Completion, Corrupt, Decoding, Prompt

R = TypeVar("R")

LENGTH_BUCKET = 4
"""Suffixes whose lengths differ by less keep the order of their prefixes: padding costs less than
reading a prefix twice."""

MAX_PROMPT = 32768
"""Most tokens of a prompt and its answer. The mask of a longer one takes over 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class TokenizedPrompt:
    """A prompt's token ids, cut behind its image."""

    key: str
    prefix: ImagePrefix | None
    suffix: tuple[int, ...]

    def row(self, prefixes: dict[ImagePrefix, Tensor]) -> DecodeRow:
        if self.prefix is None:
            return DecodeRow(key=self.key, suffix=self.suffix, prefix=None)
        prefix, start = prefixes[self.prefix], self.prefix.next_position
        return DecodeRow(key=self.key, suffix=self.suffix, prefix=prefix, start=start)


class Engine:
    """A :class:`methods.interface.BeamSearchVLM` over a loaded model and processor.

    The model is only read. When its weights have changed since the last call, all caches are
    cleared. ``tokens_generated`` counts over the engine's life.

    Args:
        batch_size: most rows of a batch (each candidate of a prompt is a row). It changes answers
            by rounding alone. None: 64 on the CPU, 256 elsewhere.
        shared_bytes: most bytes of image prefixes cached between calls; half as many again for
            suffixes that ``branch`` may continue. None: by ``memory``.
        memory: bytes for caches, batches and activations. None: what the device has free, without
            a limit on the CPU. Three tenths are for cached prefixes, three tenths for one call's
            own (corrupted) images or for suffixes, three tenths for a batch.
    """

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
        memory = free_memory(self.device) if memory is None else memory
        share = None if memory is None else 3 * memory // 10
        default_size = 64 if self.device.type == "cpu" else 256
        self.step_graphs = StepGraphs(self.device)
        self.batches = Batches(default_size if batch_size is None else batch_size, share)
        default_bytes = 2**29 if share is None else share
        self.prefix_bytes = default_bytes if shared_bytes is None else shared_bytes
        ends = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.end_ids = frozenset(ends - {None})
        positions = self.model.config.get_text_config().max_position_embeddings
        self.positions: int = min(positions, MAX_PROMPT)
        self.tokens_generated = 0
        self.weights_version: tuple[tuple[int, int], ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the weights again, and clear the caches, if any weight was replaced or written to
        since the last call."""
        version = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters()
        )
        if version == self.weights_version:
            return
        self.weights_version = version
        with torch.inference_mode():
            language_model = self.model.model.language_model
            embed, text = language_model.get_input_embeddings(), backbone(language_model)
            limits = (self.prefix_bytes, self.batches.memory)
            self.prefix_cache = PrefixCache(self.model, self.family, embed, *limits)
            self.decoder = Decoder(
                embed=embed,
                text=text,
                lm_head=self.model.lm_head,
                device=self.device,
                continuations=self.prefix_cache.continuations,
                graphs=self.step_graphs,
            )
            self.position_bytes = sum(layer.nbytes for layer in text.allocate(1, 1))

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, *, corrupt: Corrupt | None = None
    ) -> list[Completion]:
        """Answers in the order of the prompts; for a prompt with a prefix, the text after it.

        An answer's text ends with its stop string, even if its last token is longer.

        Raises:
            UserError: two prompts have one key, which seeds sampling and corruption.
        """
        self.refresh()
        stops = Stops(decoding.stop, self.tokenizer, self.end_ids)
        run = partial(decode, self.decoder, decoding=decoding, stops=stops)
        answers = []
        for _, answer in self.run_rows(prompts, run, corrupt, new_tokens=decoding.max_new_tokens):
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
    def branch(self, prompts: Sequence[Prompt], search: BeamSearch) -> list[list[Branch]]:
        """Each prompt's branches (:class:`methods.interface.BeamSearch`), best score first.

        Reuses cached suffixes of earlier calls. A call in which no prompt has a prefix clears that
        cache first, so a restarted search gives identical results."""
        self.refresh()
        if not any(prompt.prefix for prompt in prompts):
            self.prefix_cache.continuations.clear()
        ends: frozenset[int] = frozenset() if search.end == "token" else self.end_ids
        stops = Stops(search.stop, self.tokenizer, ends)
        run = partial(beam_search, self.decoder, search=search, stops=stops)
        limit, copies = search.max_new_tokens, search.num_beams
        results = self.run_rows(prompts, run, None, new_tokens=limit, copies=copies, reuse=True)
        return [
            [self._to_branch(prompt, tokens, beam, stops) for beam in beams]
            for prompt, (tokens, beams) in zip(prompts, results, strict=True)
        ]

    def _to_branch(
        self, prompt: Prompt, tokens: TokenizedPrompt, beam: Beam, stops: Stops
    ) -> Branch:
        """A beam as text, decoded behind its prompt to get the white space between them."""
        self.tokens_generated += len(beam.ids)
        start, full = stops.text(list(tokens.suffix)), stops.text([*tokens.suffix, *beam.ids])
        text = full[len(start) :] if full.startswith(start) else stops.text(list(beam.ids))
        cut = stops.cut(text)
        text = (text if cut is None else cut).rstrip()
        return Branch(
            text=text if prompt.prefix.strip() else text.lstrip(),
            logp=beam.logp,
            n_tokens=len(beam.ids),
            finished=beam.finished,
            score=beam.score,
            ended=not self.end_ids.isdisjoint(beam.ids),
        )

    def run_rows(
        self,
        prompts: Sequence[Prompt],
        run: Callable[[Sequence[DecodeRow]], Sequence[R]],
        corrupt: Corrupt | None,
        *,
        new_tokens: int,
        copies: int = 1,
        reuse: bool = False,
    ) -> list[tuple[TokenizedPrompt, R]]:
        """The result of ``run`` for each prompt, in order. ``run`` makes ``copies`` rows of
        ``new_tokens`` tokens of each row. ``reuse``: suffixes are read from, and kept in, the
        continuation cache.

        Raises:
            UserError: two prompts have one key.
        """
        repeated = [key for key, n in Counter(prompt.key for prompt in prompts).items() if n > 1]
        if repeated:
            raise UserError(
                f"{len(repeated)} prompt keys occur twice in one call, such as {repeated[0]!r};"
                " give each prompt its own key."
            )
        ids = self.renderer.encode(self._rendered(prompts))
        tokenized, images = self.tokenize(prompts, ids, corrupt)
        results: dict[int, R] = {}
        for indices, rows in self.windows(tokenized, images, corrupt):
            if reuse and self.decoder.text.shares_prefixes:
                keys = [tokenized[index].prefix for index in indices]
                rows = self.prefix_cache.continuations.look_up(keys, rows)
            # Longest first: a batch size that does not fit shows at once.
            order = sorted(range(len(rows)), key=lambda index: _sort_key(rows[index]))
            work = [rows[index] for index in order]
            cache_bytes = self.cache_bytes(rows, new_tokens, copies)
            self.prefix_cache.continuations.mark_used(work)
            values = self.batches.run(work, run, _batch_key, rows=copies, cache_bytes=cache_bytes)
            results |= {indices[i]: value for i, value in zip(order, values, strict=True)}
            rows = work = []  # frees prefixes that are not cached before the next ones are read
        return [(tokens, results[index]) for index, tokens in enumerate(tokenized)]

    def _rendered(self, prompts: Sequence[Prompt]) -> list[str]:
        return [
            self.renderer.render_prompt(prompt.text, prompt.image is not None, prompt.prefix)
            for prompt in prompts
        ]

    @torch.inference_mode()
    def logps(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The summed log-probability (nats) of each completion and its end token, given its prompt
        and the prompt's prefix.

        Raises:
            UserError: there is not one completion for each prompt.
        """
        if len(prompts) != len(completions):
            raise UserError(
                f"{len(prompts)} prompts and {len(completions)} completions; give one completion"
                " for each prompt."
            )
        self.refresh()
        texts = [
            self.renderer.render_completion(text, prompt.prefix)
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        pairs = self.renderer.encode_pairs(self._rendered(prompts), texts)
        tokenized, images = self.tokenize(prompts, [prompt for prompt, _ in pairs], None)
        by_prompt: dict[tuple[ImagePrefix | None, tuple[int, ...]], list[int]] = {}
        for index, tokens in enumerate(tokenized):
            by_prompt.setdefault((tokens.prefix, tokens.suffix), []).append(index)
        groups = [
            group[start : start + MAX_PACKED]
            for group in by_prompt.values()
            for start in range(0, len(group), MAX_PACKED)
        ]
        sums = [0.0] * len(tokenized)
        firsts = [tokenized[group[0]] for group in groups]
        for group_indices, rows in self.windows(firsts, images, None):
            packs = [
                Pack(
                    row=row,
                    indices=tuple(groups[group_index]),
                    completions=tuple(tuple(pairs[index][1]) for index in groups[group_index]),
                )
                for group_index, row in zip(group_indices, rows, strict=True)
            ]
            packs.sort(key=lambda pack: (pack.row.prefix_len, pack.positions), reverse=True)
            scored = self.batches.run(
                packs,
                partial(score, self.decoder),
                lambda pack: pack.row.prefix_len,
                cache_bytes=lambda pack: pack.positions * self.position_bytes,
            )
            for pack, values in zip(packs, scored, strict=True):
                for index, value in zip(pack.indices, values, strict=True):
                    sums[index] = value
            del rows, packs, pack
        return sums

    def cache_bytes(
        self, rows: Sequence[DecodeRow], new_tokens: int, copies: int
    ) -> Callable[[DecodeRow], float]:
        """The bytes that a row's keys and values take in a batch: its share of a shared prefix, its
        suffix, and the new tokens that are expected."""
        readers = Counter(id(row.prefix) for row in rows)
        expected = min(new_tokens, EXPECTED_TOKENS)

        def bytes_of(row: DecodeRow) -> float:
            sharing = readers[id(row.prefix)]
            copied = sharing * copies == 1 or not self.decoder.text.shares_prefixes
            round_up = self.decoder.round_up
            prefix = row.prefix_len * copies if copied else round_up(row.prefix_len) / sharing
            return (prefix + copies * round_up(len(row.suffix) + expected)) * self.position_bytes

        return bytes_of

    def tokenize(
        self, prompts: Sequence[Prompt], ids: Sequence[list[int]], corrupt: Corrupt | None
    ) -> tuple[list[TokenizedPrompt], dict[str, Image]]:
        """Each prompt's tokens cut behind its image token, and the distinct images by content hash.

        The prefix is cut from the prompt's own tokens, so it always is the prompt's beginning."""
        hashes: dict[int, str] = {}  # an image object is hashed once a call
        images: dict[str, Image] = {}
        tokenized: list[TokenizedPrompt] = []
        for prompt, tokens in zip(prompts, ids, strict=True):
            if tokens.count(self.image_id) != (prompt.image is not None):
                raise UserError(
                    f"Prompt {prompt.key!r} does not hold one image token for its image; check"
                    " the tokenizer's tokens."
                )
            prefix, cut = None, 0
            if prompt.image is not None:
                if id(prompt.image) not in hashes:
                    hashes[id(prompt.image)] = content_hash(prompt.image)
                name = hashes[id(prompt.image)]
                images.setdefault(name, prompt.image)
                cut = tokens.index(self.image_id) + 1
                prefix = ImagePrefix(
                    image=name,
                    corruption_key=None if corrupt is None else prompt.key,
                    ids=tuple(tokens[:cut]),
                    span=self.family.span(prompt.image),
                )
            length = len(tokens) - cut + (0 if prefix is None else prefix.length)
            if length >= self.positions:
                raise PromptTooLong(
                    f"Prompt {prompt.key!r} takes {length} tokens and the model reads"
                    f" {self.positions}, its answer included; shorten it, or take it out."
                )
            tokenized.append(
                TokenizedPrompt(key=prompt.key, prefix=prefix, suffix=tuple(tokens[cut:]))
            )
        return tokenized, images

    def windows(
        self,
        tokenized: Sequence[TokenizedPrompt],
        images: dict[str, Image],
        corrupt: Corrupt | None,
    ) -> Iterator[tuple[list[int], list[DecodeRow]]]:
        """Indices and rows, as many prefixes at a time as fit into :attr:`prefix_bytes`. Prompts of
        one prefix stay together."""
        prefixes = [tokens.prefix for tokens in tokenized]
        longest = max((prefix.length for prefix in prefixes if prefix is not None), default=1)
        count = self.prefix_bytes // (longest * self.position_bytes)
        order = list(range(len(prefixes)))
        if len(set(prefixes)) > count:
            # Cached prefixes come first, or they would be dropped before their turn. With fewer
            # prefixes the call's order stays: a continued run has other prefixes cached than an
            # undisturbed one, and another order rounds differently.
            cached = self.prefix_cache.prefixes.entries
            order.sort(key=lambda index: prefixes[index] not in cached)
        for window in windows([prefixes[index] for index in order], count):
            indices = [order[position] for position in window]
            needed = [prefix for index in indices if (prefix := prefixes[index]) is not None]
            values = self.prefix_cache.keys_and_values(
                needed, images, self.decoder.text, self.batches.size, corrupt
            )
            rows = [tokenized[index].row(values) for index in indices]
            del values  # the next window needs this memory; the caller drops its rows, too
            yield indices, rows
            del rows


def _batch_key(row: DecodeRow) -> tuple[int, bool]:
    """Rows with equal keys can share a batch."""
    return row.prefix_len, row.cached_len > 0


def _sort_key(row: DecodeRow) -> tuple[int, bool, int]:
    """Longest prefix, then longest suffix first; of similar lengths, one image's prompts stay
    together."""
    return -row.prefix_len, row.cached_len > 0, -(len(row.suffix) // LENGTH_BUCKET)
