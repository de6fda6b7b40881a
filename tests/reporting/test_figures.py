"""The figures: each drawn from records, embedded fonts, equal bytes for equal records, nothing drawn from nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from harness.reporting import figures, frames
from harness.reporting.cells import compare
from harness.reporting.style import COLOURS, look, rendered, short
from tests.reporting.records import write_study


def test_every_figure_is_a_png_and_a_pdf_with_embedded_fonts(tmp_path: Path) -> None:
    out = write_study(tmp_path / "a", seeds=(0,), pictures=40, absent=("sima/seed0/round1/grades/world_pope",))
    written = figures.write(out)
    names = ["before-and-after", "before-and-after-world_chair", "before-and-after-world_pope", "prompts", "training"]
    assert sorted({path.stem for path in written}) == names
    assert sorted(path.suffix for path in written) == [".pdf"] * 5 + [".png"] * 5
    for path in written:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5  # something is drawn
        else:
            content = path.read_bytes()
            assert b"/Type3" not in content
            assert b"/FontFile2" in content  # TrueType inside


def test_equal_records_give_equal_files(tmp_path: Path) -> None:
    records = frames.read(write_study(tmp_path, seeds=(0,), pictures=10, labels=("untrained", "sena")))
    with look():
        for kind in ("png", "pdf"):
            first, second = (figures.prompts(records) for _ in range(2))
            assert first is not None
            assert second is not None
            assert rendered(first, kind) == rendered(second, kind)


def test_the_drawn_interval_is_the_tables(tmp_path: Path) -> None:
    records = frames.read(write_study(tmp_path, seeds=(0,), pictures=60, labels=("untrained", "sena")))
    cells = compare(records)
    with look():
        figure = figures.before_and_after(records, cells, benchmark="world_pope")
    assert figure is not None
    cell = next(cell for cell in cells if cell.label == "sena" and cell.metric == "accuracy")
    drawn = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert [cell.lo, cell.hi] in drawn
    assert [cell.difference] in drawn
    assert figure.axes[0].get_title(loc="left") == "accuracy ↑ % (primary)"


def test_rounds_follow_one_another_in_the_curves(tmp_path: Path) -> None:
    records = frames.read(write_study(tmp_path, seeds=(0,), rounds=2, pictures=20, labels=("untrained", "sena")))
    with look():
        figure = figures.training(records)
    assert figure is not None
    assert max(float(np.max(line.get_xdata())) for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) > 10) == 120
    assert figure.axes[0].get_xlabel().endswith("a new round")


def test_nothing_is_drawn_from_nothing(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), pictures=20)
    shutil.rmtree(out / "runs")
    assert figures.write(out) == []


def test_labels_are_plain_text_and_settings_are_given_back() -> None:
    before = mpl.rcParams["pdf.fonttype"], mpl.rcParams["text.parse_math"]
    with look():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["text.parse_math"] is False
    assert (mpl.rcParams["pdf.fonttype"], mpl.rcParams["text.parse_math"]) == before
    assert short("a\nb\x1b" + "c" * 50, 10) == "a b ccccc…"
    assert len(set(COLOURS)) == len(COLOURS)
