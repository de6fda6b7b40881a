"""Draws a scene with Pillow: 60 x 60 pixels, drawn three times as large and reduced, with clutter
and sensor noise.

The images are hard to read: things are small, pale and jittered, and some categories look alike. So
a trained model stays uncertain and relies on its prior. ``Difficulty`` sets how hard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.synthetic.scene import Scene, Thing

SIDE = 60
SCALE = 3
CELL = SIDE * SCALE // 3

Point = tuple[float, float]
Colour = tuple[int, int, int]

RGB: dict[str, Colour] = {
    "red": (214, 48, 44),
    "green": (52, 160, 64),
    "blue": (50, 92, 214),
    "yellow": (240, 214, 60),
    "purple": (146, 70, 186),
    "orange": (242, 140, 40),
    "brown": (132, 86, 48),
}
BACKGROUND: dict[str, Colour] = {
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


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A filled polygon in a thing's own frame: (-1, -1) is its top left corner, (1, 1) its bottom
    right."""

    points: tuple[Point, ...]
    dark: bool = False
    """Drawn in a dark shade, not in the thing's colour."""
    round: bool = False
    """An ellipse; ``points`` are two corners of the box around it."""


def render(scene: Scene, difficulty: Difficulty = NORMAL) -> Image.Image:
    """The scene's image, RGB, 60 x 60; the same for the same scene and difficulty."""
    rng = Random(f"picture {scene.id}")
    background = BACKGROUND[scene.theme]
    canvas = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), background)
    draw = ImageDraw.Draw(canvas)
    for _ in range(difficulty.clutter):
        _draw_blob(draw, rng, background)
    for thing in scene.things:
        _draw_thing(draw, thing, rng, background, difficulty)
    pixels = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(
        pixels.shape, dtype=np.float32
    )
    return Image.fromarray(
        np.clip(pixels + 255 * difficulty.noise * noise, 0, 255).astype(np.uint8)
    )


def _mix(colour: Colour, background: Colour, share: float) -> Colour:
    red, green, blue = (
        round(share * c + (1 - share) * g) for c, g in zip(colour, background, strict=True)
    )
    return red, green, blue


def _draw_blob(draw: ImageDraw.ImageDraw, rng: Random, background: Colour) -> None:
    x, y, r = rng.uniform(0, SIDE * SCALE), rng.uniform(0, SIDE * SCALE), rng.uniform(4, 14)
    colour = _mix(RGB[rng.choice(tuple(RGB))], background, rng.uniform(0.12, 0.3))
    draw.ellipse((x - r, y - r * rng.uniform(0.4, 1), x + r, y + r), fill=colour)


def _draw_thing(
    draw: ImageDraw.ImageDraw, thing: Thing, rng: Random, background: Colour, difficulty: Difficulty
) -> None:
    half_size = CELL * rng.uniform(difficulty.smallest, difficulty.largest) / 2
    slack = CELL / 2 - half_size
    x = (thing.column + 0.5) * CELL + rng.uniform(-slack, slack) * 0.8
    y = (thing.row + 0.5) * CELL + rng.uniform(-slack, slack) * 0.8
    share = min(1.0, difficulty.contrast * rng.uniform(0.8, 1.2))
    fill = _mix(RGB[thing.colour], background, share)
    dark = _mix((30, 30, 30), background, share * 0.7)
    for stroke in _SHAPES[thing.category]:
        points = [(x + px * half_size, y + py * half_size) for px, py in stroke.points]
        colour = dark if stroke.dark else fill
        if stroke.round:
            draw.ellipse([points[0], points[1]], fill=colour)
        else:
            draw.polygon(points, fill=colour)


def _polygon(*points: Point, dark: bool = False) -> Stroke:
    return Stroke(points=points, dark=dark)


def _box(left: float, top: float, right: float, bottom: float, dark: bool = False) -> Stroke:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom), dark=dark)


def _disc(x: float, y: float, rx: float, ry: float | None = None, dark: bool = False) -> Stroke:
    ry = rx if ry is None else ry
    return Stroke(points=((x - rx, y - ry), (x + rx, y + ry)), dark=dark, round=True)


