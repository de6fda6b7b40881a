"""The image cache: an image is decoded once, the bound in bytes holds, results stay the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from harness.data.image_cache import ImageCache
from harness.data.open_pool import open_pool
from harness.data.pool import Pool, UnreadableImage, pixels_sha
from methods.interface import Item
from tests.toys import save_pictures

SIZE = 10 * 10 * 3


def item(id: str) -> Item:
    return Item(id=id, image=Image.new("RGB", (10, 10)))


def counting(pool: Pool) -> tuple[Pool, Counter[str]]:
    reads: Counter[str] = Counter()

    def read(id: str) -> Item:
        reads[id] += 1
        return pool.read(id)

    return replace(pool, read=read), reads


def test_a_round_decodes_each_image_once_and_gets_the_same_items(tmp_path: Path) -> None:
    plain = open_pool(str(save_pictures(tmp_path, 4)))
    pool, reads = counting(plain)
    cached = pool.with_cache(2**20)
    drawn = cached.draw(4, 0, 1)
    items = cached.items(drawn.ids, frozenset({"image"}), drawn.ids)
    others = [each.another() for each in items if each.another]
    assert set(reads.values()) == {1}
    assert len(reads) == len(others) == 4
    assert drawn == plain.draw(4, 0, 1)
    assert [pixels_sha(each.image) for each in items] == [
        pixels_sha(each.image) for each in plain.items(drawn.ids, frozenset({"image"}))
    ]
    assert pool.draw(4, 0, 1) == drawn
    assert set(reads.values()) == {2}  # without a cache it is decoded again


def test_the_bound_holds_and_the_least_recently_used_leaves() -> None:
    reads: list[str] = []

    def read(id: str) -> Item:
        reads.append(id)
        return item(id)

    cache = ImageCache(2 * SIZE)
    for id in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(id, read).id == id
        assert cache.held_bytes <= cache.max_bytes
    assert reads == ["a", "b", "c", "b"]


def test_an_image_above_the_bound_is_not_kept_and_an_error_neither() -> None:
    cache = ImageCache(SIZE - 1)
    assert cache.get("a", item) is not cache.get("a", item)
    assert cache.held_bytes == 0

    def broken(_id: str) -> Item:
        raise UnreadableImage("broken")

    for _ in range(2):
        with pytest.raises(UnreadableImage, match="broken"):
            cache.get("b", broken)
    with pytest.raises(ValueError, match="at least 1"):
        ImageCache(0)
