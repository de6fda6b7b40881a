"""Captions side by side: the image, what the untrained model wrote, what a method wrote, and
marked in both what is not there.

Examples are drawn by chance, not by hand: of each kind (fewer things named that are not there,
more, as many) those whose image's id hashes lowest. The figure says how many captions there are
of each kind."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.artifacts.results_folder import Results, read_jsonl
from harness.reporting.figures.style import BLACK, GREY, WRONG, canvas, short
from harness.reporting.results import BenchmarkColumns, Records, Row

KINDS = (("fewer", 2), ("more", 1), ("as many", 1))
"""How the method's count of wrongly named things compares, and how many examples are drawn."""
MOST = 4
"""Methods with a figure of their own."""
SIZE = 6.6  # points
WIDE = 0.602  # of a letter of DejaVu Sans Mono, in its size
LINES = 9
"""Of one caption; a longer one is cut with an ellipsis."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and the places in it (from, to) that name what is not there."""

    text: str
    wrong: tuple[tuple[int, int], ...]


def spans(written: object) -> tuple[tuple[int, int], ...]:
    """``grades.parquet``'s column ``wrong``: "12-16 40-45"."""
    pairs = (
        (one.partition("-") for one in str(written).split() if "-" in one)
        if isinstance(written, str)
        else ()
    )
    return tuple((int(start), int(end)) for start, _, end in pairs)


def examples(records: Records, results: Results) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each of the first methods, on the first benchmark whose grades tell
    places; none without answers."""
    for benchmark in records.benchmarks:
        base = _answers(results, records.row(records.baseline), benchmark)
        if base is None or not any(answer.wrong for answer in base.values()):
            continue
        pictures = {
            row["id"]: results.questions(benchmark.name) / "images" / row["images"][0]
            for row in read_jsonl(results.questions(benchmark.name) / "questions.jsonl")
            if row.get("images")
        }
        methods = [row for row in records.methods if row.role == "method" and row.setting is None]
        for row in methods[:MOST]:
            mine = _answers(results, row, benchmark)
            if mine is not None and all(path.exists() for path in pictures.values()):
                yield (
                    f"examples-{row.label}",
                    _figure(records.baseline, row.label, base, mine, pictures),
                )
        return


def _answers(results: Results, row: Row, benchmark: BenchmarkColumns) -> dict[str, Answer] | None:
    """The first seed's answers of the last round, with their marks; None where they are not on this
    machine."""
    where = (row.label, row.seeds[0], row.rounds, benchmark.name)
    answers, grades = results.answers(*where) / "answers.jsonl", results.grades(*where)
    if not answers.exists() or not (grades / "DONE").exists():
        return None
    frame = pd.read_parquet(grades / "grades.parquet")
    if "wrong" not in frame:
        return None
    wrong = dict(zip(frame["question"], frame["wrong"], strict=True))
    return {
        line["id"]: Answer(text=line["answer"], wrong=spans(wrong.get(line["id"])))
        for line in read_jsonl(answers)
    }


def _figure(
    baseline: str,
    label: str,
    base: dict[str, Answer],
    mine: dict[str, Answer],
    pictures: dict[str, object],
) -> Figure:
    kinds: dict[str, list[str]] = {name: [] for name, _ in KINDS}
    for id in sorted(
        set(base) & set(mine) & set(pictures), key=lambda id: hashlib.sha256(id.encode()).digest()
    ):
        change = len(mine[id].wrong) - len(base[id].wrong)
        kinds["fewer" if change < 0 else "more" if change > 0 else "as many"].append(id)
    # A caption pair without any mark shows nothing to a reader.
    kinds["as many"].sort(key=lambda id: not base[id].wrong)
    chosen = [(id, name) for name, most in KINDS for id in kinds[name][:most]]
    counted = ", ".join(f"{name} in {len(kinds[name]):,}" for name, _ in KINDS)
    figure = canvas(0.55 + 1.35 * len(chosen))
    title = (
        f"Things named that are not there (marked): {short(label, 36)} against"
        f" {short(baseline, 24)}, {counted} captions"
    )
    figure.suptitle(short(title, 130), fontsize=8, x=0.01, ha="left")
    grid = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(0.9, 2.6, 2.6))
    for (shot, left, right), (id, kind) in zip(grid, chosen, strict=True):
        with Image.open(io.BytesIO(pictures[id].read_bytes())) as opened:  # type: ignore[attr-defined]
            shot.imshow(np.asarray(opened.convert("RGB")), interpolation="nearest")
        shot.set_title(kind, fontsize=6.5, color=GREY, loc="left")
        for axes, name, answer in ((left, baseline, base[id]), (right, label, mine[id])):
            _caption(axes, short(name, 40), answer)
        for axes in (shot, left, right):
            axes.set_axis_off()
    return figure


def _caption(axes: Axes, name: str, answer: Answer) -> None:
    """The caption in lines of equally wide letters, so that marks can be placed: wrong words
    coloured, bold and underlined."""
    axes.set_title(name, fontsize=7, loc="left", fontweight="bold")
    width, height = 2.72, 1.1  # inches, about what the layout leaves
    letters = int(width * 72 / (SIZE * WIDE))
    axes.set_xlim(0, letters)
    axes.set_ylim(height * 72 / (SIZE * 1.3), 0)
    lines = wrapped(answer, letters)
    for number, line in enumerate(lines[:LINES]):
        if number == LINES - 1 and len(lines) > LINES:
            line = [("…", 0, False)]
        for text, column, wrong in line:
            axes.text(
                column, number + 0.5, text, family="DejaVu Sans Mono", fontsize=SIZE, va="center",
                color=WRONG if wrong else BLACK, fontweight="bold" if wrong else "normal",
            )  # fmt: skip
            if wrong:
                axes.plot(
                    [column, column + len(text)],
                    [number + 0.97] * 2,
                    color=WRONG,
                    linewidth=0.9,
                    solid_capstyle="butt",
                )


def wrapped(answer: Answer, letters: int) -> list[list[tuple[str, int, bool]]]:
    """The text in lines of at most ``letters``: each a list of (word, column, whether it is
    marked)."""
    lines: list[list[tuple[str, int, bool]]] = [[]]
    column = place = 0
    for word in "".join(char if char.isprintable() else " " for char in answer.text).split(" "):
        start, end = place, place + len(word)
        place = end + 1
        if not word:
            continue
        if column and column + len(word) > letters:
            lines.append([])
            column = 0
        marked = any(start < to and since < end for since, to in answer.wrong)
        lines[-1].append(
            (word[: letters - 1] + "…" if len(word) > letters else word, column, marked)
        )
        column += len(word) + 1
    return lines
