"""The page's questions: who wins where, what is counted, what is shown, and that a big study stays
small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.interface import Metric
from harness.artifacts.results_folder import read_json, write_json
from harness.reporting.comparison import compare
from harness.reporting.display_names import row_name
from harness.reporting.page import questions as browser
from harness.reporting.page.images import Album
from harness.reporting.results import load_results
from tests.reporting.page_study import HOSTILE, page_study
from tests.reporting.records import write_study

CHAIR = Metric(name="chair_i", better="lower", unit="%", numerator="bad", denominator="all")
WORDS = Metric(
    name="words", better="none", unit="words", numerator="all", denominator="one", scale=1.0
)


def graded(bad: list[float], total: list[float], value: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"count_bad": bad, "count_all": total, "value": value})
    return frame.assign(count_one=1.0)


def test_a_question_is_won_or_lost_by_its_own_share_of_the_metric() -> None:
    base = graded([2, 0, 1, 0, 0, 1], [4, 4, 4, 0, 0, 2], [0, 1, 0, 1, 1, 0])
    mine = graded([1, 1, 1, 0, 1, 0], [4, 4, 4, 0, 3, 0], [0, 0, 0, 1, 0, np.nan])
    # fewer, more, alike, nothing named by either, only one names something (its own score decides),
    # unscored in one
    assert browser.outcomes(CHAIR, base, mine) == "wls-l?"
    assert browser.outcomes(WORDS, base, mine) == "ssssw?"


def test_counts_are_over_all_questions_and_cards_of_some_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load_results(write_study(tmp_path, seeds=(0,), images=60))
    cells = compare(records)
    monkeypatch.setattr(browser, "IMAGES", 12)
    chair, pope = browser.collect(records, cells, Album())
    assert chair["images"] == [12, 60]
    assert (pope["total"], len(pope["questions"]), len(pope["base"])) == (240, 48, 48)
    assert {row[0] for row in chair["questions"]} == {
        f"c{row[0][1:].split('-')[0]}" for row in pope["questions"]
    }
    sena = next(row for row in pope["rows"] if row["label"] == "SENA")
    assert all(len(codes) == 3 for codes in sena["codes"])
    grades = records.grades[records.grades["benchmark"] == "synthetic_pope"].pivot_table(
        index="question", columns="label", values="value", dropna=False
    )
    wins = int((grades["sena"] > grades["untrained"]).sum())
    losses = int((grades["sena"] < grades["untrained"]).sum())
    assert sena["counts"][0][:2] == [wins, losses]
    assert (
        sum(sena["counts"][0]) + int((grades["sena"].isna() & grades["untrained"].isna()).sum())
        == 240
    )


def test_answers_truth_and_marks_are_there_and_visible(tmp_path: Path) -> None:
    records = load_results(page_study(tmp_path / "study", tmp_path / "pool"))
    album = Album()
    chair, pope = browser.collect(records, compare(records), album)
    place = [question[0] for question in chair["questions"]].index("c3")
    assert chair["questions"][place] == ["c3", "describe 3 .", 0, "cup <b>"]
    assert chair["base"][place][0] == [["a ", False], ["dog", True], [" , says untrained", False]]
    assert chair["rows"][0]["answers"][place][0] == "a dog , says sena"
    assert len(album.uris) == 1  # one image, once
    assert pope["base"][0][0] is None  # no answer kept
    assert chair["rows"][0]["seeds"] == 2
    hostile = chair["rows"][0]["answers"][
        [question[0] for question in chair["questions"]].index("c7")
    ][0]
    assert "\x00" not in hostile
    assert HOSTILE.startswith(hostile[:9])


def test_a_control_that_reaches_a_gain_is_named(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=150)
    study = read_json(out / "study.json")
    study["runs"] = [
        {**run, "role": "control", "of": "sena"} if run["label"] == "sima" else run
        for run in study["runs"]
    ]
    write_json(out / "study.json", study)
    records = load_results(out)
    cells = compare(records)
    chair = browser.collect(records, cells, Album())[0]
    sena = next(row for row in chair["rows"] if row["label"] == "SENA")
    assert sena["reached"] == [
        list(map(row_name, cell.reached_by))
        for cell in cells
        if (cell.label, cell.benchmark) == ("sena", "synthetic_chair")
    ]


def test_many_rows_mean_fewer_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = load_results(write_study(tmp_path, seeds=(0,), images=60))
    monkeypatch.setattr(browser, "IMAGES_TIMES_ROWS", 60)
    assert browser.collect(records, compare(records), Album())[0]["images"] == [
        20,
        60,
    ]
