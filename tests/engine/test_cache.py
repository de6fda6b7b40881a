"""Attention over shared heads equals attention over each row's own copy, also when rows leave; caches grow and shrink."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.engine import backbone
from harness.engine.cache import KeyValues, SharedHeads, additive
from harness.engine.vlm import Engine
from methods.interface import Decoding
from tests.engine.oracle import greedy, mixed
from tests.tiny import tiny_llava

OWNERS = (1, 0, 1, 1, 2, 0)


@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4, 5), (0, 2, 5), (4,)])
@pytest.mark.parametrize("per", [1, 3])
@pytest.mark.parametrize("new", [1, 4])
def test_shared_heads_attend_like_copies(rows: tuple[int, ...], per: int, new: int) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = SharedHeads([torch.randn(2, 3, 2, 7, 8, generator=generator)], OWNERS).of_rows(rows)
    query = torch.randn(len(rows), new, 2 * per, 8, generator=generator)
    kept = torch.randn(2, len(rows), 2, 9, 8, generator=generator)
    hidden = torch.rand(len(rows), 1, new, 5, generator=generator) < 0.4
    cache = KeyValues([kept], heads=heads)
    mask = additive(hidden, torch.float32)
    keys, values = cache.whole(0, 5)
    full = cache.full_mask(mask, len(rows), new, 5 - new, query)
    copied = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=full, enable_gqa=True)
    torch.testing.assert_close(heads.attend(0, query, kept[:, :, :, :5], mask), copied.transpose(1, 2))


@pytest.mark.parametrize("dense", [0, 2**24])
def test_long_and_short_prompts_take_either_attention(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "DENSE", dense)
    model, processor = tiny_llava()
    prompts = mixed()
    answers = Engine(model, processor).generate(prompts, Decoding(max_new_tokens=6))
    expected = [greedy(model, processor, prompt, 6) for prompt in prompts]
    assert [answer.text for answer in answers] == [
        processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]


def test_heads_without_a_row_are_dropped() -> None:
    layer = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(2, 3, 2, 7, 8)
    heads = SharedHeads([layer], OWNERS).of_rows((4, 0))
    assert heads.layers[0].shape[1] == 2
    assert heads.layers[0][0, heads.owner, 0, 0, 0].tolist() == [2.0, 1.0]
    assert heads.most == 1


@pytest.mark.parametrize("offset", [0, 3])
def test_resize_keeps_what_is_filled(offset: int) -> None:
    layer = torch.randn(2, 4, 2, offset + 6, 8, generator=torch.Generator().manual_seed(1))
    cache = KeyValues([layer.clone()], offset=offset)
    cache.resize([3, 1], 5, 20)
    assert cache.room == 20
    assert torch.equal(cache.layers[0][:, :, :, : offset + 5], layer[:, [3, 1], :, : offset + 5])
    cache.resize(None, 2, 4)
    assert cache.room == 4
    assert torch.equal(cache.layers[0][:, :, :, : offset + 2], layer[:, [3, 1], :, : offset + 2])
