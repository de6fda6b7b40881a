"""The table of an unfinished or unusual study: what is missing is named, never shown as zero."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.errors import UserError
from harness.reporting.comparison import compare, holm_family
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables.cells import table_cell
from tests.reporting.records import BENCHMARKS, find, write_study


def test_missing_stages_are_dashes_with_a_note_and_stay_in_the_family(tmp_path: Path) -> None:
    absent = (
        "sima/seed0/round1/grades/synthetic_pope",
        "sima/seed0/round1/train",
        "sena/seed0/round1/pairs",
    )
    out = write_study(tmp_path, seeds=(0,), images=60, absent=absent)
    text = tables.write(out)
    cells = compare(load_results(out))
    cell = find(cells, "sima", "accuracy")
    assert np.isnan(cell.value)
    assert table_cell(cell).text == "-"
    assert len(holm_family(cells)) == 6
    flat = re.sub(r"\s+", " ", text)
    assert "sima, seed 0, round 1: it is not trained yet, synthetic POPE is not graded yet" in flat
    assert "sena, seed 0, round 1: its pairs are not made yet" in flat
    assert "no result yet on POPE accuracy" in flat
    cost_block = text.split("How each row was made")[1].split("What became")[0]
    assert re.search(r"^SENA +images only +1 +1 +- +- +- +- +920 +60 ", cost_block, re.M)
    assert re.search(r"^SIMA .* 910 .*|^SIMA .* - +- .* - +42 s +-$", cost_block, re.M)


def test_a_row_without_pairs_is_not_said_to_be_late(tmp_path: Path) -> None:
    absent = (
        "sima/seed0/round1/train",
        *(f"sima/seed0/round1/grades/{name}" for name in BENCHMARKS),
    )
    out = write_study(tmp_path, seeds=(0,), images=60, absent=absent)
    record = Results(out).pairs("sima", 0, 1) / "record.json"
    content = read_json(record)
    write_json(record, content | {"counts": content["counts"] | {"pairs": 0}})
    flat = re.sub(r"\s+", " ", tables.write(out))
    assert (
        "sima, seed 0, round 1: it made no pair to train on, synthetic CHAIR, synthetic POPE are"
        " not graded yet." in flat
    )


def test_a_row_that_lacks_a_seed_is_marked(tmp_path: Path) -> None:
    out = write_study(
        tmp_path, seeds=(0, 1), images=60, absent=("sena/seed1/round1/grades/synthetic_pope",)
    )
    assert "‡" in table_cell(find(compare(load_results(out)), "sena", "accuracy")).text
    assert "‡ some of the planned training seeds are missing" in tables.write(out)


def test_one_seed_and_few_images_are_said(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", tables.write(write_study(tmp_path, seeds=(0,), images=30, limit=30)))
    assert "One training seed (SENA, SIMA): interval and test are about this training alone" in text
    assert "One training says nothing about its method" in text
    assert not re.search(r"\]\)\* (better|worse)", text)
    assert "limited to 30 images per benchmark; images answered: synthetic CHAIR 30" in text
    assert "Fewer than 50 images" in text
    assert "Training seeds apart" not in text


def test_other_questions_and_other_versions_are_never_compared(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=60)
    results = Results(out)
    shutil.rmtree(results.grades("sena", 0, 1, "synthetic_pope"))
    write_study(tmp_path / "smaller", seeds=(0,), images=50)
    smaller = Results(tmp_path / "smaller").grades("sena", 0, 1, "synthetic_pope")
    shutil.copytree(smaller, results.grades("sena", 0, 1, "synthetic_pope"))
    identity = results.grades("sima", 0, 1, "synthetic_pope") / "identity.json"
    write_json(identity, {**read_json(identity), "version": "2"})
    text = re.sub(r"\s+", " ", tables.write(out))
    cells = compare(load_results(out))
    assert np.isnan(find(cells, "sena", "accuracy").difference)
    assert "so there is no difference" in text
    assert np.isnan(find(cells, "sima", "accuracy").value)
    assert "was graded by version 2, the study asks for 1" in text


def test_a_row_that_answered_a_part_of_the_questions_is_named(tmp_path: Path) -> None:
    """Its questions may be the easy ones. An unreadable answer now and then is not named."""
    out = write_study(tmp_path, images=40)
    assert "may come from the questions" not in tables.write(out)
    path = Results(out).grades("sena", 0, 1, "synthetic_pope") / "grades.parquet"
    grades = pd.read_parquet(path)
    counts = [name for name in grades if name.startswith("count_")]
    grades.loc[:39, counts], grades.loc[:39, "value"] = 0.0, pd.NA
    grades.to_parquet(path, index=False)
    text = re.sub(r"\s+", " ", tables.write(out))
    cell = find(compare(load_results(out)), "sena", "accuracy")
    assert cell.unscored > 40
    assert f"SENA on synthetic POPE: {cell.unscored} of 480 answers are unscored." in text
    assert text.count("may come from the questions") == 1


def test_without_a_baseline_values_stand_alone(tmp_path: Path) -> None:
    out = write_study(
        tmp_path, seeds=(0,), images=40, absent=("untrained/seed0/round0/grades/synthetic_pope",)
    )
    cell = find(compare(load_results(out)), "sena", "accuracy")
    assert re.fullmatch(r"\d+\.\d", table_cell(cell).text)
    assert "no result yet on" in re.sub(r"\s+", " ", tables.write(out))


def test_without_primary_metrics_nothing_is_starred(tmp_path: Path) -> None:
    text = tables.write(write_study(tmp_path, seeds=(0,), images=60, primary=False))
    assert "No primary metric was declared" in text
    assert ")* " not in text


def test_nothing_done_yet_is_a_table_of_dashes(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), images=20)
    shutil.rmtree(out / "runs")
    text = tables.write(out)
    assert "not graded yet" in text
    assert re.search(r"^SENA +- +- +- +- +- +-$", text, re.M)


def test_a_study_json_that_cannot_be_a_table_is_one_sentence(tmp_path: Path) -> None:
    """Else a benchmark named twice would be counted twice, with shorter intervals."""
    study = read_json(write_study(tmp_path, images=4) / "study.json")
    chair, pope = study["benchmarks"]
    metric, *other_metrics = chair["metrics"]
    for change in (
        {"baseline": "another"},
        {"baseline": "sena"},  # three trainings
        {"runs": []},
        {"benchmarks": [chair, pope, chair]},
        *(
            {"benchmarks": [{**chair, "metrics": [*metrics, *other_metrics]}]}
            for metrics in (
                [metric, metric],
                [metric | {"scale": "1"}],
                [metric | {"better": "up"}],
            )
        ),
    ):
        write_json(tmp_path / "study.json", {**study, **change})
        with pytest.raises(UserError, match=r"study\.json lacks"):
            load_results(tmp_path)


def test_a_folder_without_a_study_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study\.json"):
        tables.write(tmp_path)
    write_json(tmp_path / "study.json", {"name": "x"})
    with pytest.raises(UserError, match="lacks"):
        tables.write(tmp_path)
