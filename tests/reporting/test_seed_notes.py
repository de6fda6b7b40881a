"""Seeds that need a second look are said, never dropped in silence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.reporting.comparison import MetricResult, compare
from harness.reporting.contrasts import control_contrasts
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables.cells import table_cell
from tests.reporting.records import find, write_study

POPE = "synthetic_pope"


def flat(out: Path) -> str:
    return re.sub(r"\s+", " ", tables.write(out))


def result(out: Path, label: str, metric: str) -> MetricResult:
    return find(compare(load_results(out)), label, metric)


def with_grades(out: Path, seed: int, **counts: float) -> None:
    """Overwrite counts of sena's grades of POPE."""
    path = Results(out).grades("sena", seed, 1, POPE) / "grades.parquet"
    pd.read_parquet(path).assign(**counts).to_parquet(path, index=False)


def test_seeds_that_agree_in_every_count_are_one_training(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1), images=60)
    first, second = (Results(out).grades("sena", seed, 1, POPE) for seed in (0, 1))
    shutil.copy(first / "grades.parquet", second / "grades.parquet")
    cell = result(out, "sena", "accuracy")
    assert cell.about == "training"
    assert cell.verdict.startswith("this training")
    assert np.isnan(cell.se_training)
    assert "read as one training (is the seed used?): sena on POPE accuracy." in flat(out)


@pytest.mark.thorough
def test_a_seed_without_a_value_stops_the_test(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1, 2), images=60)
    with_grades(out, 1, count_read=0.0, count_right=0.0)
    cell = result(out, "sena", "accuracy")
    assert cell.verdict == "a seed has no value"
    assert np.isnan([cell.p, cell.lo]).all()
    assert table_cell(cell).remark == "a seed has no value"
    text = flat(out)
    assert "Seeds without a value" in text
    assert "sena, seed 1, on POPE accuracy" in text
    assert "not tested, because a seed has no value, on POPE accuracy" in text


@pytest.mark.thorough
def test_a_seed_far_from_the_others_is_named_and_counts(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1, 2), images=200)
    before = result(out, "sena", "accuracy")
    assert "Seeds far from" not in flat(out)
    with_grades(out, 2, count_right=0.0)
    after = result(out, "sena", "accuracy")
    assert after.hi - after.lo > 5 * (before.hi - before.lo)
    assert after.verdict == "no clear change"
    assert re.search(r"they count: sena, seed 2, POPE accuracy 0\.0 \(others", flat(out))


@pytest.mark.thorough
@pytest.mark.parametrize("odd", [0, 2])
def test_seeds_with_other_questions_are_left_out_by_name(tmp_path: Path, odd: int) -> None:
    out = write_study(tmp_path / "all", seeds=(0, 1, 2), images=60)
    fewer = write_study(tmp_path / "few", seeds=(0, 1, 2), images=50)
    stage = Results(out).grades("sena", odd, 1, POPE)
    shutil.rmtree(stage)
    shutil.copytree(Results(fewer).grades("sena", odd, 1, POPE), stage)
    cell = result(out, "sena", "accuracy")
    assert cell.seeds.split() == [seed for seed in "012" if seed != str(odd)]
    assert "‡" in table_cell(cell).text
    assert f"left out: sena after round 1 on synthetic POPE: seed {odd}." in flat(out)


def test_a_seed_whose_questions_are_about_other_images_is_left_out(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1, 2), images=20)
    path = Results(out).grades("sena", 1, 1, POPE) / "grades.parquet"
    grades = pd.read_parquet(path)
    grades.assign(cluster=grades["cluster"].replace("p0", "other")).to_parquet(path, index=False)
    assert result(out, "sena", "accuracy").seeds == "0 2"


@pytest.mark.thorough
def test_a_benchmark_answered_by_one_seed_is_about_that_training(tmp_path: Path) -> None:
    absent = (f"sena/seed1/round1/grades/{POPE}",)
    out = write_study(tmp_path, seeds=(0, 1), images=60, absent=absent)
    assert result(out, "sena", "accuracy").about == "training"
    assert result(out, "sena", "chair_i").about == "method"
    text = flat(out)
    assert "so it is about this training: sena on POPE accuracy." in text
    assert "sena, seed 1, round 1: synthetic POPE is not graded yet" in text
    assert "One training says nothing about its method" in text


def test_one_image_tells_nothing(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1), images=1, limit=1)
    cell = result(out, "sena", "chair_i")
    assert cell.about == "none"
    assert np.isnan([cell.lo, cell.p]).all()
    assert "One image (synthetic CHAIR, synthetic POPE): there is no interval" in flat(out)


def test_rows_of_another_base_are_said_and_not_put_in_order(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0, 1), images=60)
    study = read_json(out / "study.json")
    for run in study["runs"]:
        if run["label"] == "sima":
            run["base"] = "other-llava"
    write_json(out / "study.json", study)
    text = flat(out)
    assert "On another base than untrained (SIMA)" in text
    assert "Order of the methods" not in text


def test_a_control_is_compared_with_its_own_round(tmp_path: Path) -> None:
    """The control stopped after round 1; sena went on. Their difference is that of round 1."""
    out = write_study(tmp_path, seeds=(0, 1), rounds=2, images=60)
    study = read_json(out / "study.json")
    for run in study["runs"]:
        if run["label"] == "sima":
            run |= {"role": "control", "of": "sena", "rounds": 1}
    write_json(out / "study.json", study)
    records = load_results(out)
    contrast = next(item for item in control_contrasts(records) if item.metric.name == "chair_i")
    early = [cell for cell in compare(records) if cell.round == 1 and cell.metric == "chair_i"]
    values = {cell.label: cell.value for cell in early}
    assert contrast.round == 1
    assert abs(contrast.difference - (values["sena"] - values["sima"])) < 1e-9
    # Nothing of it is said of round 2.
    last = find(compare(records), "sena", "chair_i")
    assert (last.exceeds, last.reached_by, last.untold_by) == ((), (), ())
