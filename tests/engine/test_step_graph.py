"""Fixed decoding steps, the ones that a GPU captures as graphs, give what plain steps give. They
run here without being captured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine import step_graph
from harness.engine.decode_state import DecodeRow, DecodeState
from harness.engine.engine import Engine
from harness.engine.step_graph import FixedStep, StepGraphs
from methods.interface import BeamSearch, Completion, Decoding, Prompt
from tests.engine.oracle import ending, mixed
from tests.tiny_models import picture, tiny_llava

GREEDY = Decoding(max_new_tokens=40)
LONG = Decoding(max_new_tokens=150)


def engine(parts: Any, *, fixed: bool, alignment: int = 16, **settings: Any) -> Engine:
    """With fixed steps as on a GPU, its alignment included; or with plain ones as on the CPU."""
    made = Engine(*parts, **settings)
    made.step_graphs.enabled = fixed
    made.decoder.alignment = alignment if fixed else 1
    return made


def equal(ours: Sequence[Completion], theirs: Sequence[Completion]) -> None:
    assert [one.text for one in ours] == [one.text for one in theirs]
    assert [one.n_tokens for one in ours] == [one.n_tokens for one in theirs]
    assert [one.logp for one in ours] == pytest.approx([one.logp for one in theirs], abs=1e-4)


def same_image() -> list[Prompt]:
    """Twelve prompts that share two prefixes."""
    texts = ("a ?", "the cup", "no", "red", "what is there ?", "colour")
    return [
        Prompt(key=f"{at}/{text}", text=text, image=picture(at))
        for at in range(2)
        for text in texts
    ]


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize(("patience", "alignment"), [(0, 1), (4, 16)])
@pytest.mark.parametrize("model_of", [tiny_llava, ending])
@pytest.mark.parametrize(
    "decoding",
    [GREEDY, LONG, replace(GREEDY, temperature=0.9, top_p=0.9, seed=3), replace(LONG, stop=("?",))],
    ids=["greedy", "growth", "samples", "stop"],
)
def test_answers_equal_those_of_plain_steps(
    decoding: Decoding,
    model_of: Any,
    alignment: int,
    patience: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_graph, "MIN_PLAIN_STEPS", patience)
    parts = model_of()
    ours, plain = engine(parts, fixed=True, alignment=alignment), engine(parts, fixed=False)
    for prompts in (mixed(), same_image(), same_image()[:1]):
        equal(ours.generate(prompts, decoding), plain.generate(prompts, decoding))
    assert ours.step_graphs.steps > 20
    assert plain.step_graphs.steps == ours.step_graphs.captured == 0


@pytest.mark.equality
def test_rows_of_their_own_prefixes_equal_those_of_plain_steps() -> None:
    parts = tiny_llava()
    ours, plain = engine(parts, fixed=True), engine(parts, fixed=False)

    def noise(pixels: Tensor, key: str) -> Tensor:
        return pixels + len(key) / 3

    for some in (ours, plain):
        some.decoder.text.shares_prefixes = False
    for corrupt in (noise, None):
        answers = ours.generate(same_image(), GREEDY, corrupt=corrupt)
        equal(answers, plain.generate(same_image(), GREEDY, corrupt=corrupt))
    assert ours.step_graphs.steps > 20


def test_adapters_work_in_fixed_steps() -> None:
    model, processor = tiny_llava()
    names = r".*language_model.*(q_proj|v_proj|down_proj)"
    config = LoraConfig(r=4, target_modules=names, init_lora_weights=False)
    parts = inject_adapter_in_model(config, model).eval(), processor
    ours, plain = engine(parts, fixed=True), engine(parts, fixed=False)
    answers = ours.generate(mixed(), GREEDY)
    equal(answers, plain.generate(mixed(), GREEDY))
    assert [one.text for one in answers] != [
        one.text for one in Engine(*tiny_llava()).generate(mixed(), GREEDY)
    ]
    assert ours.step_graphs.steps > 20


def test_a_hook_or_another_architecture_keeps_plain_steps() -> None:
    model, processor = tiny_llava()
    model.model.language_model.layers[0].register_forward_hook(lambda *_: None)
    some = engine((model, processor), fixed=True)
    equal(
        some.generate(mixed(), GREEDY),
        engine(tiny_llava(), fixed=False).generate(mixed(), GREEDY),
    )
    assert some.step_graphs.steps == 0


@pytest.mark.equality
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_branches_equal_those_of_plain_steps(groups: int) -> None:
    search = BeamSearch(
        num_beams=4,
        num_beam_groups=groups,
        diversity_penalty=1.0 if groups > 1 else 0.0,
        max_new_tokens=30,
    )
    parts = tiny_llava()
    ours, plain = engine(parts, fixed=True), engine(parts, fixed=False)
    for prompts in (mixed(), same_image()):
        mine, theirs = ours.branch(prompts, search), plain.branch(prompts, search)
        assert [[one.text for one in some] for some in mine] == [
            [one.text for one in some] for some in theirs
        ]
    # Beams of one group change places nearly every step; a group of one beam keeps its own.
    assert (ours.step_graphs.steps > 10) == (groups == 4)


def logits_of(some: Engine, prompts: Sequence[Prompt], shared: bool) -> list[Tensor]:
    """The logits of 100 steps of fixed tokens; rows leave at steps 30 and 60."""

    def run(rows: Sequence[DecodeRow]) -> list[list[Tensor]]:
        state, found = DecodeState(some.decoder, rows, 100), []
        assert (state.cache.shared is not None) == shared
        for step in range(100):
            found.append(state.logits())
            count = len(found[-1])
            kept = list(range(0, count, 2)) if step in (30, 60) else None
            tokens = (torch.arange(count if kept is None else len(kept)) + step) % 40 + 5
            state.advance(tokens, kept)
        return [found] * len(rows)

    with torch.inference_mode():
        return some.run_rows(prompts, run, None, new_tokens=100)[0][1]


@pytest.mark.parametrize("shared", [True, False])
def test_logits_of_every_step_equal_those_of_plain_steps(shared: bool) -> None:
    parts = tiny_llava()
    made = engine(parts, fixed=True), engine(parts, fixed=False)
    prompts = same_image()
    for some in made:
        some.decoder.text.shares_prefixes = shared
    ours, theirs = (logits_of(some, prompts, shared) for some in made)
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-4, rtol=1e-4)
    assert made[0].step_graphs.steps > 80


class NoTransfer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what a capture refuses: values that the host reads, tensors that it makes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


def test_a_fixed_step_reads_and_writes_the_same_places_without_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, places = FixedStep.forward, set()

    def watched(step: FixedStep) -> Tensor:
        fixed = (step.x, step.position, step.mask, step.lengths, *step.cache.layers)
        before = [tensor.data_ptr() for tensor in fixed]
        with NoTransfer():  # type: ignore[no-untyped-call]
            hidden = forward(step)
        fixed = (step.x, step.position, step.mask, step.lengths, *step.cache.layers)
        assert [tensor.data_ptr() for tensor in fixed] == before
        assert step.mask.shape[-1] == step.cache.capacity
        assert (step.cache.offset + step.cache.capacity) % 16 == 0
        places.add(int(step.position))
        return hidden

    monkeypatch.setattr(FixedStep, "forward", watched)
    some = engine(tiny_llava(), fixed=True)
    some.generate(same_image(), GREEDY)
    assert len(places) > 20


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that tries to capture."""
    monkeypatch.setattr(StepGraphs, "failure", "")
    monkeypatch.setattr(FixedStep, "warm_up", FixedStep.forward)
    some = engine(tiny_llava(), fixed=True)
    some.step_graphs.can_capture = True
    return some


