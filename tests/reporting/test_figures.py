"""The figures: each drawn from records, embedded fonts, equal bytes for equal records, nothing
drawn from nothing."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.artifacts.results_folder import (
    Results,
    Stage,
    read_json,
    write_bytes,
    write_json,
    write_jsonl,
)
from harness.reporting.comparison import compare
from harness.reporting.figures import draw as figures
from harness.reporting.figures.ablation import ablations, noise
from harness.reporting.figures.before_after import before_and_after, rounds
from harness.reporting.figures.captions import against_recall, at_lengths, lengths
from harness.reporting.figures.examples import examples
from harness.reporting.figures.style import (
    COLOURS,
    WRONG,
    rendered,
    row_marks,
    style,
)
from harness.reporting.figures.training_curves import prompts, training
from harness.reporting.results import load_results
from tests.reporting.records import NEEDS, ROWS, write_study


@pytest.mark.thorough
def test_every_figure_is_a_png_and_a_pdf_with_embedded_fonts(tmp_path: Path) -> None:
    out = write_study(
        tmp_path / "a", seeds=(0,), images=40, absent=("sima/seed0/round1/grades/synthetic_pope",)
    )
    written = figures.write(out)
    names = [
        "before-and-after",
        "before-and-after-synthetic_chair",
        "before-and-after-synthetic_pope",
        "hallucination-against-recall",
    ]
    *drawn, captions = written
    names += ["prompts", "training"]
    assert sorted({path.stem for path in drawn}) == names
    assert sorted(path.suffix for path in drawn) == [".pdf"] * 6 + [".png"] * 6
    assert all(f"- **{name}**: " in captions.read_text() for name in names)
    for path in drawn:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5  # something is drawn
        else:
            content = path.read_bytes()
            assert b"/Type3" not in content
            assert b"/FontFile2" in content  # TrueType inside


@pytest.mark.thorough
def test_equal_records_give_equal_files(tmp_path: Path) -> None:
    records = load_results(
        write_study(tmp_path, seeds=(0,), images=10, labels=("untrained", "sena"))
    )
    with style():
        for kind in ("png", "pdf"):
            first, second = (prompts(records) for _ in range(2))
            assert first is not None
            assert second is not None
            assert rendered(first, kind) == rendered(second, kind)


def test_the_drawn_interval_is_the_tables(tmp_path: Path) -> None:
    records = load_results(
        write_study(tmp_path, seeds=(0,), images=60, labels=("untrained", "sena"))
    )
    cells = compare(records)
    with style():
        figure = before_and_after(records, cells, benchmark="synthetic_pope")
    assert figure is not None
    cell = next(cell for cell in cells if cell.label == "sena" and cell.metric == "accuracy")
    drawn = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    assert [cell.lo, cell.hi] in drawn
    assert [cell.difference] in drawn
    assert figure.axes[0].get_title(loc="left") == "accuracy ↑ % (primary)"


def test_rounds_follow_one_another_in_the_curves(tmp_path: Path) -> None:
    records = load_results(
        write_study(tmp_path, seeds=(0,), rounds=2, images=20, labels=("untrained", "sena"))
    )
    with style():
        figure = training(records)
    assert figure is not None
    assert (
        max(
            float(np.max(line.get_xdata()))
            for line in figure.axes[0].lines
            if len(np.asarray(line.get_xdata())) > 10
        )
        == 120
    )
    assert figure.axes[0].get_xlabel().endswith("a new round")


def test_rewards_are_drawn_where_they_were_logged(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=20, labels=("untrained", "sena"))
    old = load_results(out)
    margin = old.log["margin"]
    new = replace(old, log=old.log.assign(reward_chosen=margin - 1, reward_rejected=-1.0))
    with style():
        drawn = [training(records) for records in (old, new)]
    titles = [
        [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
        for figure in drawn
        if figure is not None
    ]
    assert len(titles[0]) == 3
    assert titles[1][3:] == ["reward of the chosen answers", "reward of the rejected answers"]


def test_nothing_is_drawn_from_nothing(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=20)
    shutil.rmtree(out / "runs")
    assert figures.write(out) == []


def vary_rows(monkeypatch: pytest.MonkeyPatch, *labels: str) -> None:
    """Let synthetic rows of these labels behave like sena."""
    for label in labels:
        monkeypatch.setitem(ROWS, label, ROWS["sena"])
        monkeypatch.setitem(NEEDS, label, ("image",))


def test_an_ablation_has_a_panel_a_field_and_marks_the_rows_own_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("sena noise_step=600", "sena noise_step=100", "sena check=none")
    vary_rows(monkeypatch, *settings)
    out = write_study(tmp_path, seeds=(0,), images=40, labels=("untrained", "sena", *settings))
    study = read_json(out / "study.json")
    study["runs"] = [
        {**run, "settings": {"noise_step": 420, "check": "image"}} for run in study["runs"]
    ]
    write_json(out / "study.json", study)
    records = load_results(out)
    cells = compare(records)
    with style():
        made = dict(ablations(records, cells))
        assert list(made) == [
            "ablation-synthetic_chair-chair_s",
            "ablation-synthetic_chair-chair_i",
            "ablation-synthetic_pope-accuracy",
        ]
        panels = {
            axes.get_title(loc="left"): axes
            for axes in made["ablation-synthetic_chair-chair_i"].axes
        }
        assert noise(records, cells) is None  # no image at hand
        overview = before_and_after(records, cells)
    steps = panels["noise_step"]
    assert [label.get_text() for label in steps.get_xticklabels()] == ["100", "420", "600"]
    assert [label.get_text() for label in panels["check"].get_xticklabels()] == ["image", "none"]
    own = [
        np.asarray(line.get_xdata()).tolist() for line in steps.lines if line.get_markersize() == 9
    ]
    assert own == [[1]]
    cell = next(
        cell for cell in cells if (cell.label, cell.metric) == ("sena noise_step=600", "chair_i")
    )
    drawn = [np.asarray(line.get_ydata()).tolist() for line in steps.lines]
    assert [cell.value] in drawn
    assert [cell.baseline_value + cell.lo, cell.baseline_value + cell.hi] in drawn
    assert overview is not None
    assert [label.get_text() for label in overview.axes[0].get_yticklabels()] == [
        "untrained",
        "SENA",
    ]


def test_rounds_begin_at_the_untrained_model(tmp_path: Path) -> None:
    records = load_results(
        write_study(tmp_path, seeds=(0,), rounds=2, images=30, labels=("untrained", "sena"))
    )
    cells = compare(records)
    with style():
        figure = rounds(records, cells)
    assert figure is not None
    mine = [cell.value for cell in cells if (cell.label, cell.metric) == ("sena", "chair_s")]
    base = next(
        cell.value for cell in cells if (cell.label, cell.metric) == ("untrained", "chair_s")
    )
    assert [base, *mine] in [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines]


def test_recall_is_drawn_against_hallucination_for_captions_alone(tmp_path: Path) -> None:
    records = load_results(write_study(tmp_path, seeds=(0,), images=30))
    cells = compare(records)
    with style():
        figure = against_recall(records, cells)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["synthetic CHAIR"]
    value = {cell.metric: cell.value for cell in cells if cell.label == "sima"}
    drawn = [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in figure.axes[0].lines
    ]
    assert ([value["recall"]], [value["chair_i"]]) in drawn


def test_what_is_derived_is_grey(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=5)
    study = read_json(out / "study.json")
    study["runs"] = [
        {**run, "role": "matched" if run["label"] == "sima" else "method"} for run in study["runs"]
    ]
    write_json(out / "study.json", study)
    marks = row_marks(load_results(out))
    assert marks["sena"].colour in COLOURS
    assert marks["sima"].colour not in COLOURS


def test_a_control_has_its_methods_colour_and_stands_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ("untrained", "sena", "sima", "sena shuffled")
    vary_rows(monkeypatch, "sena shuffled")
    out = write_study(tmp_path, seeds=(0,), images=10, labels=labels)
    study = read_json(out / "study.json")
    study["runs"] = [
        {**run, "role": "control", "of": "sena"} if run["label"] == "sena shuffled" else run
        for run in study["runs"]
    ]
    write_json(out / "study.json", study)
    records = load_results(out)
    marks = row_marks(records)
    assert [*marks] == ["sena", "sena shuffled", "sima"]
    assert marks["sena"].colour == marks["sena shuffled"].colour != marks["sima"].colour
    assert len({mark[1:] for mark in (marks["sena"], marks["sena shuffled"])}) == 2
    with style():
        figure = against_recall(records, compare(records))
    assert figure is not None
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["SENA", "SENA shuffled", "SIMA", "untrained (baseline)"]


def test_lengths_are_the_caps_ratios(tmp_path: Path) -> None:
    """Two images, cut at 8 words and whole: the ratios are of sums, and a leak taken out is taken
    out here too."""
    out = write_study(tmp_path, seeds=(0,), images=2, labels=("untrained", "sena"))
    for label, number in (("untrained", 0), ("sena", 1)):
        folder = Results(out).caps(label, 0, number, "synthetic_chair")
        frame = pd.DataFrame(
            {
                "question": ["c0", "c1"] * 2, "cluster": ["p0", "p1"] * 2, "cap": [8, 8, 0, 0],
                "count_hallucinated": [0.0, 1.0, 1.0, 2.0], "count_mentions": [1.0, 3.0, 4.0, 5.0],
                "count_found": [1.0, 1.0, 2.0, 2.0], "count_truth": [2.0, 2.0, 2.0, 2.0],
                "count_words": [8.0, 8.0, 20.0, 30.0], "count_captions": [1.0] * 4,
            }
        )  # fmt: skip
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        write_bytes(folder / "caps.parquet", content.getvalue())
        Stage(folder, {}).finish()
    records = load_results(out)
    found = lengths(records).sort_values(["label", "words"])
    names = ["words", "hallucination", "recall"]
    assert (
        found[names].to_numpy()[:, :].tolist()
        == [[8, 25, 50], [25, pytest.approx(100 / 3), 100]] * 2
    )
    with style():
        assert at_lengths(records, lengths(records)) is None  # two points are no curve


def test_examples_are_counted_and_their_wrong_words_marked(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=3, labels=("untrained", "sena"))
    results = Results(out)
    asked = [{"id": f"c{index}", "images": ["a.png"]} for index in range(3)]
    write_jsonl(results.questions("synthetic_chair") / "questions.jsonl", asked)
    for label, number, texts in (
        ("untrained", 0, ["a dog and a cat"] * 3),
        ("sena", 1, ["a dog", "a dog and a cat", "a dog"]),
    ):
        answers = [{"id": f"c{index}", "answer": text} for index, text in enumerate(texts)]
        write_jsonl(results.answers(label, 0, number, "synthetic_chair") / "answers.jsonl", answers)
        path = results.grades(label, 0, number, "synthetic_chair") / "grades.parquet"
        frame = pd.read_parquet(path)
        frame["wrong"] = ["12-15" if "cat" in text else "" for text in texts]
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        write_bytes(path, content.getvalue())
    records = load_results(out)
    with style():
        assert list(examples(records)) == []  # the images are not there
        content = io.BytesIO()
        Image.new("RGB", (8, 8)).save(content, format="PNG")
        write_bytes(results.questions("synthetic_chair") / "images" / "a.png", content.getvalue())
        ((name, figure),) = examples(records)
    assert name == "examples-sena"
    assert "fewer in 2, more in 0, as many in 1 captions" in figure.get_suptitle()
    marked = [
        text.get_text() for axes in figure.axes for text in axes.texts if text.get_color() == WRONG
    ]
    assert marked == ["cat"] * 4  # both captions of "as many", the untrained one of both "fewer"
