"""The estimate of a training's memory is held to a count of the real step, and the counting to what
it pretends to be.

Run by test_memory.py in a process of its own: a pretended accelerator stays registered for as long
as its process lives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from harness.models.base_cards import LLAMA_LINEARS
from harness.models.llava import tower_features
from harness.training.fsdp import widen
from harness.training.lora import add_adapters, choose_trainable
from harness.training.memory import Shape
from harness.training.pair_batches import pack
from harness.training.policy import packed_logits
from methods.interface import Lora, Recipe
from tests.benches import counting
from tests.benches.bench_memory import ADAPTED, FULL, Counted, build, count, pairs, shares

SMALL = Shape(
    width=128, inner=320, layers=3, heads=4, keys=128, vocabulary=512, tower=0, projector=0
)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SMALL_LORA = replace(ADAPTED, lora=Lora(r=16, alpha=32))


def counts(recipe: Recipe, dtype: torch.dtype, checkpointing: bool) -> Counted:
    work = pairs(8, image=511, patches=36, side=20)
    with counting.counted() as among:
        model = build(SMALL, dtype, TOWER, 36)
        return count(model, recipe, work, checkpointing=checkpointing, at_once=4, among=among)


DROPOUT = replace(SMALL_LORA, lora=Lora(r=16, alpha=32, dropout=0.05))
CASES = [
    pytest.param(recipe, dtype, anew, id=f"{name}-{kind}-{'anew' if anew else 'kept'}", marks=marks)
    for name, recipe in (("full", FULL), ("lora", SMALL_LORA), ("dropout", DROPOUT))
    for kind, dtype in (("half", torch.bfloat16), ("float", torch.float32))
    for anew in (False, True)
    # The fast suite has the two that runs on a GPU begin with.
    for marks in (
        (
            []
            if (name, kind, anew) in {("full", "half", True), ("lora", "half", False)}
            else [pytest.mark.slow]
        ),
    )
]


@pytest.mark.parametrize(("recipe", "dtype", "checkpointing"), CASES)
def test_the_estimate_is_what_a_step_takes_or_up_to_15_percent_more(
    recipe: Recipe, dtype: torch.dtype, checkpointing: bool
) -> None:
    found = counts(recipe, dtype, checkpointing)
    assert 1.0 <= found.need.total / found.peak <= 1.15
    assert found.reference_peak <= found.peak
    assert (
        found.need.activations > found.need.total / 10
    )  # or the check would be one of weights alone


def test_packing_and_cached_references_save_the_flops_that_are_promised() -> None:
    found = counts(FULL, torch.bfloat16, False)
    row = {
        "reference_tflop": found.reference_flops,
        "step_tflop": found.step_flops,
        "plain_reference_tflop": found.plain_reference,
        "plain_step_tflop": found.plain_step,
    }
    prompt, side = 62, 20
    tokens = (prompt + 2 * side) / (2 * (prompt + side))
    one, three, cached = shares(row).values()
    assert one == pytest.approx(tokens, abs=0.03)
    assert three == pytest.approx(tokens * 10 / 12, abs=0.03)
    assert cached == pytest.approx(tokens * 3 / 4, abs=0.03)


def test_a_tensor_left_in_main_memory_is_found() -> None:
    with counting.counted():
        there = torch.ones(2, 8, device=counting.accelerator())
        with pytest.raises(RuntimeError, match=r"same device|two different devices"):
            there + torch.ones(2, 8)


def test_merging_and_the_tower_meet_no_tensor_of_main_memory() -> None:
    work = pairs(1, image=511, patches=36, side=20)
    with counting.counted() as among:
        model = build(SMALL, torch.bfloat16, TOWER, 36).to(counting.accelerator())
        assert tower_features(model, torch.empty(2, 3, 84, 84)).device.type == counting.ACCELERATOR
        before = among.now
        wrapped = add_adapters(model, Lora(r=16, alpha=32), LLAMA_LINEARS, 0)
        widen(choose_trainable(model, SMALL_LORA).values())
        with torch.no_grad(), torch.autocast(counting.ACCELERATOR, torch.bfloat16):
            features = {"0": torch.empty(36, TOWER["hidden_size"], dtype=torch.bfloat16)}
            logits = packed_logits(model, pack(work), features)
        assert logits.shape == (2, 20, SMALL.vocabulary)
        with torch.no_grad():
            wrapped.merge_and_unload()
        del wrapped, logits
        model.to(torch.bfloat16)
        assert before - 100 <= among.now <= before  # the positions' frequencies are halved, too


def test_counts_are_those_of_tensors_that_live() -> None:
    with counting.counted() as among:
        held = torch.empty(1000, dtype=torch.float32, device=counting.accelerator())
        for _ in range(3):
            held + 1
        view = held[10:]
        assert (among.now, among.peak) == (4000, 8000)
        del held
        assert among.now == 4000
        del view
        assert among.now == 0
        left, right = (torch.empty(4, 4, device=counting.accelerator()) for _ in range(2))
        left @ right
        assert among.flops == 2 * 4**3


@pytest.mark.filterwarnings("ignore:.*autocast.*:UserWarning")
def test_the_pretended_autocast_and_attention_give_the_types_that_autocast_gives() -> None:
    """The rules that counting pretends, beside those of torch's autocast on the CPU."""

    def kinds(device: str) -> list[torch.dtype]:
        weight = torch.ones(8, 8, device=device, requires_grad=True)
        rows = torch.ones(2, 4, 8, device=device)
        heads = torch.ones(2, 2, 4, 8, device=device, requires_grad=True)
        with torch.autocast(device, torch.bfloat16):
            made = [
                F.linear(rows, weight),
                rows @ weight,
                F.scaled_dot_product_attention(
                    heads, heads, heads, attn_mask=torch.zeros(2, 1, 4, 4, device=device)
                ),
                rows * weight[0],
                F.linear(rows, weight).float().logsumexp(-1),
            ]
        made[2].sum().backward()
        assert heads.grad is not None
        return [*(one.dtype for one in made), heads.grad.dtype]

    real = kinds("cpu")
    with counting.counted():
        assert kinds(counting.accelerator()) == real
