"""Images padded as by LLaVA-1.5's authors: the same squares for images of every shape, in engine
and trainer, saved with the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.base_cards import BASES, BaseCard, find_base
from harness.models.chat_format import VICUNA_V1, renderer
from harness.models.find_family import family_of
from harness.models.llava import shape_image
from harness.pipeline.stage_identity import untrained
from harness.training.pair_batches import image_features
from methods.interface import PreferencePair
from tests.models.test_chat_format import PUBLISHED
from tests.tiny_models import tiny_llava

SHAPES = [(60, 60), (90, 60), (60, 90), (91, 60), (60, 91), (7, 3), (3, 8), (1, 5), (640, 480)]
MEAN = (122, 116, 104)


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def expand2square(image: Image.Image) -> np.ndarray:
    """The original's arithmetic, on arrays: half of the difference, rounded down, comes first."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = max(height, width)
    above, left = (side - height) // 2, (side - width) // 2
    return np.stack(
        [
            np.pad(
                pixels[:, :, colour],
                ((above, side - height - above), (left, side - width - left)),
                constant_values=value,
            )
            for colour, value in enumerate(MEAN)
        ],
        axis=-1,
    )


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_padding_is_the_originals(size: tuple[int, int], mode: str) -> None:
    _, processor = tiny_llava()
    image = photograph(size, mode)
    assert shape_image(image, processor.image_processor).size == size
    processor.image_processor.image_aspect_ratio = "pad"
    padded = shape_image(image, processor.image_processor)
    np.testing.assert_array_equal(np.asarray(padded), expand2square(image))


def padded_card(folder: Path) -> BaseCard:
    """A base with the hub's template, on a card with the papers' input."""
    model, processor = tiny_llava()
    processor.chat_template = PUBLISHED
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return replace(BASES["synthetic"], source=folder, image_shape="pad", system=VICUNA_V1)


@pytest.mark.equality
def test_engine_and_trainer_see_padded_images_and_a_saved_model_keeps_its_input(
    tmp_path: Path,
) -> None:
    model, processor = load_model(padded_card(tmp_path / "base"))
    image = photograph((90, 61))
    [pixels] = family_of(model, processor).pixels([image])
    square = Image.fromarray(expand2square(image))
    plain = tiny_llava()[1].image_processor
    [expected] = plain(images=[square], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, expected)
    [cut] = plain(images=[image], return_tensors="pt")["pixel_values"]
    assert not torch.equal(pixels, cut)
    pair = PreferencePair(key="k", item="i", prompt="what?", chosen="a", rejected="b")
    features = image_features(model, processor, [pair], lambda _: image)["i"]
    assert torch.equal(features, family_of(model, processor).encode([expected])[0])
    # A model that was trained from it is a folder, which says how to prompt it.
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    _, again = load_model(find_base(str(tmp_path / "trained")))
    assert torch.equal(family_of(model, again).pixels([image])[0], expected)
    assert renderer(again).render_prompt("Why?", True) == (
        f"<s>{VICUNA_V1}USER: <image>\nWhy? ASSISTANT:"
    )


def test_shape_and_system_text_are_part_of_the_bases_identity(tmp_path: Path) -> None:
    card = padded_card(tmp_path)
    ids = {
        untrained(replace(card, **changes)).id
        for changes in ({}, {"image_shape": "crop"}, {"system": None}, {"system": "Be brief. "})
    }
    assert len(ids) == 4
    assert (
        untrained(replace(card, image_shape="crop", system=None)).id
        == untrained(replace(BASES["synthetic"], source=tmp_path)).id
    )


def test_the_papers_cards_pad_and_the_hubs_cut() -> None:
    for size in ("7b", "13b"):
        ours, hub = BASES[f"llava-1.5-{size}"], BASES[f"llava-1.5-{size}-hf"]
        assert (ours.image_shape, ours.system) == ("pad", VICUNA_V1)
        assert (hub.image_shape, hub.system) == ("crop", None)
        assert (ours.source, ours.revision) == (hub.source, hub.revision)


def test_an_unknown_shape_is_an_error() -> None:
    _, processor = tiny_llava()
    processor.image_processor.image_aspect_ratio = "anyres"
    with pytest.raises(UserError, match=r"'anyres'; LLaVA-1\.5's are pad and crop"):
        shape_image(photograph((9, 3)), processor.image_processor)
