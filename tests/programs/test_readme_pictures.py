"""The pictures of README.md are made from a study's files."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from harness.data.open_pool import open_pool
from harness.reporting.figures.style import rendered, style
from methods.interface import PreferencePair
from tests.benches.readme_pictures import clearest, draw_pair, small


def test_the_drawn_pair_is_small_and_its_rejected_side_has_the_errors() -> None:
    pool = open_pool("synthetic:dev")
    (item,) = pool.items(pool.ids[:1], frozenset({"reference"}))
    assert item.reference is not None
    true = item.reference
    pair = PreferencePair(
        key="0", item=item.id, prompt="describe .", chosen=true, rejected="a.", kind="description"
    )
    swapped = replace(pair, key="1", chosen="a.", rejected=true)
    short = replace(pair, key="2", kind="question")
    assert clearest([short, swapped, pair], pool) == pair
    assert clearest([short, swapped, pair], replace(pool, ground_truth=None)) == swapped
    with style():
        png = small(rendered(draw_pair(pair, item.image, "SENA"), "png"))
    assert Image.open(io.BytesIO(png)).size[0] > 800
    assert len(png) < 60_000