def _star(points: int, inner: float) -> Stroke:
    radii = [1.0 if k % 2 == 0 else inner for k in range(2 * points)]
    angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
    corners = zip(radii, angles, strict=True)
    return _polygon(*((radius * math.cos(t), radius * math.sin(t)) for radius, t in corners))


def _crescent() -> Stroke:
    outer_angles = [math.pi * (0.35 + 1.3 * k / 14) for k in range(15)]
    inner_angles = [math.pi * (1.62 - 1.24 * k / 12) for k in range(13)]
    return _polygon(
        *((math.cos(t), math.sin(t)) for t in outer_angles),
        *((0.45 + 0.75 * math.cos(t), 0.8 * math.sin(t)) for t in inner_angles),
    )


def _petal(angle: float) -> Stroke:
    return _disc(0.55 * math.cos(angle), 0.55 * math.sin(angle) - 0.1, 0.42)


_SHAPES: dict[str, tuple[Stroke, ...]] = {
    "house": (
        _box(-0.75, -0.1, 0.75, 1),
        _polygon((-1, -0.1), (0, -1), (1, -0.1)),
        _box(-0.2, 0.4, 0.2, 1, dark=True),
    ),
    "tree": (_box(-0.18, 0.3, 0.18, 1, dark=True), _polygon((-0.85, 0.4), (0, -1), (0.85, 0.4))),
    "car": (
        _box(-1, -0.1, 1, 0.55),
        _box(-0.55, -0.6, 0.55, 0),
        _disc(-0.55, 0.6, 0.28, dark=True),
        _disc(0.55, 0.6, 0.28, dark=True),
    ),
    "flag": (
        _box(-0.8, -1, -0.6, 1, dark=True),
        _polygon((-0.6, -0.95), (0.95, -0.45), (-0.6, 0.1)),
    ),
    "boat": (
        _polygon((-1, 0.3), (1, 0.3), (0.6, 0.95), (-0.6, 0.95)),
        _polygon((-0.05, -1), (0.7, 0.15), (-0.05, 0.15)),
        _box(-0.15, -1, 0, 0.3, dark=True),
    ),
    "fish": (
        _disc(-0.2, 0, 0.75, 0.5),
        _polygon((0.4, 0), (1, -0.55), (1, 0.55)),
        _disc(-0.6, -0.1, 0.12, dark=True),
    ),
    "cup": (
        _polygon((-0.75, -0.8), (0.55, -0.8), (0.4, 0.9), (-0.6, 0.9)),
        _disc(0.7, -0.05, 0.32, 0.42),
        _disc(0.66, -0.05, 0.14, 0.22, dark=True),
    ),
    "plate": (_disc(0, 0.1, 1, 0.55), _disc(0, 0.1, 0.5, 0.24, dark=True)),
    "moon": (_crescent(),),
    "star": (_star(5, 0.42),),
    "ball": (_disc(0, 0, 0.9), _disc(-0.25, -0.3, 0.22, dark=True)),
    "box": (_box(-0.85, -0.85, 0.85, 0.85), _box(-0.85, -0.3, 0.85, -0.12, dark=True)),
    "flower": (*(_petal(2 * math.pi * k / 5) for k in range(5)), _disc(0, -0.1, 0.28, dark=True)),
    "sun": (_star(9, 0.68),),
    "key": (
        _disc(-0.55, 0, 0.45),
        _disc(-0.55, 0, 0.18, dark=True),
        _box(-0.2, -0.14, 1, 0.14),
        _box(0.55, 0.1, 0.75, 0.5),
        _box(0.85, 0.1, 1, 0.45),
    ),
    "heart": (
        _disc(-0.42, -0.3, 0.5),
        _disc(0.42, -0.3, 0.5),
        _polygon((-0.88, -0.1), (0.88, -0.1), (0, 1)),
    ),
}
"""The strokes of each category, in the order of drawing."""
