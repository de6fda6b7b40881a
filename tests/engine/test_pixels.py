"""Images prepared in threads are the same, in the same order. An error in a thread reaches the
caller."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from harness.engine import pixels
from harness.engine.engine import Engine
from harness.errors import UserError
from methods.interface import Decoding
from methods.sena.corruption import corruption
from tests.engine.oracle import mixed
from tests.tiny_models import tiny_llava

GREEDY = Decoding(max_new_tokens=6)


def threaded(threads: int) -> Engine:
    """An engine that prepares images in threads, as beside an accelerator (0: without, as on the
    CPU)."""
    engine = Engine(*tiny_llava(), batch_size=2, shared_bytes=40_000)
    if threads:
        engine.prefix_cache.pixels.threads = ThreadPoolExecutor(threads)
    return engine


@pytest.mark.parametrize("ahead", [1, pixels.PREFETCH])
def test_threads_change_no_answer_and_no_pixel(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "PREFETCH", ahead)
    alone, helped = threaded(0), threaded(3)
    noise = corruption("diffusion", 600)
    for corrupt in (None, noise):
        assert helped.generate(mixed(), GREEDY, corrupt=corrupt) == alone.generate(
            mixed(), GREEDY, corrupt=corrupt
        )
    kept = alone.prefix_cache.pixels.cache.entries
    assert list(helped.prefix_cache.pixels.cache.entries) == list(kept)
    assert len(kept) == 3
    assert all(
        torch.equal(helped.prefix_cache.pixels.cache.entries[name], pixels)
        for name, pixels in kept.items()
    )
    assert not helped.prefix_cache.pixels.pending
    assert not helped.prefix_cache.pixels.queue


def test_an_error_in_a_thread_is_raised_and_the_next_call_works() -> None:
    engine = threaded(2)
    with pytest.raises(UserError, match="must keep the shape"):
        engine.generate(mixed(), GREEDY, corrupt=lambda pixels, _: pixels[:, :30])
    assert engine.generate(mixed(), GREEDY) == threaded(0).generate(mixed(), GREEDY)
