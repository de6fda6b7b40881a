"""Windows do not split an image's prompts; running out of memory halves the batch and loses no
result."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from harness.engine import prefix_cache
from harness.engine.batching import Batches, windows
from harness.engine.engine import Engine
from harness.engine.kv_cache import LruCache
from harness.engine.prefix_cache import ImagePrefix, content_hash
from methods.interface import Decoding, Prompt
from tests.engine.oracle import mixed
from tests.tiny_models import picture, tiny_llava


def test_windows_keep_groups_whole_in_order() -> None:
    assert list(windows(["a", "b", "a", None, "c", "b"], 2)) == [[0, 2, 1, 5], [3, 4]]
    assert list(windows(["a", "b"], 0)) == [[0], [1]]


def double(batch: Sequence[int], limit: int, calls: list[int]) -> list[int]:
    calls.append(len(batch))
    if len(batch) > limit:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return [2 * value for value in batch]


@pytest.mark.thorough
def test_out_of_memory_halves_the_batch_and_continues() -> None:
    calls: list[int] = []
    batches = Batches(16)
    assert batches.run(range(20), lambda batch: double(batch, 5, calls), lambda _: None) == [
        2 * value for value in range(20)
    ]
    assert calls == [16, 8, 4, 4, 4, 4, 4]
    assert batches.size == 4
    with pytest.raises(torch.OutOfMemoryError):
        batches.run([1], lambda batch: double(batch, 0, calls), lambda _: None)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_outside_of_torchs_allocator_is_recognised(message: str) -> None:
    def fail(batch: Sequence[int]) -> list[int]:
        if len(batch) > 1:
            raise RuntimeError(message)
        return list(batch)

    assert Batches(4).run(range(4), fail, lambda _: None) == [0, 1, 2, 3]


def test_other_errors_are_raised() -> None:
    def fail(_: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Batches(4).run(range(4), fail, lambda _: None)


def test_only_neighbours_with_equal_keys_share_a_batch() -> None:
    seen: list[list[int]] = []
    Batches(3).run(
        [1, 3, 5, 7, 2, 4, 9],
        lambda batch: seen.append(list(batch)) or list(batch),
        lambda value: value % 2,
    )  # type: ignore[func-returns-value]
    assert seen == [[1, 3, 5], [7], [2, 4], [9]]


def test_engine_survives_a_vision_tower_out_of_memory() -> None:
    model, processor = tiny_llava()
    expected = Engine(model, processor).generate(mixed(), Decoding(max_new_tokens=6))
    engine = Engine(model, processor)
    tower = model.model.vision_tower

    def limited(_: torch.nn.Module, __: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        pixels = given.get("pixel_values")
        if pixels is not None and len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = tower.register_forward_pre_hook(
        lambda module, args, kwargs: limited(
            module, args, {"pixel_values": args[0], **kwargs} if args else kwargs
        ),
        with_kwargs=True,
    )
    answers = engine.generate(mixed(), Decoding(max_new_tokens=6))
    handle.remove()
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert engine.batches.size == 64  # the decoding batches fit


@pytest.mark.thorough
def test_prefix_batches_that_do_not_fit_are_halved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_llava()
    monkeypatch.setattr(prefix_cache, "READ_TOKENS", 400)
    engine = Engine(model, processor)
    failed: list[int] = []

    def limited(
        _: torch.nn.Module, args: tuple[torch.Tensor, ...], given: dict[str, torch.Tensor]
    ) -> None:
        count = len(args[0] if args else given["pixel_values"])
        if count > 4:
            failed.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.model.vision_tower.register_forward_pre_hook(limited, with_kwargs=True)
    for call in range(3):
        asks = [
            Prompt(key=f"{number}", text="a ?", image=picture(20 * call + number))
            for number in range(20)
        ]
        engine.generate(asks, Decoding(max_new_tokens=2))
    assert failed == [10, 5]
    assert engine.batches.size == 64


def test_a_windows_prefixes_are_freed_before_the_next_window_is_read() -> None:
    """Keys and values of corrupted images are not cached."""
    engine = Engine(*tiny_llava(), shared_bytes=60_000)
    read = engine.prefix_cache.keys_and_values
    before: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watched(*arguments: Any) -> dict[ImagePrefix, torch.Tensor]:
        alive.append(sum(value() is not None for value in before))
        values = read(*arguments)
        before.extend(weakref.ref(value) for value in values.values())
        return values

    engine.prefix_cache.keys_and_values = watched  # type: ignore[assignment, method-assign]
    engine.generate(mixed(), Decoding(max_new_tokens=3), corrupt=lambda pixels, _: pixels + 1)
    assert len(alive) > 2
    assert not any(alive)
    engine.logps(mixed(), ["yes"] * 16)
    engine.prefix_cache.clear()
    assert not any(value() is not None for value in before)


def test_lru_is_bounded_in_bytes() -> None:
    kept: LruCache[str] = LruCache(100)
    for name in "abc":
        kept.put(name, torch.zeros(10))
        kept.get("a")
    assert kept.get("b") is None
    assert kept.get("a") is not None
    assert kept.used <= 100


def test_content_hash_depends_on_pixels_and_size_alone() -> None:
    assert content_hash(picture(0)) == content_hash(picture(0).copy()) != content_hash(picture(1))
    assert content_hash(picture(0)) != content_hash(picture(0).resize((30, 120)))
