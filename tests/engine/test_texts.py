"""Of texts that go on from earlier ones only what is new is read, and they say what they say when
read whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from harness.engine import decode
from harness.engine.continuation_cache import Texts
from harness.engine.decode import Row
from harness.engine.engine import Engine
from methods.interface import BeamSearch, Branch, Decoding, Prompt
from tests.engine.oracle import ending, mixed
from tests.tiny import tiny_llava

BRANCHING = BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=10)
LEVELS = 3


class Counting(Engine):
    """An engine that counts the tokens it reads behind heads; one that is ``anew`` keeps
    nothing."""

    read = 0
    anew = False

    def branch(self, prompts: Sequence[Prompt], branching: BeamSearch) -> list[list[Branch]]:
        self.refresh()
        text: Any = self.speaker.text

        def counted(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
            self.read += x.shape[0] * x.shape[1] if x.shape[1] > 1 else 0
            hidden: torch.Tensor = text(x, *given, **named)
            return hidden

        counted.shares, counted.empty = text.shares, text.empty  # type: ignore[attr-defined]
        if self.anew:
            self.sharing.texts.clear()
        self.speaker.text = counted  # type: ignore[assignment]
        try:
            return super().branch(prompts, branching)
        finally:
            self.speaker.text = text


def grown(
    engine: Engine,
    branching: BeamSearch,
    levels: int = LEVELS,
    prompts: Sequence[Prompt] | None = None,
) -> list[list[list[Branch]]]:
    """Each level's branches: every prompt goes on with the first and the last of its own, on 16
    prompts a level at most."""
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
    """What an engine says that reads every text whole, and the tokens it read."""
    engine = Counting(*model_of())
    engine.anew = True
    return grown(engine, branching), engine.read


def same(one: list[list[list[Branch]]], other: list[list[list[Branch]]]) -> None:
    flat = [
        [b for level in levels for branches in level for b in branches] for levels in (one, other)
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


@pytest.mark.parametrize("branching", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("model_of", [tiny_llava, ending])
def test_a_grown_text_says_what_it_says_when_read_whole(
    branching: BeamSearch, model_of: Any
) -> None:
    told, whole = expected(branching, model_of)
    engine = Counting(*model_of())
    same(grown(engine, branching), told)
    once = engine.read
    assert once < whole
    same(grown(engine, branching), told)
    assert engine.read - once < once  # of a text that is known whole only the last token is read
    same(grown(Engine(*model_of(), batch_size=1), branching), told)


@pytest.mark.equality
@pytest.mark.parametrize(("read", "least"), [(1, 128), (8192, 1), (8192, 10**6)])
def test_it_is_read_in_any_parts(read: int, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "READ", read)
    monkeypatch.setattr(decode, "PASS", least)
    same(grown(Engine(*tiny_llava()), BRANCHING), expected()[0])


@pytest.mark.equality
@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("limit", [0, 100_000, 300_000])
def test_memory_is_bounded_and_what_was_forgotten_is_read(
    batch_size: int | None, limit: int
) -> None:
    engine = Engine(*tiny_llava(), batch_size=batch_size)
    engine.sharing.texts.limit = limit
    same(grown(engine, BRANCHING), expected()[0])
    texts = engine.sharing.texts
    assert texts.used == sum(kept.nbytes for kept in texts.kept.values()) <= limit
    assert bool(texts.kept) == bool(limit)
    assert all(
        kept.untyped_storage().nbytes() == kept.nbytes for kept in texts.kept.values()
    )  # no view of a larger one


@pytest.mark.equality
def test_a_search_has_the_same_bits_whatever_was_asked_before() -> None:
    asks = [replace(prompt, prefix="") for prompt in mixed()]
    parts = tiny_llava()
    seen = Engine(*parts)
    once = grown(seen, BRANCHING, LEVELS, asks)
    assert grown(seen, BRANCHING, LEVELS, asks) == once
    grown(seen, BRANCHING)
    assert grown(seen, BRANCHING, LEVELS, asks[::2]) == grown(
        Engine(*parts), BRANCHING, LEVELS, asks[::2]
    )


def test_new_weights_forget_the_texts() -> None:
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


def test_corrupted_pictures_are_not_kept_and_take_the_room() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    engine.branch(mixed(), BRANCHING)
    assert (
        len(engine.sharing.texts.kept) == 12
    )  # four texts about three images; without an image nothing is kept
    engine.generate(mixed(), Decoding(max_new_tokens=2))
    assert len(engine.sharing.texts.kept) == 12
    engine.generate(mixed(), Decoding(max_new_tokens=2), corrupt=lambda pixels, _: -pixels)
    assert not engine.sharing.texts.kept


def test_a_model_that_is_called_as_it_is_keeps_no_text() -> None:
    model, processor = tiny_llava()
    model.model.language_model.layers[0].register_forward_hook(lambda *_: None)
    engine = Engine(model, processor)
    assert not engine.speaker.text.shares
    same(grown(engine, BRANCHING), expected()[0])
    assert not engine.sharing.texts.kept


def test_the_longest_beginning_behind_the_same_head_is_found_and_forgotten_when_its_rows_were() -> (
    None
):
    texts = Texts(40)
    for head, tail in (("a", (1, 2)), ("a", (1, 2, 3)), ("b", (1, 2, 3, 4)), ("a", (1, 3))):
        texts.put((head, tail), torch.zeros(2))
    asked = [
        Row(key="", tail=tail, prefix=None)
        for tail in ((1, 2, 3, 4), (1, 2, 9), (2, 1), (1, 3), (1, 2))
    ]
    found = texts.begun(["a", "a", "a", "a", None], asked)
    assert [(row.head, row.begun, row.fresh) for row in found] == [
        ("a", 3, 1),
        ("a", 2, 1),
        ("a", 0, 2),
        ("a", 2, 1),
        (None, 0, 2),
    ]
    texts.due([found[3], found[0]])
    assert [tail for _, tail in texts.kept] == [(1, 2), (1, 2, 3, 4), (1, 3), (1, 2, 3)]
