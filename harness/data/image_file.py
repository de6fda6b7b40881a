"""The reader of all pools' images: any file that PIL opens becomes an upright 8-bit RGB image.

Plain 8-bit RGB and grey images keep their pixels. What else is done to an image is noted in its
``info`` (:func:`treatments`), and counted by the pairs stage:

- turned: its EXIF orientation is applied, as image viewers do.
- scaled: 16-bit, 32-bit and float grey values become 8-bit ones.
- composited: transparent parts become white.
- first frame: of an animation, or of a file of several pages, the first image alone is taken.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmarks.files import is_file

# PIL only warns of an image above its limit on pixels; here such an image is refused as unreadable.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

TREATMENTS = ("turned", "scaled", "composited", "first frame")
LONGEST_SHAPE = 200
"""The largest ratio of an image's sides. Qwen2.5-VL's processor takes no more; LLaVA's enlarges the
shorter side to 336 pixels, which needs gigabytes for a very narrow image."""

_NOTE = "selfsight_treatments"
_ORIENTATION = 0x0112
_TURNED = range(2, 9)
_DEEP = ("I", "F")
"""PIL's modes of grey values above 8 bits begin so: I, I;16, I;16B, F."""
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats whose further images are frames or pages. A second image in a JPEG is a preview."""


class UnreadableImage(Exception):  # noqa: N818  (such an image is skipped and counted)
    """An image of the pool cannot be used; the message is the reason."""


def treatments(image: Image.Image) -> tuple[str, ...]:
    """Those of the TREATMENTS that :func:`read_image` applied to the image."""
    applied: tuple[str, ...] = image.info.get(_NOTE, ())
    return applied


def read_image(file: Path | BinaryIO) -> Image.Image:
    """A fully decoded RGB image from a path or an open file.

    Raises:
        UnreadableImage: the file is missing, broken or no image, the image is above PIL's limit on
            pixels, too narrow, or its values are no numbers.
    """
    try:
        if isinstance(file, Path) and file.exists() and not is_file(file):
            raise UnreadableImage("no plain file")  # opening a pipe would wait for ever
        with Image.open(file) as image:
            _check_shape(image)
            return _upright_rgb(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image that PIL can open") from None
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, DecompressionBomb...
    except Exception as error:
        raise UnreadableImage(f"{type(error).__name__}: {error}") from None


def _check_shape(image: Image.Image) -> None:
    if max(image.size) > LONGEST_SHAPE * min(image.size):
        raise UnreadableImage(
            f"{image.width} x {image.height} pixels: one side is more than {LONGEST_SHAPE} times"
            " the other"
        )


def _upright_rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)  # before loading: PIL turns a TIFF then
    image.load()
    applied = {"turned"} if orientation in _TURNED else set()
    deep = image.mode.startswith(_DEEP)
    rgb = _scaled(image) if deep else image
    if deep:
        applied.add("scaled")
    if rgb.has_transparency_data:
        rgba = rgb.convert("RGBA")
        lowest = rgba.getchannel("A").getextrema()[0]
        if isinstance(lowest, int | float) and lowest < 255:
            applied.add("composited")
            white = Image.new("RGBA", rgba.size, "white")
            rgba = Image.alpha_composite(white, rgba)
        rgb = rgba
    rgb = rgb.convert("RGB")
    if "turned" in applied and _orientation(image) in _TURNED:
        rgb.getexif()[_ORIENTATION] = orientation
        rgb = ImageOps.exif_transpose(rgb)
    if _has_frames(image):
        applied.add("first frame")
    rgb.info[_NOTE] = tuple(name for name in TREATMENTS if name in applied)
    return rgb


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where there is none, or the EXIF block is broken."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken block raises anything, and the pixels are still good
        return 1


def _has_frames(image: Image.Image) -> bool:
    try:
        return image.format in _ANIMATED and bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame
        return True


def _scaled(image: Image.Image) -> Image.Image:
    """The image with 8-bit grey values.

    16-bit values are divided by 257. 32-bit and float values state no range: values from 0 to 1
    (float), to 255 or to 65,535 (32-bit) fill that range; others are scaled from their smallest to
    their largest.
    """
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableImage("its grey values are not all numbers")
    bottom, top = 0.0, 255.0
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        top = 65535.0
    elif low < 0:
        bottom, top = low, high
    elif image.mode == "F" and high <= 1:
        top = 1.0
    elif high > 255:
        top = 65535.0 if image.mode == "I" and high <= 65535 else high
        bottom = 0.0 if top == 65535.0 else low
    span = (top - bottom) or 1.0
    scaled = np.clip(np.rint((values - bottom) / span * 255), 0, 255).astype(np.uint8)
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
