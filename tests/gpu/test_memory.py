"""Memory on CUDA, by the allocator's own figures: counts hold, and what does not fit is halved.

All of it needs CUDA's allocator; a rehearsal on the CPU runs the work and leaves the claims out.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL.Image import Image

from harness.engine.engine import Engine
from harness.synthetic.architecture import Sizes
from harness.training.placement import Placement
from methods.interface import Decoding, Prompt
from tests.benches import gpu_dpo, recorded
from tests.benches.gpu_models import build
from tests.benches.gpu_work import pictures
from tests.gpu.conftest import Allocator
from tests.tiny_models import picture, tiny_llava

pytestmark = pytest.mark.gpu

MIB = 2**20
WORKSPACE = 192 * MIB
"""What libraries take through torch's allocator (cuBLAS alone up to 64 MiB) and blocks' edges."""
DEEP = Sizes(
    vision_width=32,
    vision_layers=2,
    text_width=32,
    text_layers=1,
    width=256,
    layers=16,
    ffn=96,
)
"""Many keys and values a token and little else, so that they alone decide what is taken."""


def trained(device: str, adapted: bool, placement: Placement) -> gpu_dpo.Trained:
    """A training of the slim shape, whose 32,064 logits an answer's token fill memory."""
    model, processor = build("slim", device)
    images, count = pictures(3, 336), 8 if device == "cuda" else 2
    recipe = gpu_dpo.recipe("slim", count, adapted)
    pairs = recorded.pairs(count, len(images), "slim")
    return gpu_dpo.ours(model, processor, pairs, images, recipe, 8, placement)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_training_takes_no_more_than_was_counted(
    device: str,
    allocator: Allocator,
    adapted: bool,
    recomputed: bool,
    record_property: Any,
) -> None:
    placement = Placement(
        device_batch=8,
        checkpointing=recomputed,
        log_to=(),
        find_batch_size=False,
        memory=2**40,
    )
    if allocator.cuda:
        trained(device, adapted, placement)  # libraries take their workspaces
    allocator.clear()
    before = allocator.now
    found = trained(device, adapted, placement)
    taken = allocator.peak - before
    record_property("counted, MiB", found.counted / MIB)
    record_property("taken, MiB", taken / MIB)
    assert found.counted > 0
    allocator.needed()
    assert taken <= found.counted + WORKSPACE


def asked(count: int, images: list[Image]) -> list[Prompt]:
    return [
        Prompt(key=f"{number}", text=f"what is there {'and one ' * (number % 5)}?", image=image)
        for number, image in enumerate(images * (count // len(images)))
    ]


def test_answering_stays_within_its_budget(
    device: str,
    allocator: Allocator,
    record_property: Any,
) -> None:
    """96 images take several times the budget at once; windows and batches keep within it."""
    model, processor = tiny_llava(sizes=DEEP)
    model = model.to(device)
    count = 96 if allocator.cuda else 12
    prompts = asked(2 * count, [picture(number) for number in range(count)])
    decoding = Decoding(max_new_tokens=24)
    Engine(model, processor).generate(prompts[:4], decoding)
    allocator.clear()
    held, budget = allocator.now, 96 * MIB
    engine = Engine(model, processor, memory=budget)
    texts = [one.text for one in engine.generate(prompts, decoding)]
    took = allocator.peak - held
    free = Engine(model, processor, memory=64 * budget)
    allocator.clear()
    held = allocator.now
    others = [one.text for one in free.generate(prompts, decoding)]
    more = allocator.peak - held
    equal = sum(a == b for a, b in zip(texts, others, strict=True)) / len(texts)
    record_property("budget, MiB", budget / MIB)
    record_property("taken, MiB", took / MIB)
    record_property("taken without it, MiB", more / MIB)
    record_property("equal texts", equal)
    assert engine.batches.size == free.batches.size  # nothing had to be halved
    assert equal > 0.95
    allocator.needed()
    assert took <= budget
    assert more > 1.5 * budget  # so the budget did something


def test_answers_that_do_not_fit_are_halved_for_real(
    device: str,
    allocator: Allocator,
    record_property: Any,
) -> None:
    rows = 256 if allocator.cuda else 16
    model, processor = build("slim", device)
    prompts = asked(rows, pictures(4, 336))
    decoding = Decoding(max_new_tokens=8)
    Engine(model, processor, batch_size=4).generate(prompts[:8], decoding)
    allocator.clear()
    held = allocator.reserved
    plenty = Engine(model, processor, batch_size=rows)
    wanted = [one.text for one in plenty.generate(prompts, decoding)]
    whole = allocator.peak_reserved - held
    del plenty
    allocator.clear()
    allowed = allocator.reserved + whole // 2
    allocator.limit(allowed)
    # Told of plenty, so that only the allocator's refusal can halve the batch.
    tight = Engine(model, processor, batch_size=rows, memory=2**40)
    texts = [one.text for one in tight.generate(prompts, decoding)]
    equal = sum(a == b for a, b in zip(texts, wanted, strict=True)) / rows
    record_property("rows at once", f"{rows}, then {tight.batches.size}")
    record_property("limit, MiB", allowed / MIB)
    record_property("equal texts", equal)
    assert equal > 0.98
    allocator.needed()
    assert tight.batches.size < rows
    assert torch.cuda.max_memory_reserved() <= allowed + MIB


def test_a_training_that_does_not_fit_is_halved_for_real(
    device: str,
    allocator: Allocator,
    record_property: Any,
) -> None:
    """The count is told of plenty, so only the rehearsal of the longest batch can know."""
    placement = Placement(
        device_batch=8,
        checkpointing=False,
        log_to=(),
        find_batch_size=True,
        memory=2**40,
    )
    if allocator.cuda:
        trained(device, False, placement)
    allocator.clear()
    held = allocator.reserved
    whole = trained(device, False, placement)
    taken = allocator.peak_reserved - held
    allocator.clear()
    allocator.limit(allocator.reserved + 8 * taken // 10)
    less = trained(device, False, placement)
    record_property("taken, MiB", taken / MIB)
    record_property("pairs at once", f"{whole.at_once}, then {less.at_once}")
    assert less.losses == pytest.approx(whole.losses, rel=1e-4)
    allocator.needed()
    assert less.at_once < whole.at_once
