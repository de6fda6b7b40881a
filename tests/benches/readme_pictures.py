"""Draws the two pictures of README.md from a study's folder:

    python -m tests.benches.readme_pictures results/compare --row sena --out docs

``pair.png``: an image of the pool and one of the row's preference pairs about it. ``page.png``: the
head of ``page.html`` in Chromium (playwright), 1280 pixels wide. Both are small enough for git."""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from harness.artifacts.results_folder import Results, read_json, read_jsonl, write_bytes
from harness.data.open_pool import open_pool
from harness.data.pool import Pool
from harness.reporting.display_names import row_name
from harness.reporting.figures.style import GOOD, GREY, WRONG, rendered, style
from harness.reporting.pair_stats import SHORT_ANSWERS
from methods.interface import PreferencePair

CHROMIUM = "/usr/bin/chromium"
WINDOW = {"width": 1280, "height": 900}
PARTS = (("prompt", GREY), ("chosen", GOOD), ("rejected", WRONG))
LETTERS = 62
"""Letters on a line of a text."""
COLOURS = 64
"""More are not visible in such pictures, and make the file three times as large."""


def clearest(pairs: list[PreferencePair], pool: Pool) -> PreferencePair:
    """The description with the fewest errors on the chosen side, then the most on the rejected
    one; without the exact truth, the first pair."""
    ground_truth = pool.ground_truth
    descriptions = [pair for pair in pairs if pair.kind != SHORT_ANSWERS] or pairs
    if ground_truth is None:
        return descriptions[0]

    def rank(pair: PreferencePair) -> tuple[float, float]:
        chosen, rejected = ground_truth.errors(pair.item, [pair.chosen, pair.rejected])
        return chosen, -rejected

    return min(descriptions, key=rank)


def draw_pair(pair: PreferencePair, image: Image.Image, row: str) -> Figure:
    figure = Figure(figsize=(6.4, 2.2), dpi=150)
    left = figure.add_axes((0.01, 0.03, 0.32, 0.94))
    left.imshow(image, interpolation="nearest")
    left.set_axis_off()
    y = 0.92
    for name, colour in PARTS:
        lines = textwrap.wrap(" ".join(getattr(pair, name).split()), LETTERS)
        head = name if name == "prompt" else f"{name} by {row}"
        figure.text(0.36, y, head, color=colour, fontsize=8, fontweight="bold", va="top")
        figure.text(0.36, y - 0.09, "\n".join(lines), fontsize=8.5, va="top", linespacing=1.25)
        y -= 0.16 + 0.085 * len(lines)
    return figure


def small(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    reduced.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def screenshot(page: Path) -> bytes:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser: Any = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport=WINDOW, color_scheme="light")
        view.goto(page.resolve().as_uri())
        png: bytes = view.screenshot()
        browser.close()
    return png


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--row", default="sena")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args(argv)
    stage = Results(given.study).pairs(given.row, 0, 1)
    pairs = [PreferencePair.from_json(line) for line in read_jsonl(stage / "pairs.jsonl")]
    pool = open_pool(str(read_json(stage / "record.json")["pool"]["name"]))
    pair = clearest(pairs, pool)
    with style():
        figure = draw_pair(pair, pool.image(pair.item), row_name(given.row))
        write_bytes(given.out / "pair.png", small(rendered(figure, "png")))
    written = [given.out / "pair.png"]
    if (page := given.study / "page.html").exists():
        write_bytes(given.out / "page.png", small(screenshot(page)))
        written.append(given.out / "page.png")
    for path in written:
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
