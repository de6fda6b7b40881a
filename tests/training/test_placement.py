"""How a training uses the machine: the fastest configuration that fits is chosen, impossible ones
are errors, and results do not change."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.errors import UserError
from harness.synthetic.architecture import Sizes
from harness.training import loop
from harness.training.lora import choose_trainable
from harness.training.pair_batches import EncodedPair, encode
from harness.training.placement import RESERVED_BYTES, Placement, device_memory, estimate, fit
from harness.training.ranks import Ranks
from methods.interface import Lora, Recipe
from tests.tiny_models import SIZES, tiny_llava
from tests.training.cases import PAIRS, TARGETS, saved, train

RECIPE = Recipe(lr=1e-3, global_batch=6, alignment_weight=0.5)


def small_training(
    sizes: Sizes = SIZES,
) -> tuple[Any, dict[str, torch.nn.Parameter], list[EncodedPair], Any]:
    model, processor = tiny_llava(sizes=sizes)
    return (
        model,
        choose_trainable(model, RECIPE),
        encode(PAIRS, processor, patches=36, positions=512),
        processor,
    )


def decided(
    asked: Placement, memory: float, processes: int = 1, adapted: bool = False
) -> Placement:
    model, trained, pairs, _ = small_training()
    asked = replace(asked, memory=int(memory + RESERVED_BYTES))
    return fit(asked, model, trained, pairs, sides=2, processes=processes, adapted=adapted)


def needed(batch: int, checkpointing: bool, processes: int = 1) -> int:
    model, trained, pairs, _ = small_training()
    longest = sorted(pairs, key=lambda pair: -pair.length)[:batch]
    return estimate(
        model, trained, longest, sides=2, checkpointing=checkpointing, processes=processes
    ).total


def test_the_fastest_way_that_fits_is_chosen() -> None:
    plenty = decided(Placement(device_batch=4), needed(4, False) + 1)
    assert (plenty.checkpointing, plenty.sharded, plenty.device_batch, plenty.find_batch_size) == (
        False,
        False,
        4,
        True,
    )
    tight = decided(Placement(device_batch=4), needed(4, True) + 1)
    assert (tight.checkpointing, tight.device_batch) == (True, 4)
    tighter = decided(Placement(device_batch=4), needed(2, True) + 1)
    assert (tighter.checkpointing, tighter.device_batch) == (True, 2)
    spread = decided(Placement(device_batch=4), needed(4, True, 4) + 1, processes=4)
    assert (spread.sharded, spread.checkpointing, spread.device_batch) == (True, True, 4)


def test_what_does_not_fit_or_is_contradictory_is_an_error_before_training() -> None:
    with pytest.raises(
        UserError,
        match=r"One pair of up to \d+ tokens .*\(weights 0\.0, .* are available; use LoRA",
    ):
        decided(Placement(), 1000)
    with pytest.raises(UserError, match=r"start them with: torchrun"):
        decided(Placement(sharded=True), 1e9)
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(
            UserError,
            match="8-bit optimiser needs bitsandbytes, which is not installed: pip install",
        ):
            decided(Placement(optimizer="adamw8bit"), 1e9)
    with pytest.raises(UserError, match="device_batch is 0"):
        Placement(device_batch=0)


def test_a_training_may_take_the_free_memory_and_its_own_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fake GPU of 1,000 bytes: 300 are free, torch holds 700 and uses 600 of them, 64 for the
    model."""

    class OnGpu:
        device = torch.device("cuda")
        weight = SimpleNamespace(device=device, nbytes=64)

        def parameters(self) -> list[Any]:
            return [self.weight]

        def buffers(self) -> list[Any]:
            return [SimpleNamespace(device=torch.device("cpu"), nbytes=8)]

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (300, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 600)
    assert device_memory(OnGpu()) == 300 + 100 + 64
    assert device_memory(tiny_llava()[0]) is None


