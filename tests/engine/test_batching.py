"""Windows keep pictures whole; memory exhaustion halves the batch and loses nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from harness.engine.batching import Batches, windows
from harness.engine.lru import Lru
from harness.engine.sharing import content
from harness.engine.vlm import Engine
from methods.interface import Decoding
from tests.engine.oracle import mixed
from tests.tiny import picture, tiny_llava


def test_windows_keep_groups_whole_in_order() -> None:
    assert list(windows(["a", "b", "a", None, "c", "b"], 2)) == [[0, 2, 1, 5], [3, 4]]
    assert list(windows(["a", "b"], 0)) == [[0], [1]]


def double(batch: Sequence[int], most: int, calls: list[int]) -> list[int]:
    calls.append(len(batch))
    if len(batch) > most:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return [2 * value for value in batch]


def test_exhausted_memory_halves_the_batch_and_goes_on() -> None:
    calls: list[int] = []
    batches = Batches(16)
    assert batches.run(range(20), lambda batch: double(batch, 5, calls), lambda _: None) == [2 * value for value in range(20)]
    assert calls == [16, 8, 4, 4, 4, 4, 4]
    assert batches.size == 4
    with pytest.raises(torch.OutOfMemoryError):
        batches.run([1], lambda batch: double(batch, 0, calls), lambda _: None)


def test_other_errors_are_not_taken_for_exhausted_memory() -> None:
    def fail(_: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Batches(4).run(range(4), fail, lambda _: None)


def test_only_alike_neighbours_share_a_batch() -> None:
    seen: list[list[int]] = []
    Batches(3).run([1, 3, 5, 7, 2, 4, 9], lambda batch: seen.append(list(batch)) or list(batch), lambda value: value % 2)  # type: ignore[func-returns-value]
    assert seen == [[1, 3, 5], [7], [2, 4], [9]]


def test_engine_survives_a_picture_tower_out_of_memory() -> None:
    model, processor = tiny_llava()
    expected = Engine(model, processor).generate(mixed(), Decoding(max_new_tokens=6))
    engine = Engine(model, processor)
    tower = model.model.vision_tower

    def limited(_: torch.nn.Module, __: tuple[object, ...], given: dict[str, torch.Tensor]) -> None:
        pixels = given.get("pixel_values")
        if pixels is not None and len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = tower.register_forward_pre_hook(
        lambda module, args, kwargs: limited(module, args, {"pixel_values": args[0], **kwargs} if args else kwargs),
        with_kwargs=True,
    )
    answers = engine.generate(mixed(), Decoding(max_new_tokens=6))
    handle.remove()
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert engine.batches.size == 1


def test_lru_is_bounded_in_bytes() -> None:
    kept: Lru[str] = Lru(100)
    for name in "abc":
        kept.put(name, torch.zeros(10))
        kept.get("a")
    assert kept.get("b") is None
    assert kept.get("a") is not None
    assert kept.used <= 100


def test_content_is_the_pictures_not_the_objects() -> None:
    assert content(picture(0)) == content(picture(0).copy()) != content(picture(1))
    assert content(picture(0)) != content(picture(0).resize((30, 120)))
