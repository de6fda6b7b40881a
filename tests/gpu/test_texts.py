"""Texts on CUDA: in float32 the CPU's, in bfloat16 as near as half precision is; the same with CUDA
graphs as without."""

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
from harness.engine.step_graph import StepGraphs
from harness.models.base_cards import BASES
from harness.models.chat_format import renderer
from methods.interface import BeamSearch, Decoding, Prompt
from tests.benches.gpu_models import build
from tests.benches.gpu_replay import inputs
from tests.benches.gpu_work import pictures
from tests.gpu.conftest import Allocator

pytestmark = pytest.mark.gpu

IMAGES = 8
TOKENS = 48
GREEDY = Decoding(max_new_tokens=TOKENS)
MIB = 2**20


def prompts() -> list[Prompt]:
    """Captions and yes/no questions about images of the development split."""
    asked = [*suite.chair("dev", IMAGES).questions(), *suite.pope("dev", IMAGES).questions()]
    return [Prompt(key=one.id, text=one.text, image=one.images[0]) for one in asked]


def base(device: str) -> tuple[Any, Any]:
    return load_model(BASES["synthetic"], device)


def equal_share(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    assert len(ours) == len(theirs)
    return sum(1 for a, b in zip(ours, theirs, strict=True) if a == b) / len(ours)


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


def graphs(model: Any, processor: Any, enabled: bool = True, **settings: Any) -> Engine:
    """An engine with or without graphs. On the CPU fixed steps stand for them."""
    engine = Engine(model, processor, **settings)
    engine.step_graphs.enabled = enabled
    return engine


def check(engine: Engine, device: str, record_property: Any) -> None:
    """Steps were taken as graphs, and no capture failed."""
    record_property("captures", engine.step_graphs.captured)
    record_property("steps as graphs", engine.step_graphs.steps)
    assert StepGraphs.failure == ""
    assert engine.step_graphs.steps > 8
    assert (engine.step_graphs.captured > 0) == (device == "cuda")


def noise(pixels: Tensor, key: str) -> Tensor:
    return pixels + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(len(key))).to(
        pixels
    )


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["tiny", "slim"])
def test_graphs_change_no_text(device: str, half: bool, shape: Any, record_property: Any) -> None:
    """Shared and own prefixes, samples, branches; each once more, so that graphs are dropped and
    captured again."""
    model, processor = build(shape, device)
    model = model.bfloat16() if half else model
    if shape == "tiny":
        asked = prompts()
    else:
        texts = ("what is there ?", "describe this image .", "yes or no", "colours")
        asked = [
            Prompt(key=f"{at} {text}", text=text, image=image)
            for at, image in enumerate(pictures(2, 336))
            for text in texts
        ]
    drawn = Decoding(max_new_tokens=TOKENS, temperature=0.8, top_p=0.9)
    search = BeamSearch(
        num_beams=4, num_beam_groups=4, diversity_penalty=2.0, max_new_tokens=32, stop=()
    )
    ours, plain = graphs(model, processor), graphs(model, processor, False)
    texts_of: dict[Engine, tuple[list[Any], ...]] = {}
    logps: dict[Engine, list[float]] = {}
    for engine in (ours, plain):
        for _ in range(2):
            answers = engine.generate(asked, GREEDY)
            own = engine.generate(asked[:6], GREEDY, corrupt=noise)
            samples = engine.generate(asked, drawn)
            branches = engine.branch(asked[:4], search)
        texts_of[engine] = (
            [one.text for one in answers],
            [one.text for one in own],
            [one.text for one in samples],
            [[one.text for one in some] for some in branches],
        )
        logps[engine] = [one.logp for one in (*answers, *own)]
    names = ("answers", "own prefixes", "samples", "branches")
    shares = [equal_share(*both) for both in zip(texts_of[ours], texts_of[plain], strict=True)]
    apart = max(abs(a - b) for a, b in zip(logps[ours], logps[plain], strict=True))
    for name, share in zip(names, shares, strict=True):
        record_property(f"equal {name}", share)
    record_property("largest difference of log-probability", apart)
    check(ours, device, record_property)
    assert plain.step_graphs.steps == 0
    if half:
        assert min(shares[:2]) > 0.5 or shape == "slim"  # random weights: near ties
        return
    assert shares[:2] == [1.0, 1.0]
    assert min(shares) > 0.8  # a draw may fall on an edge, and beams may be as likely
    assert apart < 1e-2


def test_graphs_keep_within_memory_that_halves_batches(
    device: str, allocator: Allocator, record_property: Any
) -> None:
    rows, tokens = (256, 40) if allocator.cuda else (16, 20)
    model, processor = build("slim", device)
    images, decoding = pictures(4, 336), Decoding(max_new_tokens=tokens)
    asked = [
        Prompt(key=f"{number}", text=f"what is there {'and one ' * (number % 5)}?", image=image)
        for number, image in enumerate(images * (rows // 4))
    ]
    graphs(model, processor, batch_size=4).generate(asked[:8], decoding)
    allocator.clear()
    held = allocator.reserved
    plenty = graphs(model, processor, batch_size=rows)
    wanted = [one.text for one in plenty.generate(asked, decoding)]
    whole = allocator.peak_reserved - held
    check(plenty, device, record_property)
    del plenty
    allocator.clear()
    allowed = allocator.reserved + whole // 2
    allocator.limit(allowed)
    tight = graphs(model, processor, batch_size=rows)
    texts = [one.text for one in tight.generate(asked, decoding)]
    record_property("rows at once", f"{rows}, then {tight.batches.size}")
    record_property("limit, MiB", allowed / MIB)
    check(tight, device, record_property)
    assert equal_share(texts, wanted) > 0.98
    allocator.needed()
    assert tight.batches.size < rows
    assert torch.cuda.max_memory_reserved() <= allowed + MIB


def test_graphs_of_many_batches_take_no_more_memory(
    device: str, allocator: Allocator, record_property: Any
) -> None:
    engine, asked = graphs(*base(device), batch_size=2), prompts()[:IMAGES]
    held = []
    for _ in range(6):
        engine.generate(asked, GREEDY)
        allocator.clear()  # what stays now is held by someone
        held.append(allocator.reserved)
    record_property("held after each call, MiB", [round(each / MIB) for each in held])
    check(engine, device, record_property)
    allocator.needed()
    assert engine.step_graphs.captured > 6
    assert max(held[2:]) <= max(held[:2]) + 4 * MIB
