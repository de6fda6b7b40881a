"""Diverse beam search equals that of transformers 4.49 (recorded in an oracle file), in any batch.
Further: end tokens, stop strings, samples, images."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine.backbone import TransformersText, backbone
from harness.engine.beam_search import Beam, beam_search
from harness.engine.decode import Stops
from harness.engine.decode_state import ContinuationCache, Decoder, DecodeRow
from harness.engine.engine import Engine
from harness.engine.step_graph import StepGraphs
from methods.interface import BeamSearch, BeamSearchVLM, Branch, Decoding, Prompt
from tests.engine.oracle import ending, inputs, logp_of, mixed
from tests.tiny_models import picture, tiny_llava

ORACLES = Path(__file__).parents[1] / "oracles"
ORACLE: dict[str, Any] = json.loads((ORACLES / "diverse_beam.json").read_text())


@cache
def decoder(path: str) -> Decoder:
    model = LlamaForCausalLM(LlamaConfig(**ORACLE["config"])).eval()
    model.load_state_dict(load_file(ORACLES / "diverse_beam_model.safetensors"))
    text = backbone(model.model) if path == "lean" else TransformersText(model.model)
    cpu = torch.device("cpu")
    return Decoder(
        embed=model.model.embed_tokens,
        text=text,
        lm_head=model.lm_head,
        device=cpu,
        continuations=ContinuationCache(0),
        graphs=StepGraphs(cpu),
    )


def stops(*ends: int) -> Stops:
    return Stops((), None, frozenset(ends))


def settings(case: dict[str, Any]) -> BeamSearch:
    return BeamSearch(
        num_beams=case["num_beams"],
        num_beam_groups=case["num_beam_groups"],
        diversity_penalty=case["diversity_penalty"],
        max_new_tokens=case["max_new_tokens"],
    )


def equal(case: dict[str, Any], beams: list[Beam]) -> None:
    assert [list(beam.ids) for beam in beams] == case["sequences"]
    assert [beam.score for beam in beams] == pytest.approx(case["sequences_scores"], abs=1e-3)
    assert [beam.logp for beam in beams] == pytest.approx(case["logp"], abs=1e-3)


@pytest.mark.equality
@torch.inference_mode()
@pytest.mark.parametrize("path", ["lean", "transformers"])
def test_equals_transformers_one_prompt_at_a_time(path: str) -> None:
    penalised = 0
    for case in ORACLE["cases"]:
        row = DecodeRow(key="", suffix=tuple(case["prompt"]), prefix=None)
        beams = beam_search(decoder(path), [row], settings(case), stops(case["eos_token_id"]))[0]
        equal(case, beams)
        penalised += sum(beam.total < beam.logp - 1e-6 for beam in beams)
    assert penalised  # the oracle must contain scores with penalties


@torch.inference_mode()
def test_prompts_of_any_length_in_one_batch_equal_transformers() -> None:
    by_settings: dict[Any, list[dict[str, Any]]] = {}
    for case in ORACLE["cases"]:
        by_settings.setdefault((settings(case), case["eos_token_id"]), []).append(case)
    assert all(len(cases) > 2 for cases in by_settings.values())
    for (branching, end), cases in by_settings.items():
        # The oracle's prompts have one length; shorter and longer ones make padding necessary.
        rows = [DecodeRow(key="", suffix=tuple(case["prompt"]), prefix=None) for case in cases]
        others = [
            DecodeRow(key="", suffix=tuple(range(5, 5 + length)), prefix=None)
            for length in (3, 9, 17)
        ]
        found = beam_search(decoder("lean"), [*others, *rows], branching, stops(end))
        for case, beams in zip(cases, found[3:], strict=True):
            equal(case, beams)


BRANCHING = BeamSearch(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=10)


def same(ours: list[list[Branch]], expected: list[list[Branch]]) -> None:
    for mine, theirs in zip(ours, expected, strict=True):
        assert [(b.text, b.n_tokens, b.finished, b.ended) for b in mine] == [
            (b.text, b.n_tokens, b.finished, b.ended) for b in theirs
        ]
        for a, b in zip(mine, theirs, strict=True):
            assert (a.logp, a.score) == pytest.approx((b.logp, b.score), abs=1e-4)


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize(
    "branching",
    [
        BRANCHING,
        replace(
            BRANCHING, num_beam_groups=4, diversity_penalty=3.0, stop=("ball", "cup"), end="apart"
        ),
        replace(BRANCHING, num_beam_groups=1, end="token"),
        replace(BRANCHING, temperature=1.0, seed=4),
    ],
    ids=["beams", "apart", "token", "samples"],
)
def test_batch_size_memory_and_order_change_nothing(branching: BeamSearch) -> None:
    model, processor = ending()
    prompts = mixed()
    expected = Engine(model, processor).branch(prompts, branching)
    assert all(len(branches) == 4 + (branching.end == "apart") for branches in expected)
    for batch_size, shared_bytes in ((1, None), (24, 40_000)):
        engine = Engine(model, processor, batch_size=batch_size, shared_bytes=shared_bytes)
        same(engine.branch(prompts[::-1], branching), expected[::-1])
        assert isinstance(engine, BeamSearchVLM)


def test_with_one_beam_it_is_greedy_decoding() -> None:
    model, processor = ending()
    prompts, engine = mixed(), Engine(model, processor)
    greedy = engine.generate(prompts, Decoding(max_new_tokens=10))
    single = replace(BRANCHING, num_beams=1, num_beam_groups=1)
    for answer, (only,) in zip(greedy, engine.branch(prompts, single), strict=True):
        assert (only.text.strip(), only.n_tokens, only.finished) == (
            answer.text,
            answer.n_tokens,
            answer.finished,
        )
        assert only.logp == pytest.approx(answer.logp, abs=1e-4)
        assert only.score == pytest.approx(answer.logp / answer.n_tokens, abs=1e-5)
        assert only.ended == answer.finished
    assert {answer.finished for answer in greedy} == {True, False}


def test_log_probabilities_are_the_models_own() -> None:
    model, processor = ending()
    ids_of, checked = processor.tokenizer.convert_tokens_to_ids, 0
    for prompt, branches in zip(
        mixed(), Engine(model, processor).branch(mixed(), BRANCHING), strict=True
    ):
        assert [b.score for b in branches] == sorted((b.score for b in branches), reverse=True)
        for each in branches:
            ids = [
                *processor.tokenizer(each.text, add_special_tokens=False)["input_ids"],
                *[ids_of("</s>")] * each.ended,
            ]
            assert each.score <= each.logp / each.n_tokens + 1e-5
            if len(ids) == each.n_tokens:  # else it has special tokens, which the text lacks
                assert each.logp == pytest.approx(logp_of(model, processor, prompt, ids), abs=1e-3)
                checked += 1
    assert checked > 30


def test_text_continues_the_prefix_with_the_white_space_between() -> None:
    model, processor = tiny_llava()
    for prompt, branches in zip(
        mixed(), Engine(model, processor).branch(mixed(), BRANCHING), strict=True
    ):
        for each in branches:
            assert each.text == each.text.rstrip()
            if prompt.prefix:
                whole = processor.tokenizer.decode(
                    processor.tokenizer(prompt.prefix + each.text, add_special_tokens=False)[
                        "input_ids"
                    ]
                )
                assert whole == prompt.prefix + each.text
                assert each.text.startswith((" ", ".", ",", "?", "!"))
            else:
                assert each.text == each.text.strip()


def test_the_end_apart_is_one_branch_with_its_own_probability() -> None:
    model, processor = ending()
    with torch.no_grad():
        model.lm_head.weight[processor.tokenizer.eos_token_id] *= (
            2  # often the likeliest token at once
        )
    prompts, engine = mixed(), Engine(model, processor)
    end = processor.tokenizer.eos_token_id
    for prompt, branches in zip(
        prompts, engine.branch(prompts, replace(BRANCHING, end="apart")), strict=True
    ):
        *others, last = branches
        with torch.no_grad():
            at_once = model(**inputs(processor, prompt)).logits[0, -1].log_softmax(-1)[end]
        assert (last.text, last.n_tokens, last.ended, last.finished) == ("", 1, True, True)
        assert (last.logp, last.score) == pytest.approx((float(at_once), float(at_once)), abs=1e-4)
        assert all(branch.n_tokens > 1 or not branch.ended for branch in others)
    # With "stop" the search itself may end at once.
    assert any(b.text == "" for branches in engine.branch(prompts, BRANCHING) for b in branches)


def test_with_the_end_as_a_token_beams_continue_and_say_so() -> None:
    model, processor = ending()
    branches = Engine(model, processor).branch(mixed(), replace(BRANCHING, end="token"))
    assert all(b.n_tokens == 10 and not b.finished for found in branches for b in found)
    assert {b.ended for found in branches for b in found} == {True, False}


def test_stop_strings_end_beams_and_stay_in_them() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    word = engine.generate(mixed()[:1], Decoding(max_new_tokens=4))[0].text.split()[1]
    found = engine.branch(mixed(), replace(BRANCHING, num_beam_groups=4, stop=(word,)))
    ended = [b for branches in found for b in branches if b.finished]
    assert ended
    assert all(b.text.count(word) == b.text.endswith(word) == (not b.ended) for b in ended), word
    assert all(word not in b.text for branches in found for b in branches if not b.finished)


def test_samples_follow_key_and_seed_and_are_ranked() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    sampling = replace(BRANCHING, temperature=1.0, seed=1)
    prompts = [
        Prompt(key=str(number), text="describe the picture", image=picture(0))
        for number in range(3)
    ]
    found = engine.branch(prompts, sampling)
    assert len({b.text for branches in found for b in branches}) == 12
    assert all(
        [b.score for b in branches] == sorted((b.score for b in branches), reverse=True)
        for branches in found
    )
    assert engine.branch(prompts, replace(sampling, seed=2)) != found


def test_an_image_is_encoded_once_for_all_its_prompts_and_beams() -> None:
    model, processor = tiny_llava()
    engine = Engine(model, processor)
    engine.branch(mixed(), BRANCHING)
    engine.branch(mixed(), replace(BRANCHING, num_beam_groups=1))
    assert engine.prefix_cache.images_encoded == 3


def test_more_beams_than_tokens_that_stay_open() -> None:
    """The search then ranks the whole vocabulary and ends with the beams that there are."""
    model, row = decoder("lean"), DecodeRow(key="", suffix=(5, 6), prefix=None)
    branching = BeamSearch(num_beams=6, num_beam_groups=2, diversity_penalty=1.0, max_new_tokens=4)
    words = ORACLE["config"]["vocab_size"]
    with torch.inference_mode():
        for count in (0, 2, 10):
            (beams,) = beam_search(model, [row], branching, stops(*range(count, words)))
            assert beams
            assert all(
                set(beam.ids[:-1]) <= set(range(count)) and beam.score > -100 for beam in beams
            )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_beams": 5}, "5 beams cannot form 2 groups"),
        ({"num_beam_groups": 0}, "num_beam_groups is 0; it must be a whole number of at least 1"),
        ({"diversity_penalty": -1.0}, "diversity_penalty is -1.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"end": "apart", "temperature": 0.5}, "samples draw the end token"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"stop": ("",)}, "stop is .*; it must be a tuple of entries that are each a text"),
    ],
)
def test_a_wrong_setting_is_an_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(BRANCHING, **changes)
