"""Figures of example captions: the image, the baseline's caption and a method's, with wrong words
marked.

The examples are a random sample: of each kind (the method names fewer wrong objects, more, as many)
those whose image's id hashes lowest. The title says how many captions are of each kind."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import east_asian_width

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.artifacts.results_folder import read_jsonl
from harness.artifacts.stored_files import read_bytes
from harness.reporting.display_names import row_name
from harness.reporting.figures.style import (
    BLACK,
    GREY,
    MONO,
    WRONG,
    Style,
    canvas,
    characters,
    drawable_text,
    more_fonts,
    shorten,
)
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.stored import image_file, read_parquet
from harness.reporting.study_row import Row

KINDS = {"fewer": 2, "more": 1, "as many": 1}
"""How many wrong objects the method names against the baseline, and the number of examples."""
MAX_FIGURES = 4
"""Methods with a figure."""
SIZE = 6.6
"""Points of the captions' font."""
LETTER = 0.602
"""The width of a letter of DejaVu Sans Mono, as a share of its size."""
MAX_LINES = 9
"""Lines of a caption; a longer one is cut with an ellipsis."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A caption and the places (from, to) of wrong words in it."""

    text: str
    wrong: tuple[tuple[int, int], ...]


def wrong_spans(column: object) -> tuple[tuple[int, int], ...]:
    """A value of the column ``wrong`` of ``grades.parquet``, such as "12-16 40-45"."""
    if not isinstance(column, str):
        return ()
    pairs = (item.partition("-") for item in column.split() if "-" in item)
    return tuple((int(start), int(end)) for start, _, end in pairs)


def examples(study: StudyResults) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each of the first methods, on the first benchmark whose grades mark wrong
    words. None if the answers or images are not on this machine."""
    for benchmark in study.benchmarks:
        base = _captions(study, study.base_row, benchmark)
        if base is None or not any(caption.wrong for caption in base.values()):
            continue
        folder = study.stored.folder(study.stored.results.questions(benchmark.name))
        images = {
            row["id"]: image_file(folder / "images", row["images"][0])
            for row in read_jsonl(folder / "questions.jsonl")
            if row.get("images")
        }
        methods = [row for row in study.compared if row.role == "method" and row.varied is None]
        for row in methods[:MAX_FIGURES]:
            captions = _captions(study, row, benchmark)
            if captions is not None and all(path.exists() for path in images.values()):
                figure = _figure(study.baseline, row.label, base, captions, images)
                yield f"examples-{row.label}", figure
        return


def _captions(
    study: StudyResults, row: Row, benchmark: BenchmarkColumns
) -> dict[str, Caption] | None:
    """The captions of the first seed's last round, by question; None: they are not on this
    machine."""
    stored, where = study.stored, (row.label, row.seeds[0], row.rounds, benchmark.name)
    answers = stored.folder(stored.results.answers(*where)) / "answers.jsonl"
    grades = stored.results.grades(*where)
    if not answers.exists() or not stored.done(grades):
        return None
    frame = read_parquet(stored.folder(grades) / "grades.parquet")
    if "wrong" not in frame:
        return None
    wrong = dict(zip(frame["question"], frame["wrong"], strict=True))
    return {
        line["id"]: Caption(text=line["answer"], wrong=wrong_spans(wrong.get(line["id"])))
        for line in read_jsonl(answers)
    }


def _figure(
    baseline: str,
    label: str,
    base: Mapping[str, Caption],
    captions: Mapping[str, Caption],
    images: Mapping[str, Path],
) -> Figure:
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    shared = set(base) & set(captions) & set(images)
    for id in sorted(shared, key=lambda id: hashlib.sha256(id.encode()).digest()):
        change = len(captions[id].wrong) - len(base[id].wrong)
        kinds["fewer" if change < 0 else "more" if change > 0 else "as many"].append(id)
    # Captions without any wrong word come last.
    kinds["as many"].sort(key=lambda id: not base[id].wrong)
    chosen = [(id, kind) for kind, most in KINDS.items() for id in kinds[kind][:most]]
    counts = ", ".join(f"{kind} in {len(ids):,}" for kind, ids in kinds.items())
    figure = canvas(0.55 + 1.35 * len(chosen))
    title = (
        f"Objects named that are not in the image (marked): {shorten(row_name(label), 36)} against"
        f" {shorten(row_name(baseline), 24)}, {counts} captions"
    )
    figure.suptitle(shorten(title, 136), fontsize=8, x=0.01, ha="left")
    grid = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(0.9, 2.6, 2.6))
    for (shot, left, right), (id, kind) in zip(grid, chosen, strict=True):
        with Image.open(io.BytesIO(read_bytes(images[id]))) as opened:
            shot.imshow(np.asarray(opened.convert("RGB")), interpolation="nearest")
        shot.set_title(kind, fontsize=6.5, color=GREY, loc="left")
        _caption(left, shorten(row_name(baseline), 40), base[id])
        _caption(right, shorten(row_name(label), 40), captions[id])
        for axes in (shot, left, right):
            axes.set_axis_off()
    return figure


def _caption(axes: Axes, name: str, caption: Caption) -> None:
    """The caption in a font of fixed width, with wrong words coloured, bold and underlined."""
    axes.set_title(name, fontsize=7, loc="left", fontweight="bold")
    width, height = 2.72, 1.1  # inches, about what the layout leaves
    letters = int(width * 72 / (SIZE * LETTER))
    axes.set_xlim(0, letters)
    axes.set_ylim(height * 72 / (SIZE * 1.3), 0)
    lines = wrapped(caption, letters)
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [[("…", 0, False)]]
    font: Style = {"family": list(MONO + more_fonts()), "fontsize": SIZE, "va": "center"}
    for number, line in enumerate(lines):
        for text, column, wrong in line:
            style: Style = {"color": WRONG, "fontweight": "bold"} if wrong else {"color": BLACK}
            axes.text(column, number + 0.5, text, **font, **style)
            if wrong:
                ends, y = [column, column + columns(text)], [number + 0.97] * 2
                axes.plot(ends, y, color=WRONG, linewidth=0.9, solid_capstyle="butt")


def wrapped(caption: Caption, letters: int) -> list[list[tuple[str, int, bool]]]:
    """The text in lines of at most ``letters``: each a list of (word, column, whether it is
    wrong). A word of wide characters, such as Chinese, may be broken anywhere."""
    lines: list[list[tuple[str, int, bool]]] = [[]]
    column = 0
    text = "".join(char if char.isprintable() else " " for char in caption.text)
    for word in re.finditer("[^ ]+", text):
        breakable = any(east_asian_width(char) in "WF" for char in word[0])
        for index, piece in enumerate(word[0] if breakable else [word[0]]):
            label = drawable_text(piece)
            if column and column + columns(label) > letters:
                lines.append([])
                column = 0
            start = word.start() + index
            end = start + len(piece)
            wrong = any(start < to and since < end for since, to in caption.wrong)
            drawn = label[: letters - 1] + "…" if columns(label) > letters else label
            lines[-1].append((drawn, column, wrong))
            column += columns(label)
        column += 1
    return lines


def columns(text: str) -> int:
    """Columns of a text: a character of another font than the one of fixed width takes two."""
    mono_characters = characters(MONO[0])
    return sum(1 if ord(char) in mono_characters else 2 for char in text)