def test_a_failed_capture_is_told_once_and_decoding_goes_on(
    captures: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: FixedStep) -> None:
        try:
            raise RuntimeError("operation not permitted")
        finally:
            raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(FixedStep, "capture", fail)
    with caplog.at_level(logging.WARNING):
        answers = captures.generate(mixed(), GREEDY)
        captures.generate(same_image(), GREEDY)
    equal(answers, engine(tiny_llava(), fixed=False).generate(mixed(), GREEDY))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without CUDA graphs" in caplog.text
    assert StepGraphs.failure == "operation not permitted"
    assert captures.step_graphs.steps == 1


@pytest.mark.thorough
def test_a_capture_out_of_memory_halves_the_batch(
    captures: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def fail(step: FixedStep) -> None:
        rows.append(len(step.x))
        step.graph = Replayed(step)  # type: ignore[assignment]
        if len(step.x) > 4:
            step.graph = None
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(FixedStep, "capture", fail)
    answers = captures.generate(same_image(), GREEDY)
    equal(answers, engine(tiny_llava(), fixed=False).generate(same_image(), GREEDY))
    assert StepGraphs.failure == ""
    assert rows[0] == 12
    assert captures.batches.size < 12
    assert captures.step_graphs.captured > 0


class Replayed:
    """Stands for a captured graph: computes the step anew."""

    def __init__(self, step: FixedStep) -> None:
        self.step = step

    def replay(self) -> None:
        self.step.hidden = self.step.forward()
