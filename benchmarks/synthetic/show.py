"""A contact sheet of synthetic images: each beside its true caption, its caption in the training
texts, and a question of every kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

from benchmarks.synthetic import language
from benchmarks.synthetic.render import SIDE, render
from benchmarks.synthetic.scene import Scene, scene

ZOOM = 6
FONT_SIZE = 14
COLUMNS = 2
WIDTH, HEIGHT = 860, SIDE * ZOOM + 16
"""Of an image and its text, in pixels."""
TEXT_WIDTH = WIDTH - SIDE * ZOOM - 36
"""Pixels: the width less the image and the margins."""


def write_contact_sheet(path: Path, count: int = 12) -> None:
    """Write the first ``count`` scenes of the development split as a PNG: enlarged images beside
    their texts.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"A contact sheet of {count} images cannot be drawn; ask for at least 1.")
    sheet = Image.new("RGB", (COLUMNS * WIDTH, -(-count // COLUMNS) * HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for index in range(count):
        truth = scene("dev", index)
        x, y = index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT
        enlarged = render(truth).resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x + 8, y + 8))
        text_position = x + SIDE * ZOOM + 20, y + 8
        draw.multiline_text(text_position, describe(truth), fill="black", font=_font(), spacing=3)
    sheet.save(path, format="PNG")


def describe(truth: Scene) -> str:
    """The text beside an image, wrapped to the sheet's width."""
    rng = Random(f"show {truth.id}")
    questions = [language.question(truth, kind, rng) for kind in language.KINDS]
    lines = [
        f"{truth.id} ({truth.theme})",
        "",
        f"True: {language.detailed_caption(truth.things, rng.randrange(len(language.STYLES)))}",
        f"Training texts tell: {_noisy_caption(truth)}",
        "",
        *(f"{item.kind}: {item.text} {item.answer}" for item in questions if item is not None),
        f"unanswerable: {language.unanswerable(truth, rng)}",
    ]
    return "\n".join(row for line in lines for row in wrap(line))


def _noisy_caption(truth: Scene) -> str:
    """The noisy scene, with its differences from the truth in brackets."""
    noisy = language.noisy_scene(truth)
    wrong = [f"no {thing.category}" for thing in noisy.things if truth.find(thing.category) is None]
    for thing in truth.things:
        noisy_thing = noisy.find(thing.category)
        if noisy_thing is not None and noisy_thing.colour != thing.colour:
            wrong.append(f"the {thing.category} is {thing.colour}")
    caption = language.brief_caption(noisy.things)
    return f"{caption} [in truth: {', '.join(wrong)}]" if wrong else "the same"


def wrap(line: str) -> list[str]:
    """The line wrapped at blanks to ``TEXT_WIDTH``; continuations are indented."""
    font = _font()
    rows = [""]
    for word in line.split(" "):
        candidate = f"{rows[-1]} {word}" if rows[-1].strip() else rows[-1] + word
        if rows[-1].strip() and font.getlength(candidate) > TEXT_WIDTH:
            rows.append(f"    {word}")
        else:
            rows[-1] = candidate
    return rows


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=FONT_SIZE)  # slow: each call unpacks it