@pytest.mark.equality
def test_checkpointing_and_the_search_for_a_batch_size_change_no_weight(tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, global_batch=3, lora=Lora(r=4, alpha=8, dropout=0.1), projector_lr=1e-3
    )
    plain = train(tmp_path / "plain", recipe, lora_targets=TARGETS)
    other = train(
        tmp_path / "other", recipe, lora_targets=TARGETS, checkpointing=True, find_batch_size=True
    )
    assert (plain.checkpointing, other.checkpointing) == (False, True)
    plain, other = saved(tmp_path / "plain"), saved(tmp_path / "other")
    assert all(torch.equal(value, other[name]) for name, value in plain.items())


@pytest.mark.thorough
def test_the_batch_size_is_halved_until_it_fits(tmp_path: Path) -> None:
    model, _ = tiny_llava()
    seen: list[int] = []

    def small(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        rows = len(given["inputs_embeds"])
        if model.training:
            seen.append(rows)
            if rows > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    limit = 1
    hook = model.model.language_model.register_forward_pre_hook(small, with_kwargs=True)
    summary = train(tmp_path / "halved", RECIPE, model, find_batch_size=True)
    assert summary.device_batch == 1
    assert seen == [4, 2, 1, *[1] * 6]  # the search, then the schedule
    train(tmp_path / "one", RECIPE, device_batch=1)
    plain, other = saved(tmp_path / "one"), saved(tmp_path / "halved")
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in plain.items())
    limit = 0
    with pytest.raises(UserError, match="does not fit in memory on its own"):
        train(tmp_path / "none", RECIPE, model, find_batch_size=True)
    hook.remove()


@pytest.mark.equality
def test_a_training_continues_on_a_device_with_less_memory(tmp_path: Path) -> None:
    def cut(what: str, done: int, _total: int) -> None:
        if what == "train" and done == 1:
            raise KeyboardInterrupt

    recipe, options = replace(RECIPE, epochs=2, global_batch=3), {"checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, device_batch=3, progress=cut, **options)
    less = train(
        tmp_path / "cut",
        recipe,
        device_batch=4,
        memory=int(needed(1, True) + RESERVED_BYTES),
        **options,
    )
    assert (less.device_batch, less.checkpointing) == (1, True)
    train(tmp_path / "straight", recipe, device_batch=3, **options)
    plain, other = saved(tmp_path / "straight"), saved(tmp_path / "cut")
    assert all(torch.allclose(value, other[name], atol=2e-5) for name, value in plain.items())


def test_sharded_processes_that_are_out_of_step_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pair(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, 0]  # the other process had enough memory

    options = dict.fromkeys(("policy", "parameters", "references", "recipe", "autocast"))
    settings: dict[str, Any] = {
        **options,
        "seed": 0,
        "pad": 0,
        "device_batch": 4,
        "ranks": Pair(size=2),
    }
    pairs = small_training()[2]
    monkeypatch.setattr(loop, "_exceeds_memory", lambda loop, _: loop.device_batch > 2)
    with pytest.raises(UserError, match="ran out on 1 of 2 devices"):
        loop.find_batch_size(loop.Loop(**settings, sharded=True), pairs)
    assert loop.find_batch_size(loop.Loop(**settings, sharded=False), pairs).device_batch == 2


@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own
def test_the_8_bit_optimiser_trains_and_continues(tmp_path: Path) -> None:
    """Runs bitsandbytes' CPU code where it is installed; its GPU code is not tested here."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    recipe = replace(RECIPE, epochs=2, global_batch=3)
    options: dict[str, Any] = {"checkpoint_every": 1}
    train(tmp_path / "plain", recipe, **options)
    summary = train(tmp_path / "straight", recipe, optimizer="adamw8bit", **options)
    assert summary.optimizer == "adamw8bit"

    def cut(what: str, done: int, _total: int) -> None:
        if what == "train" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe, optimizer="adamw8bit", progress=cut, **options)
    train(tmp_path / "cut", recipe, optimizer="adamw8bit", **options)
    plain, straight, continued = (saved(tmp_path / name) for name in ("plain", "straight", "cut"))
    assert all(torch.equal(value, continued[name]) for name, value in straight.items())
    apart = max(float((plain[name] - value).abs().max()) for name, value in straight.items())
    assert 0 < apart < 5e-3  # other numbers, but no further apart than a step
