"""Attention over shared prefixes equals attention over each row's own copy, also after rows have
left. Caches grow and shrink."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.engine import decode_state
from harness.engine.engine import Engine
from harness.engine.kv_cache import KVCache, SharedPrefixes, additive_mask
from methods.interface import Decoding, Prompt
from tests.engine.oracle import greedy, mixed
from tests.tiny_models import picture, tiny_llava

OWNERS = (1, 0, 1, 1, 2, 0)


@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4, 5), (0, 2, 5), (4,)])
@pytest.mark.parametrize("per", [1, 3])
@pytest.mark.parametrize("new", [1, 4])
def test_shared_prefixes_attend_like_copies(rows: tuple[int, ...], per: int, new: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shared = SharedPrefixes([torch.randn(2, 3, 2, 7, 8, generator=generator)], OWNERS).of_rows(rows)
    query = torch.randn(len(rows), new, 2 * per, 8, generator=generator)
    kept = torch.randn(2, len(rows), 2, 9, 8, generator=generator)
    hidden = torch.rand(len(rows), 1, new, 5, generator=generator) < 0.4
    mask = additive_mask(hidden, torch.float32)
    keys, values = torch.cat([shared.layers[0][:, shared.owner], kept[:, :, :, :5]], 3)
    full = F.pad(mask, (7, 0))
    copied = F.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=full, enable_gqa=True
    )
    torch.testing.assert_close(
        shared.attend(0, query, kept[:, :, :, :5], mask), copied.transpose(1, 2)
    )


@pytest.mark.equality
@pytest.mark.parametrize(
    ("read", "near", "least"), [(8192, 8, 128), (1, 8, 128), (60, 0, 1), (8192, 99, 10**6)]
)
def test_answers_do_not_depend_on_how_prompts_are_read(
    read: int, near: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("READ_TOKENS", read), ("LENGTH_TOLERANCE", near), ("PASS_TOKENS", least)):
        monkeypatch.setattr(decode_state, name, value)
    model, processor = tiny_llava()
    # The tiny images' prefixes are short; only shorter prompts make packs of several.
    short = [
        Prompt(key=f"{place}", text=text, image=picture(place % 2))
        for place, text in enumerate(("a ?", "the cup", "no", "red"))
    ]
    for prompts in (mixed(), short, mixed()[:12:4]):
        answers = Engine(model, processor).generate(prompts, Decoding(max_new_tokens=6))
        expected = [greedy(model, processor, prompt, 6) for prompt in prompts]
        assert [answer.text for answer in answers] == [
            processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
        ]


def row(length: int, prefix: torch.Tensor | None) -> decode_state.DecodeRow:
    return decode_state.DecodeRow(key="", suffix=(1,) * length, prefix=prefix)


def test_packs_have_one_prefix_and_similar_lengths_and_are_not_longer_than_the_prefix() -> None:
    first, second = torch.zeros(1, 2, 1, 40, 1), torch.zeros(1, 2, 1, 40, 1)
    rows = [
        row(12, first),
        row(30, first),
        row(11, second),
        row(12, first),
        row(10, first),
        row(9, first),
    ]
    found = decode_state.pack_rows(rows)
    assert found == [
        [0, 3],
        [4, 5],
        [1],
        [2],
    ]  # four rows make two packs of two, not three and one
    assert sorted(place for pack in decode_state.pack_rows(rows) for place in pack) == list(
        range(6)
    )
    # A fourth pack would add more padding than another pass costs.
    assert decode_state.plan_passes(rows, packed=True) == [[[0, 3], [4, 5], [1]], [[2]]]
    assert decode_state.plan_passes(
        [row(300, None), row(10, None), row(9, None)], packed=False
    ) == [
        [[0]],
        [[1], [2]],
    ]  # together they would need too much padding


def test_prefixes_without_a_row_are_dropped_when_they_are_half() -> None:
    layer = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(2, 4, 2, 7, 8)
    shared = SharedPrefixes([layer], (1, 0, 3, 1, 2, 0))
    three = shared.of_rows((4, 0, 1))
    assert three.layers[0].shape[1] == 4
    two = three.of_rows((0, 1))
    assert two.layers[0].shape[1] == 2
    for some, expected in ((three, [2.0, 1.0, 0.0]), (two, [2.0, 1.0])):
        assert some.layers[0][0, some.owner, 0, 0, 0].tolist() == expected
        assert some.max_rows == 1


@pytest.mark.parametrize("offset", [0, 3])
def test_resize_keeps_the_filled_positions(offset: int) -> None:
    layer = torch.randn(2, 4, 2, offset + 6, 8, generator=torch.Generator().manual_seed(1))
    cache = KVCache([layer.clone()], offset=offset)
    cache.resize([3, 1], 5, 20)
    assert cache.capacity == 20
    assert torch.equal(cache.layers[0][:, :, :, : offset + 5], layer[:, [3, 1], :, : offset + 5])
    cache.resize(None, 2, 4)
    assert cache.capacity == 4
    assert torch.equal(cache.layers[0][:, :, :, : offset + 2], layer[:, [3, 1], :, : offset + 2])


def test_masks_lie_where_cuda_can_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's attention reads masks by 16 bytes: each must begin at such an address."""
    model, processor = tiny_llava()
    packs = [
        Prompt(key=f"{place}", text=text, image=picture(place % 2))
        for place, text in enumerate(("a ?", "the cup", "no", "red"))
    ]
    attend, seen = F.scaled_dot_product_attention, []

    def watching(*tensors: torch.Tensor, **more: object) -> torch.Tensor:
        if isinstance(mask := more.get("attn_mask"), torch.Tensor):
            seen.append(mask)
            assert mask.data_ptr() % 16 == 0
            assert mask.stride(-1) == 1
        return attend(*tensors, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watching)
    for prompts in (packs, packs[:1], mixed()):
        Engine(model, processor).generate(prompts, Decoding(max_new_tokens=3))
    assert seen
