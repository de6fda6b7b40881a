"""Tests of what all figures share: labels, fonts, grids and axes."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from harness.reporting.comparison import compare
from harness.reporting.figures import examples as examples_figure
from harness.reporting.figures import style as figure_style
from harness.reporting.figures.before_after import rounds
from harness.reporting.figures.examples import Caption, wrapped, wrong_spans
from harness.reporting.figures.style import (
    COLOURS,
    canvas,
    least_points,
    least_span,
    panels,
    rendered,
    shorten,
    style,
    wrap_label,
)
from harness.reporting.figures.training_curves import training
from harness.reporting.results import load_results
from tests.reporting.records import write_study

DOG = "\u72d7"


def test_labels_are_plain_text_and_settings_are_given_back() -> None:
    before = mpl.rcParams["pdf.fonttype"], mpl.rcParams["text.parse_math"]
    with style():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["text.parse_math"] is False
    assert (mpl.rcParams["pdf.fonttype"], mpl.rcParams["text.parse_math"]) == before
    assert shorten("a\nb\x1b" + "c" * 50, 10) == "a b ccccc…"
    assert len(set(COLOURS)) == len(COLOURS)


def test_words_wrap_and_keep_their_marks() -> None:
    lines = wrapped(Caption(text="a red ball , a cat .", wrong=wrong_spans("15-18")), 10)
    assert lines == [
        [("a", 0, False), ("red", 2, False), ("ball", 6, False)],
        [(",", 0, False), ("a", 2, False), ("cat", 4, True), (".", 8, False)],
    ]
    assert wrong_spans(None) == ()


def test_characters_that_no_font_has_are_escapes_and_nothing_is_drawn_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_style, "more_fonts", tuple)  # as on a machine without other fonts
    monkeypatch.setattr(examples_figure, "more_fonts", tuple)
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    text = f"a {DOG} and a cat \U0001f600 \U0001f9e0 near \u05e2\u05d1 " + DOG * 30
    caption = {"a": Caption(text=text, wrong=((2, 3),))}
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        figure = examples_figure._figure("base", "mine", caption, caption, {"a": image})
        rendered(figure, "png")
        for axes in figure.axes:
            boxes = [drawn.get_window_extent() for drawn in axes.texts]
            assert not any(
                one.x0 < two.x1 - 1 and two.x0 < one.x1 - 1 and abs(one.y0 - two.y0) < 3
                for one, two in itertools.combinations(boxes, 2)
            )
    drawn = [text.get_text() for text in figure.axes[1].texts]
    assert drawn[:7] == ["a", r"\u72d7", "and", "a", "cat", "\U0001f600", r"\U0001f9e0"]
    assert drawn.count(r"\u72d7") > 20
    assert shorten(f"row {DOG}") == r"row \u72d7"


@pytest.mark.thorough
@pytest.mark.parametrize("count", range(1, 12))
def test_a_grid_has_no_holes(count: int) -> None:
    with style():
        figure = canvas(3)
        lines = panels(figure, count)
        figure.draw_without_rendering()
    assert sum(map(len, lines)) == count
    assert len(lines) == -(-count // 3)
    assert max(map(len, lines)) - min(map(len, lines)) <= 1
    for line in lines:  # from the left edge to the right edge
        boxes = [axes.get_position() for axes in line]
        assert boxes[0].x0 < 0.1
        assert boxes[-1].x1 > 0.95


def test_no_axis_is_zoomed_into_rounding() -> None:
    assert least_span((88.0, 88.02), 2.0) == pytest.approx((87.01, 89.01))
    assert least_span((0.0, 50.0), 2.0) == (0.0, 50.0)
    assert least_points(1) == pytest.approx(2.0)
    assert least_points(0) == pytest.approx(20.0)


def test_a_long_label_is_broken_not_cut() -> None:
    assert wrap_label("untrained at sena yes-ratio", 28) == "untrained at sena yes-ratio"
    assert wrap_label("description+question", 16) == "description+\nquestion"
    for text in ("a" * 40, "one two three four five six seven", "x_y+z,w " * 4):
        lines = wrap_label(text, 16).split("\n")
        assert max(map(len, lines)) <= 16
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap_label("b" * 100, 16).endswith("…")


def test_steps_and_rounds_are_whole_numbers(tmp_path: Path) -> None:
    records = load_results(
        write_study(tmp_path, seeds=(0,), rounds=2, images=30, labels=("untrained", "sena"))
    )
    with style():
        for figure in (training(records), rounds(records, compare(records))):
            assert figure is not None
            figure.draw_without_rendering()
            for axes in figure.axes:
                ticks = np.asarray(axes.get_xticks())
                assert np.array_equal(ticks, np.round(ticks))
