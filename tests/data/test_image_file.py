"""The image reader of the pools: orientation, depth, transparency, frames, narrow and huge images;
and that plain images keep their pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.image_file import UnreadableImage, read_image, treatments
from harness.data.open_pool import open_pool
from harness.data.pool import pixels_sha
from tests.tiny_models import picture


def grey(values: list[list[float]], dtype: str) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


def first_pixels(image: Image.Image) -> list[int]:
    return np.asarray(image)[0, :, 0].tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_plain_images_keep_their_pixels(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    (picture(1).convert(mode) if (suffix, mode) != ("jpg", "P") else picture(1)).save(path)
    with Image.open(path) as image:
        expected = pixels_sha(image.convert("RGB"))
    image = read_image(path)
    assert (image.mode, pixels_sha(image), treatments(image)) == ("RGB", expected, ())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_turns_the_image(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGB", (160, 120), "blue")
    image.paste("red", (0, 0, 160, 40))  # the top of the file is the right of the image
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path := tmp_path / f"a.{suffix}", exif=exif)
    turned = read_image(path)
    assert (turned.size, treatments(turned)) == ((120, 160), ("turned",))
    red, _, blue = np.asarray(turned)[80, 110].tolist()
    assert red > 200 > 50 > blue


def test_a_broken_exif_block_leaves_the_image(tmp_path: Path) -> None:
    picture(1).save(path := tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert pixels_sha(read_image(path)) == pixels_sha(picture(1))


@pytest.mark.parametrize(
    ("name", "values", "dtype", "expected"),
    [
        ("a.png", [[0, 257, 32896, 65535]], "uint16", [0, 1, 128, 255]),
        ("a.tif", [[0, 257, 32896, 65535]], "uint16", [0, 1, 128, 255]),
        ("a.tif", [[0, 257, 32896, 65535]], "int32", [0, 1, 128, 255]),
        ("a.tif", [[0, 7, 200, 255]], "int32", [0, 7, 200, 255]),
        ("a.tif", [[100_000, 150_000, 200_000]], "int32", [0, 128, 255]),
        ("a.tif", [[0, 0.5, 1]], "float32", [0, 128, 255]),
        ("a.tif", [[-1, 0, 1]], "float32", [0, 128, 255]),
        ("a.tif", [[0, 100, 255]], "float32", [0, 100, 255]),
    ],
)
def test_deep_grey_values_are_scaled(
    tmp_path: Path, name: str, values: list[list[float]], dtype: str, expected: list[int]
) -> None:
    grey(values, dtype).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (first_pixels(image), treatments(image)) == (expected, ("scaled",))


def test_values_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    grey([[0, float("nan")]], "float32").save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="not all numbers"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    if mode == "P":
        Image.new("P", (4, 4)).save(path, transparency=0)
    else:
        Image.new(mode, (4, 4)).save(path)  # black, all transparent
    image = read_image(path)
    assert (first_pixels(image), treatments(image)) == ([255] * 4, ("composited",))


def test_the_transparent_value_of_16_bits_becomes_white(tmp_path: Path) -> None:
    grey([[0, 65535, 257]], "uint16").save(tmp_path / "a.png", transparency=257)
    image = read_image(tmp_path / "a.png")
    assert treatments(image) == ("scaled", "composited")
    assert first_pixels(image) == [0, 255, 255]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    picture(2).convert("RGBA").save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (pixels_sha(image), treatments(image)) == (pixels_sha(picture(2)), ())


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / f"a.{suffix}")
    assert (first_pixels(image), treatments(image)) == ([255] * 8, ("first frame",))


@pytest.mark.parametrize("size", [(300, 1), (1, 2000), (402, 2)])
def test_narrow_images_are_passed_over_at_the_draw(tmp_path: Path, size: tuple[int, int]) -> None:
    picture(1).save(tmp_path / "good.png")
    Image.new("RGB", (200, 1)).save(tmp_path / "longest.png")
    Image.new("RGB", size).save(tmp_path / "narrow.png")
    drawn = open_pool(str(tmp_path)).draw(3, 0, 1)
    assert sorted(drawn.ids) == ["good.png", "longest.png"]
    ((id, why),) = drawn.skipped
    assert id == "narrow.png"
    assert why.startswith(f"{size[0]} x {size[1]} pixels: one side is more than 200 times")


def test_the_draw_says_what_was_done_to_each_image(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "plain.png")
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    drawn = open_pool(str(tmp_path)).draw(2, 0, 1)
    assert {image.id: image.treatments for image in drawn.images} == {
        "plain.png": (),
        "clear.png": ("composited",),
    }
    manifest = tmp_path / "pool.jsonl"
    manifest.write_text(json.dumps({"image": "clear.png"}))
    assert open_pool(str(manifest)).draw(1, 0, 1).images[0].treatments == ("composited",)
