"""Of prompts that continue earlier ones only the new tokens are read; the results equal those of
prompts that are read in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from harness.engine import decode_state
from harness.engine.decode_state import ContinuationCache, DecodeRow
from harness.engine.engine import Engine
from methods.interface import BeamSearch, Branch, Decoding, Prompt
from tests.engine.oracle import ending, mixed
from tests.tiny_models import tiny_llava

BRANCHING = BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=10)
LEVELS = 3


class Counting(Engine):
    """An engine that counts the suffix tokens it reads. Without ``reuse`` it clears its cache
    before each call."""

    read = 0
    reuse = True

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        self.refresh()
        text: Any = self.decoder.text

        def counted(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
            self.read += x.shape[0] * x.shape[1] if x.shape[1] > 1 else 0
            hidden: torch.Tensor = text(x, *given, **named)
            return hidden

        counted.shares_prefixes, counted.allocate = text.shares_prefixes, text.allocate  # type: ignore[attr-defined]
        if not self.reuse:
            self.prefix_cache.continuations.clear()
        self.decoder.text = counted  # type: ignore[assignment]
        try:
            return super().branch(prompts, branching)
        finally:
            self.decoder.text = text


def grown(
    engine: Engine,
    branching: BeamSearch,
    levels: int = LEVELS,
    prompts: Sequence[Prompt] | None = None,
) -> list[list[list[Branch]]]:
    """Each level's branches. The first and the last branch of each prompt are continued on the next
    level, at most 16 prompts a level."""
    prompts, found = mixed() if prompts is None else prompts, []
    for _ in range(levels):
        branches = engine.branch(prompts, branching)
        found.append(branches)
        prompts = [
            replace(prompt, key=f"{prompt.key}/{place}", prefix=prompt.prefix + some[place].text)
            for prompt, some in zip(prompts, branches, strict=True)
            for place in (0, -1)
            if some[place].text.strip()
        ][:16]
    return found


@cache
def expected(
    branching: BeamSearch = BRANCHING, model_of: Any = tiny_llava
) -> tuple[list[list[list[Branch]]], int]:
    """The branches of an engine that reads every prompt in full, and the tokens it read."""
    engine = Counting(*model_of())
    engine.reuse = False
    return grown(engine, branching), engine.read


def same(ours: list[list[list[Branch]]], theirs: list[list[list[Branch]]]) -> None:
    flat = [
        [b for level in levels for branches in level for b in branches] for levels in (ours, theirs)
    ]
    assert len(flat[0]) > 100
    for mine, theirs in zip(*flat, strict=True):
        assert (mine.text, mine.n_tokens, mine.finished, mine.ended) == (
            theirs.text,
            theirs.n_tokens,
            theirs.finished,
            theirs.ended,
        )
        assert (mine.logp, mine.score) == pytest.approx(
            (theirs.logp, theirs.score), abs=1e-5, rel=1e-5
        )


SETTINGS = {
    "beams": BRANCHING,
    "apart": replace(
        BRANCHING, num_beam_groups=4, diversity_penalty=3.0, stop=("ball", "cup"), end="apart"
    ),
    "samples": replace(BRANCHING, temperature=1.0, seed=4),
}


@pytest.mark.thorough
@pytest.mark.parametrize("branching", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("model_of", [tiny_llava, ending])
def test_continued_prompts_equal_prompts_read_in_full(branching: BeamSearch, model_of: Any) -> None:
    branches, in_full = expected(branching, model_of)
    engine = Counting(*model_of())
    same(grown(engine, branching), branches)
    once = engine.read
    assert once < in_full
    same(grown(engine, branching), branches)
    assert engine.read - once < once  # of a cached prompt only the last token is read
    same(grown(Engine(*model_of(), batch_size=1), branching), branches)


@pytest.mark.equality
@pytest.mark.parametrize(("read", "least"), [(1, 128), (8192, 1), (8192, 10**6)])
def test_branches_do_not_depend_on_how_prompts_are_read(
    read: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_state, "READ_TOKENS", read)
    monkeypatch.setattr(decode_state, "PASS_TOKENS", least)
    same(grown(Engine(*tiny_llava()), BRANCHING), expected()[0])


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("limit", [0, 100_000, 300_000])
def test_memory_is_bounded_and_dropped_entries_are_read_again(
    batch_size: int | None, limit: int
) -> None:
    engine = Engine(*tiny_llava(), batch_size=batch_size)
    engine.prefix_cache.continuations.limit = limit
    same(grown(engine, BRANCHING), expected()[0])
    texts = engine.prefix_cache.continuations
    assert texts.used == sum(kept.nbytes for kept in texts.entries.values()) <= limit
    assert bool(texts.entries) == bool(limit)
    assert all(
        kept.untyped_storage().nbytes() == kept.nbytes for kept in texts.entries.values()
    )  # not a view of a larger tensor


@pytest.mark.equality
def test_a_restarted_search_has_the_same_bits() -> None:
    asks = [replace(prompt, prefix="") for prompt in mixed()]
    parts = tiny_llava()
    used = Engine(*parts)
    once = grown(used, BRANCHING, LEVELS, asks)
    assert grown(used, BRANCHING, LEVELS, asks) == once
    grown(used, BRANCHING)
    assert grown(used, BRANCHING, LEVELS, asks[::2]) == grown(
        Engine(*parts), BRANCHING, LEVELS, asks[::2]
    )


def test_new_weights_clear_the_cache() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    first = grown(engine, BRANCHING, 2)
    with torch.no_grad():
        model.model.language_model.layers[0].self_attn.v_proj.weight.mul_(-1)
    changed = engine.branch(mixed(), BRANCHING)
    assert changed != first[0]
    assert [[b.text for b in some] for some in changed] == [
        [b.text for b in some] for some in Engine(model, processor).branch(mixed(), BRANCHING)
    ]


def test_corrupted_images_are_not_cached_and_clear_the_cache() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    engine.branch(mixed(), BRANCHING)
    assert (
        len(engine.prefix_cache.continuations.entries) == 12
    )  # four prompts about each of three images; without an image nothing is cached
    engine.generate(mixed(), Decoding(max_new_tokens=2))
    assert len(engine.prefix_cache.continuations.entries) == 12
    engine.generate(mixed(), Decoding(max_new_tokens=2), corrupt=lambda pixels, _: -pixels)
    assert not engine.prefix_cache.continuations.entries


def test_without_shared_prefixes_nothing_is_cached() -> None:
    model, processor = tiny_llava()
    model.model.language_model.layers[0].register_forward_hook(lambda *_: None)
    engine = Engine(model, processor)
    assert not engine.decoder.text.shares_prefixes
    same(grown(engine, BRANCHING), expected()[0])
    assert not engine.prefix_cache.continuations.entries


def test_the_longest_cached_beginning_is_found_and_marked_in_the_rows_order() -> None:
    cache = ContinuationCache(40)
    for head, suffix in (("a", (1, 2)), ("a", (1, 2, 3)), ("b", (1, 2, 3, 4)), ("a", (1, 3))):
        cache.put((head, suffix), torch.zeros(2))
    asked = [
        DecodeRow(key="", suffix=suffix, prefix=None)
        for suffix in ((1, 2, 3, 4), (1, 2, 9), (2, 1), (1, 3), (1, 2))
    ]
    found = cache.look_up(["a", "a", "a", "a", None], asked)
    assert [(row.cache_key, row.cached_len, row.uncached_len) for row in found] == [
        ("a", 3, 1),
        ("a", 2, 1),
        ("a", 0, 2),
        ("a", 2, 1),
        (None, 0, 2),
    ]
    cache.mark_used([found[3], found[0]])
    assert [suffix for _, suffix in cache.entries] == [(1, 2), (1, 2, 3, 4), (1, 3), (1, 2, 3)]
