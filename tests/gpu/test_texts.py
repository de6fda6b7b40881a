"""Texts on CUDA: in float32 the CPU's, in bfloat16 as near as half precision is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.synthetic import suite
from harness.engine.decode_state import DecodeRow, DecodeState
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from harness.models.chat_format import renderer
from methods.interface import BeamSearch, Decoding, Prompt
from tests.benches.gpu_replay import inputs

pytestmark = pytest.mark.gpu

IMAGES = 8
TOKENS = 48
GREEDY = Decoding(max_new_tokens=TOKENS)


def prompts() -> list[Prompt]:
    """Captions and yes/no questions about images of the development split."""
    asked = [*suite.chair("dev", IMAGES).questions(), *suite.pope("dev", IMAGES).questions()]
    return [Prompt(key=one.id, text=one.text, image=one.images[0]) for one in asked]


def base(device: str) -> tuple[Any, Any]:
    return load_model(BASES["synthetic"], device)


def equal_share(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    assert len(ours) == len(theirs)
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def test_float32_texts_are_the_cpus(device: str, record_property: Any) -> None:
    asked = prompts()
    ours = Engine(*base(device)).generate(asked, GREEDY)
    cpus = Engine(*base("cpu")).generate(asked, GREEDY)
    apart = max(abs(a.logp - b.logp) for a, b in zip(ours, cpus, strict=True))
    record_property("texts", len(asked))
    record_property("largest difference of log-probability", apart)
    assert len({one.text for one in cpus}) > IMAGES  # the texts tell something
    assert [one.text for one in ours] == [one.text for one in cpus]
    assert [one.finished for one in ours] == [one.finished for one in cpus]
    assert apart < 1e-2


def test_float32_samples_branches_and_scores_are_the_cpus(
    device: str,
    record_property: Any,
) -> None:
    asked = prompts()[:IMAGES]
    there, here = Engine(*base(device)), Engine(*base("cpu"))
    drawn = Decoding(max_new_tokens=TOKENS, temperature=0.8, top_p=0.9)
    samples = [[one.text for one in engine.generate(asked, drawn)] for engine in (there, here)]
    search = BeamSearch(
        num_beams=4,
        num_beam_groups=4,
        diversity_penalty=2.0,
        max_new_tokens=20,
        stop=(".",),
    )
    searched = [engine.branch(asked, search) for engine in (there, here)]
    found = [[[one.text for one in some] for some in branches] for branches in searched]
    scores = [engine.logps(asked, samples[1]) for engine in (there, here)]
    # A draw may fall on the edge between two tokens, and beams may be as likely: rounding decides.
    shares = equal_share(*samples), equal_share(*found)
    record_property("equal samples", shares[0])
    record_property("equal branches", shares[1])
    apart = max(abs(a - b) for a, b in zip(*scores, strict=True))
    record_property("largest difference of a score", apart)
    assert min(shares) > 0.8
    assert apart < 1e-2


def test_bfloat16_is_as_near_as_half_precision_is(device: str, record_property: Any) -> None:
    """The engine's batches in bfloat16 are no further from float32 than one prompt at a time is."""
    asked = prompts()
    model, processor = base(device)
    exact = alone(model, processor, asked)
    texts = [one.text for one in Engine(model, processor).generate(asked, GREEDY)]
    model = model.bfloat16()
    engine = Engine(model, processor)
    ours, plain = first_logits(engine, asked), alone(model, processor, asked)
    halves = [one.text for one in engine.generate(asked, GREEDY)]
    ours_apart, plain_apart = farthest(ours, exact), farthest(plain, exact)
    between = farthest(ours, plain)
    record_property("largest logit difference from float32, batched", ours_apart)
    record_property("one by one", plain_apart)
    record_property("between the two", between)
    record_property("texts equal to float32's", equal_share(halves, texts))
    assert 0 < ours_apart < 2 * plain_apart
    assert between < 2 * plain_apart
    assert equal_share(halves, texts) > 0.5


def first_logits(engine: Engine, asked: Sequence[Prompt]) -> list[Tensor]:
    """The first new token's, by the engine's own batches."""

    def first(rows: Sequence[DecodeRow]) -> list[Tensor]:
        return list(DecodeState(engine.decoder, rows, 1).logits())

    with torch.inference_mode():
        return [logits for _, logits in engine.run_rows(asked, first, None, new_tokens=1)]


def alone(model: Any, processor: Any, asked: Sequence[Prompt]) -> list[Tensor]:
    """The first new token's, by a plain forward pass of each prompt."""
    render, found = renderer(processor), []
    for prompt in asked:
        text = render.render_prompt(prompt.text, True, prompt.prefix)
        with torch.inference_mode():
            found.append(model(**inputs(model, processor, text, prompt)).logits[0, -1].float())
    return found


def farthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
