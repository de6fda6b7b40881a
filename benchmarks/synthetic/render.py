"""Draws a scene with Pillow: 60 x 60 pixels, drawn three times as large and reduced, with clutter
and sensor noise.

The images are hard to read: things are small, pale and jittered, and some categories look alike. So
a trained model stays uncertain and relies on its prior. ``Difficulty`` sets how hard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.synthetic.scene import Scene, Thing

SIDE = 60
SCALE = 3
CELL = SIDE * SCALE // 3

RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "green": (52, 160, 64),
    "blue": (50, 92, 214),
    "yellow": (240, 214, 60),
    "purple": (146, 70, 186),
    "orange": (242, 140, 40),
    "brown": (132, 86, 48),
}
BACKGROUND: dict[str, tuple[int, int, int]] = {
    "town": (188, 186, 180),
    "sea": (150, 190, 206),
    "kitchen": (222, 210, 190),
    "night": (70, 74, 104),
    "playroom": (226, 196, 200),
    "garden": (176, 200, 150),
}


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How hard the images are to read."""

    smallest: float = 0.42
    """The smallest size of a thing, as a share of a cell."""
    largest: float = 0.72
    """The largest size of a thing, as a share of a cell."""
    contrast: float = 0.62
    """Contrast between thing and background, in (0, 1]."""
    noise: float = 0.07
    """Standard deviation of the sensor noise, as a share of the full range."""
    clutter: int = 5
    """Number of faint blobs in the background."""


NORMAL = Difficulty()


def render(scene: Scene, difficulty: Difficulty = NORMAL) -> Image.Image:
    """The scene's image, RGB, 60 x 60; the same for the same scene and difficulty."""
    rng = Random(f"picture {scene.id}")
    ground = BACKGROUND[scene.theme]
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), ground)
    draw = ImageDraw.Draw(canvas)
    for _ in range(difficulty.clutter):
        _blob(draw, rng, ground)
    for thing in scene.things:
        _place(draw, thing, rng, ground, difficulty)
    small = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(
        small.shape, dtype=np.float32
    )
    return Image.fromarray(np.clip(small + 255 * difficulty.noise * noise, 0, 255).astype(np.uint8))


def _mix(
    colour: tuple[int, int, int], ground: tuple[int, int, int], share: float
) -> tuple[int, int, int]:
    red, green, blue = (
        round(share * c + (1 - share) * g) for c, g in zip(colour, ground, strict=True)
    )
    return red, green, blue


def _blob(draw: ImageDraw.ImageDraw, rng: Random, ground: tuple[int, int, int]) -> None:
    x, y, r = rng.uniform(0, SIDE * SCALE), rng.uniform(0, SIDE * SCALE), rng.uniform(4, 14)
    colour = _mix(RGB[rng.choice(tuple(RGB))], ground, rng.uniform(0.12, 0.3))
    draw.ellipse((x - r, y - r * rng.uniform(0.4, 1), x + r, y + r), fill=colour)


def _place(
    draw: ImageDraw.ImageDraw,
    thing: Thing,
    rng: Random,
    ground: tuple[int, int, int],
    difficulty: Difficulty,
) -> None:
    half = CELL * rng.uniform(difficulty.smallest, difficulty.largest) / 2
    slack = CELL / 2 - half
    x = (thing.column + 0.5) * CELL + rng.uniform(-slack, slack) * 0.8
    y = (thing.row + 0.5) * CELL + rng.uniform(-slack, slack) * 0.8
    share = min(1.0, difficulty.contrast * rng.uniform(0.8, 1.2))
    fill = _mix(RGB[thing.colour], ground, share)
    dark = _mix((30, 30, 30), ground, share * 0.7)
    _SHAPES[thing.category](Pen(draw, x, y, half, fill, dark))


