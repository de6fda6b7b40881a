"""Two results folders side by side: settings, versions, numbers; paired only where the same
questions were asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.cli.main import main
from harness.reporting.comparison import compare
from harness.reporting.difference import between
from harness.reporting.results import load_results
from harness.reporting.stats import estimate
from tests.reporting.records import write_study


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("a"), seeds=(0,), images=60)


@pytest.fixture
def b(a: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(a, tmp_path / "b"))


def change(path: Path, **fields: object) -> None:
    write_json(path, {**read_json(path), **fields})


def test_the_same_folder_has_no_difference(a: Path, b: Path) -> None:
    text = between(a, b)
    assert "Settings that differ: none." in text
    assert "hardware that differ: none." in text
    assert "24 numbers are in both folders: 24 are equal, 0 differ" in text
    assert "| --: |" not in text


def test_settings_differ_field_by_field(a: Path, b: Path) -> None:
    study = read_json(Results(b).study)
    for run in study["runs"]:
        if run["label"] == "sena":
            run["settings"] = {"noise_step": 420}
            run["images"] = 500
            run["steps"] = None  # a field that A does not know and B leaves empty
    study["benchmarks"][1]["version"] = "2"
    write_json(Results(b).study, study)
    for path in b.glob("runs/*/seed*/round*/answers/synthetic_pope/identity.json"):
        change(path, decoding={"temperature": 1.0})
    text = between(a, b)
    assert "| row sena.settings.noise\\_step | absent | 420 |" in text
    assert "| row sena.images | 600 | 500 |" in text
    assert "| benchmark synthetic\\_pope.version | 1 | 2 |" in text
    assert "decoding.temperature (3 of 6) | absent | 1 |" in text
    assert "steps" not in text


def test_versions_and_hardware_differ(a: Path, b: Path) -> None:
    for path in b.glob("runs/sena/**/record.json"):
        change(
            path,
            versions={"python": "3.12.1", "torch": "2.13.0"},
            hardware={"processor": "Example CPU", "cores": 64},
        )
    text = between(a, b)
    assert "| python | 3.11.9 | 3.11.9 / 3.12.1 |" in text
    assert "| cores | 2 | 2 / 64 |" in text
    assert "| torch |" not in text


def test_numbers_differ_by_a_paired_interval_where_the_questions_are_the_same(
    a: Path, b: Path, tmp_path: Path
) -> None:
    other = write_study(tmp_path / "other", seeds=(0, 1), images=60)
    grades, other_grades = (
        Results(out).grades("sena", seed, 1, "synthetic_chair")
        for out, seed in ((b, 0), (other, 1))
    )
    shutil.copy(other_grades / "grades.parquet", grades / "grades.parquet")
    text = between(a, b)
    before, after = load_results(a), load_results(b)
    metric = next(item for item in before.benchmarks[0].metrics if item.name == "chair_i")
    first, second = (records.counts["sena", 1, "synthetic_chair"] for records in (before, after))
    difference = estimate(second.terms(metric), first.terms(metric))
    lo, hi = difference.interval()
    assert f"{difference.difference:+.1f} [{lo:.1f}, {hi:.1f}] | 1 / 1 |" in text
    assert "24 numbers are in both folders: 19 are equal, 5 differ" in text
    assert "| untrained |" not in text  # equal numbers are not listed


def test_other_questions_are_not_paired(a: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "b", seeds=(0,), images=50, labels=("untrained", "sena"))
    text = between(a, other)
    assert "other questions, so not paired" in text
    assert "Only in A: sima." in text
    assert "| row sima | present | absent |" in text
    sena = next(
        cell
        for cell in compare(load_results(other))
        if (cell.label, cell.metric) == ("sena", "recall")
    )
    assert f"| {sena.value:.1f} |" in text


def test_a_metric_defined_otherwise_is_said(a: Path, b: Path) -> None:
    study = read_json(Results(b).study)
    recall = next(
        metric for metric in study["benchmarks"][0]["metrics"] if metric["name"] == "recall"
    )
    recall["numerator"] = "mentions"
    write_json(Results(b).study, study)
    text = between(a, b)
    assert "the metric is defined otherwise" in text
    assert "metric.recall.numerator | found | mentions |" in text


def test_another_verdict_is_said(a: Path, b: Path) -> None:
    path = Results(b).grades("sena", 0, 1, "synthetic_chair") / "grades.parquet"
    pd.read_parquet(path).assign(count_hallucinated=0.0).to_parquet(path, index=False)
    assert (
        "sena, CHAIR-i: this training: no clear change in A, this training"
        " differs in B" in between(a, b)
    )


def test_the_command_prints_and_ends_with_0(
    a: Path, b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(a), str(b)]) == 0
    assert capsys.readouterr().out.startswith("# ")
    assert main(["compare", str(a), str(b / "runs")]) == 2
    assert "no study.json" in capsys.readouterr().err