class Pen:
    """Draws in a thing's own frame: (-1, -1) is its top left corner, (1, 1) its bottom right."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        x: float,
        y: float,
        half: float,
        fill: tuple[int, int, int],
        dark: tuple[int, int, int],
    ):
        self._draw, self._x, self._y, self._half = draw, x, y, half
        self.fill, self.dark = fill, dark

    def _at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self._x + px * self._half, self._y + py * self._half) for px, py in points]

    def polygon(self, *points: tuple[float, float], dark: bool = False) -> None:
        self._draw.polygon(self._at(*points), fill=self.dark if dark else self.fill)

    def box(self, left: float, top: float, right: float, bottom: float, dark: bool = False) -> None:
        self.polygon((left, top), (right, top), (right, bottom), (left, bottom), dark=dark)

    def disc(
        self, x: float, y: float, rx: float, ry: float | None = None, dark: bool = False
    ) -> None:
        ry = rx if ry is None else ry
        corners = self._at((x - rx, y - ry), (x + rx, y + ry))
        self._draw.ellipse([corners[0], corners[1]], fill=self.dark if dark else self.fill)

    def star(self, points: int, inner: float) -> None:
        radii = [1.0 if k % 2 == 0 else inner for k in range(2 * points)]
        turn = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
        self.polygon(
            *((r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turn, strict=True))
        )


def _house(p: Pen) -> None:
    p.box(-0.75, -0.1, 0.75, 1)
    p.polygon((-1, -0.1), (0, -1), (1, -0.1))
    p.box(-0.2, 0.4, 0.2, 1, dark=True)


def _tree(p: Pen) -> None:
    p.box(-0.18, 0.3, 0.18, 1, dark=True)
    p.polygon((-0.85, 0.4), (0, -1), (0.85, 0.4))


def _car(p: Pen) -> None:
    p.box(-1, -0.1, 1, 0.55)
    p.box(-0.55, -0.6, 0.55, 0)
    p.disc(-0.55, 0.6, 0.28, dark=True)
    p.disc(0.55, 0.6, 0.28, dark=True)


def _flag(p: Pen) -> None:
    p.box(-0.8, -1, -0.6, 1, dark=True)
    p.polygon((-0.6, -0.95), (0.95, -0.45), (-0.6, 0.1))


def _boat(p: Pen) -> None:
    p.polygon((-1, 0.3), (1, 0.3), (0.6, 0.95), (-0.6, 0.95))
    p.polygon((-0.05, -1), (0.7, 0.15), (-0.05, 0.15))
    p.box(-0.15, -1, 0, 0.3, dark=True)


def _fish(p: Pen) -> None:
    p.disc(-0.2, 0, 0.75, 0.5)
    p.polygon((0.4, 0), (1, -0.55), (1, 0.55))
    p.disc(-0.6, -0.1, 0.12, dark=True)


def _cup(p: Pen) -> None:
    p.polygon((-0.75, -0.8), (0.55, -0.8), (0.4, 0.9), (-0.6, 0.9))
    p.disc(0.7, -0.05, 0.32, 0.42)
    p.disc(0.66, -0.05, 0.14, 0.22, dark=True)


def _plate(p: Pen) -> None:
    p.disc(0, 0.1, 1, 0.55)
    p.disc(0, 0.1, 0.5, 0.24, dark=True)


def _moon(p: Pen) -> None:
    edge = [
        (math.cos(t), math.sin(t)) for t in (math.pi * (0.35 + 1.3 * k / 14) for k in range(15))
    ]
    bay = [
        (0.45 + 0.75 * math.cos(t), 0.8 * math.sin(t))
        for t in (math.pi * (1.62 - 1.24 * k / 12) for k in range(13))
    ]
    p.polygon(*edge, *bay)


def _star(p: Pen) -> None:
    p.star(5, 0.42)


def _ball(p: Pen) -> None:
    p.disc(0, 0, 0.9)
    p.disc(-0.25, -0.3, 0.22, dark=True)


def _box(p: Pen) -> None:
    p.box(-0.85, -0.85, 0.85, 0.85)
    p.box(-0.85, -0.3, 0.85, -0.12, dark=True)


def _flower(p: Pen) -> None:
    for k in range(5):
        turn = 2 * math.pi * k / 5
        p.disc(0.55 * math.cos(turn), 0.55 * math.sin(turn) - 0.1, 0.42)
    p.disc(0, -0.1, 0.28, dark=True)


def _sun(p: Pen) -> None:
    p.star(9, 0.68)


def _key(p: Pen) -> None:
    p.disc(-0.55, 0, 0.45)
    p.disc(-0.55, 0, 0.18, dark=True)
    p.box(-0.2, -0.14, 1, 0.14)
    p.box(0.55, 0.1, 0.75, 0.5)
    p.box(0.85, 0.1, 1, 0.45)


def _heart(p: Pen) -> None:
    p.disc(-0.42, -0.3, 0.5)
    p.disc(0.42, -0.3, 0.5)
    p.polygon((-0.88, -0.1), (0.88, -0.1), (0, 1))


_SHAPES = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "flag": _flag,
    "boat": _boat,
    "fish": _fish,
    "cup": _cup,
    "plate": _plate,
    "moon": _moon,
    "star": _star,
    "ball": _ball,
    "box": _box,
    "flower": _flower,
    "sun": _sun,
    "key": _key,
    "heart": _heart,
}


def contact_sheet(
    images: list[Image.Image], texts: list[str], columns: int = 2, zoom: int = 4
) -> Image.Image:
    """Enlarged images beside their texts."""
    width, height = 860, SIDE * zoom + 16
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = place % columns * width, place // columns * height
        enlarged = image.resize((SIDE * zoom, SIDE * zoom), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x + 8, y + 8))
        draw.multiline_text((x + SIDE * zoom + 20, y + 8), text, fill="black", font=font, spacing=3)
    return sheet
