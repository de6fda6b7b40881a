"""The table from fixed records: golden files, numbers that can be recomputed, nothing missing
passed off as zero.

``python -m nox -s regenerate`` writes the golden files again: look at their difference before
committing it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.interface import report
from benchmarks.synthetic import suite
from harness.artifacts.results_folder import Results, Stage, read_json, write_json, write_jsonl
from harness.reporting.comparison import MetricResult, compare, holm_family, question_tests
from harness.reporting.display_names import display_name
from harness.reporting.results import load_results
from harness.reporting.stats import holm
from harness.reporting.tables import build as tables
from harness.reporting.tables import notes, stage_blocks
from harness.reporting.tables import text as table_text
from harness.reporting.tables.cells import number, table_cell
from tests.pipeline.answer_files import grade
from tests.reporting.records import BENCHMARKS, find, write_study
from tests.reporting.records import grades as synthetic_grades

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FILES = ("table.md", "table.tex", "table.html", "summary.tex", "summary.csv")
GOLDEN_ABSENT = ("sima/seed1/round1/grades/synthetic_chair", "sima/seed1/round1/train")


def golden_study(out: Path) -> Path:
    return write_study(out, seeds=(0, 1), images=60, limit=60, absent=GOLDEN_ABSENT)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished study of two methods and five seeds, read, compared and written once."""
    out = write_study(tmp_path_factory.mktemp("study"), images=150, seeds=range(5))
    text = tables.write(out)
    records = load_results(out)
    return SimpleNamespace(
        out=out,
        text=text,
        records=records,
        cells=compare(records),
        markdown=(out / "table.md").read_text(),
    )


def test_the_table_is_the_golden_one(tmp_path: Path) -> None:
    tables.write(golden_study(tmp_path / "study"))
    for name in GOLDEN_FILES:
        assert (tmp_path / "study" / name).read_text() == (GOLDEN / name).read_text(), (
            f"{name}: see nox -s regenerate"
        )


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    out = golden_study(tmp_path / "study")
    path = Results(out).pairs("sena", 0, 1) / "record.json"
    record = read_json(path)
    record["counts"]["unreadable_images"] = [{"id": "broken.png", "why": "truncated"}]
    record["counts"]["image_treatments"] = {"turned": 3, "composited": 1}
    write_json(path, record)
    table = tables.write(out)
    assert "skipped: 1 (broken.png (truncated))." in table
    assert "composited on white): 3 turned, 1 composited." in table


@pytest.mark.thorough
def test_csv_recomputes_every_cell(study: SimpleNamespace) -> None:
    frame = pd.read_csv(study.out / "table.csv", keep_default_na=True)
    texts = []
    for row in frame.to_dict("records"):
        known: dict[str, Any] = {str(name): value for name, value in row.items()}
        for field in fields(MetricResult):
            if field.type == "str":
                known[field.name] = "" if pd.isna(known[field.name]) else str(known[field.name])
            elif str(field.type).startswith("tuple"):
                known[field.name] = (
                    () if pd.isna(known[field.name]) else tuple(str(known[field.name]).split("; "))
                )
        cell = MetricResult(**known)
        assert cell.value == pytest.approx(
            cell.scale * cell.numerator_sum / cell.denominator_sum, rel=1e-12
        )
        if cell.label != "untrained":
            assert cell.difference == pytest.approx(cell.value - cell.baseline_value, abs=1e-9)
            assert cell.lo <= cell.difference <= cell.hi
        texts.append(table_text.escape(table_cell(cell).text))
    assert all(f"| {text} |" in study.markdown for text in texts)
    assert len(texts) == 3 * 8


def test_values_are_the_benchmarks_own(study: SimpleNamespace) -> None:
    for name, (_, metrics) in BENCHMARKS.items():
        expected = report(metrics, synthetic_grades(name, "sena", 1, 1, 150))
        for metric in metrics:
            cell = find(
                [cell for cell in study.cells if cell.benchmark == name], "sena", metric.name
            )
            assert float(cell.seed_values.split()[1]) == pytest.approx(
                expected.values[metric.name], rel=1e-9
            )


def test_grades_of_the_real_stage_are_read(tmp_path: Path) -> None:
    benchmark = suite.pope("dev", limit=6)
    results = Results(tmp_path)
    answers = tmp_path / "answers"
    expected = {}
    for label, answer in (("untrained", "yes"), ("naysayer", "no")):
        write_jsonl(
            answers / "answers.jsonl",
            [{"id": question.id, "answer": answer} for question in benchmark.questions()],
        )
        stage = Stage(
            results.grades(label, 0, 0, benchmark.name),
            {"stage": "grade", "format": 1, "version": benchmark.version},
        )
        grade(stage, benchmark, answers)
        expected[label] = read_json(stage.folder / "report.json")["values"]
    run = {
        "base": "b",
        "method": "none",
        "needs": [],
        "pool": "synthetic",
        "images": 1,
        "rounds": 0,
        "seed": 0,
    }
    metrics = [
        {
            name: getattr(metric, name)
            for name in ("name", "better", "unit", "numerator", "denominator", "scale", "primary")
        }
        for metric in benchmark.metrics
    ]
    columns = [
        {
            "name": benchmark.name,
            "group": benchmark.group,
            "version": benchmark.version,
            "metrics": metrics,
        }
    ]
    runs = [{**run, "label": label} for label in expected]
    write_json(
        results.study,
        {
            "name": "s",
            "question": "q?",
            "baseline": "untrained",
            "runs": runs,
            "benchmarks": columns,
        },
    )
    for cell in compare(load_results(tmp_path)):
        value = expected[cell.label][cell.metric]
        assert np.isnan(cell.value) if value is None else cell.value == pytest.approx(value)


def test_stars_are_holms_over_methods_and_primary_metrics(study: SimpleNamespace) -> None:
    tested = holm_family(study.cells)
    assert {(cell.label, cell.metric) for cell in tested} == {
        (label, metric)
        for label in ("sena", "sima")
        for metric in ("chair_s", "chair_i", "accuracy")
    }
    assert [cell.p_holm for cell in tested] == pytest.approx(holm([cell.p for cell in tested]))
    for cell in study.cells:
        assert ("*" in table_cell(cell).text) == (cell in tested and cell.p_holm < 0.05)
    assert "their primary metrics (6 tests of methods)" in re.sub(r"\s+", " ", study.text)


def test_a_star_says_better_or_worse_by_the_metrics_direction(study: SimpleNamespace) -> None:
    worse = find(study.cells, "sima", "accuracy")
    assert worse.verdict == "worse"
    assert table_cell(worse).text.endswith("* worse")
    assert "worse on POPE accuracy" in re.sub(r"\s+", " ", study.text)
    assert table_cell(replace(worse, verdict="better")).text.endswith("* better")


def test_a_lower_hallucination_rate_is_better(tmp_path: Path) -> None:
    write_study(tmp_path, images=500, labels=("untrained", "sena"), seeds=range(5))
    cell = find(compare(load_results(tmp_path)), "sena", "chair_i")
    assert cell.difference < 0
    assert cell.verdict == "better"


def test_the_seeds_and_both_parts_of_the_error_are_shown_apart(study: SimpleNamespace) -> None:
    cell = find(study.cells, "sena", "accuracy")
    values = [float(value) for value in cell.seed_values.split()]
    assert len(values) == 5
    assert cell.about == "method"
    assert cell.lo < cell.difference < cell.hi
    block = study.markdown.split("Training seeds apart")[1]
    assert all(f"{value:.1f}" in block for value in values)
    assert f"| {cell.se_training:.2f} | {cell.se_images:.2f} |" in block
    assert "SENA against untrained (5 trainings): " in study.markdown


def test_unscored_answers_are_kept_apart(study: SimpleNamespace) -> None:
    cell = find(study.cells, "untrained", "accuracy")
    counts = study.records.counts["untrained", 0, "synthetic_pope"]
    assert cell.unscored == int(np.isnan(counts.values).sum()) > 0
    assert (
        cell.denominator_sum == cell.questions - cell.unscored
    )  # in no metric, neither right nor wrong
    assert f"| {cell.unscored} of 600 |" in study.markdown
    assert "they never count as 0" in study.text


def test_cells_without_a_value_are_said_by_benchmark(study: SimpleNamespace) -> None:
    empty = {("sena", "F1"), ("sima", "F1"), ("untrained", "F1"), ("sima", "accuracy")}
    cells = [
        (
            replace(cell, value=np.nan)
            if cell.benchmark == "synthetic_pope"
            and (cell.label, display_name(cell.metric)) in empty
            else cell
        )
        for cell in study.cells
    ]
    said = next(
        note for note in notes.footnotes(study.records, cells) if note.startswith("Without a value")
    )
    assert (
        said.partition("-): ")[2]
        == "synthetic POPE / accuracy (sima); synthetic POPE / F1 (every row)."
    )


def test_what_rows_share_is_said_once(study: SimpleNamespace) -> None:
    assert "- Training seeds: 0 1 2 3 4 (sena, sima).\n" in study.markdown
    assert study.markdown.count("treats questions of one image as independent") == 1
    assert study.markdown.count("Exact McNemar test,") == 2


def test_of_a_benchmark_with_many_metrics_the_primary_ones_are_matched(
    study: SimpleNamespace,
) -> None:
    def matched(cells: list[MetricResult]) -> list[str]:
        table = tables.build(study.records, cells)
        found = next(block for block in table.blocks if block.heading.startswith("At equal length"))
        return [found.caption, *(line.cells[1].text for line in found.lines)]

    cell = replace(
        find(study.cells, "sena", "accuracy"),
        matched_by="untrained at sena yes-ratio",
        matched_value=80.0,
    )
    other_cells = [
        replace(cell, metric=f"accuracy_{index}", primary=False)
        for index in range(tables.MANY_METRICS)
    ]
    few_rows, many_rows = matched([cell, *other_cells[1:]]), matched([cell, *other_cells])
    assert len(few_rows) == 1 + tables.MANY_METRICS
    assert "table.csv" not in few_rows[0]
    assert len(many_rows) == 2
    assert "of synthetic POPE the primary metrics (table.csv has the others)" in many_rows[0]
    empty = replace(cell, metric="F1", value=np.nan)
    assert matched([cell, empty]) == matched([cell])


def test_what_the_study_itself_says_stands_in_the_notes_and_derived_rows_name_no_checkpoint(
    tmp_path: Path,
) -> None:
    out = write_study(tmp_path, seeds=(0,), images=60)
    study = read_json(out / "study.json")
    write_json(out / "study.json", study | {"notes": ["Left out: csr needs question."]})
    text = re.sub(r"\s+", " ", tables.write(out))
    assert "Left out: csr needs question." in text
    assert " unknown" not in text.partition("Checkpoints, by fingerprint")[2].partition(".")[0]


def test_earlier_rounds_are_shown_and_not_tested(tmp_path: Path) -> None:
    out = write_study(tmp_path, seeds=(0,), rounds=2, images=60)
    text = tables.write(out)
    assert "SENA, round 1" in text.split("Round by round")[1]
    assert all(np.isnan(cell.p) for cell in compare(load_results(out)) if not cell.last)
    assert re.search(r"^SENA +images only +1 +2 +1,200 ", text, re.M)  # images of both rounds


def test_the_funnel_adds_up(study: SimpleNamespace) -> None:
    sums = stage_blocks.totals(study.records, "sima")
    reasons = study.records.drops["reason"].unique()
    assert sum(
        stage_blocks.mean_drops(study.records, "sima", reason) for reason in reasons
    ) == pytest.approx(sums["dropped"])
    prompts = stage_blocks.totals(study.records, "sena")[["pairs", "dropped"]].sum()
    assert f"| prompts made | {stage_blocks._count(prompts)} |" in study.markdown


def test_markdown_cells_hold_whatever_models_and_users_write(study: SimpleNamespace) -> None:
    assert "dropped: no question \\| none asked" in study.markdown
    for block in re.findall(r"(?:^\|.*\n)+", study.markdown, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert (
        table_text.escape("a|b\n<i>`x`\\ [l](u)\x1b[0m")
        == "a\\|b &lt;i&gt;\\`x\\`\\\\ [l]\\(u) [0m"
    )


def test_the_terminal_table_fits_its_width(study: SimpleNamespace) -> None:
    assert max(map(len, study.text.splitlines())) <= table_text.WIDTH
    narrow = table_text.terminal(tables.build(study.records, study.cells), width=100)
    assert max(len(line) for line in narrow.splitlines()) <= 100
    assert narrow.count("CHAIR-s ↓ % (primary)") == study.text.count("CHAIR-s ↓ % (primary)")
    assert "\x1b" not in table_text.terminal(
        replace(tables.build(study.records, study.cells), notes=("\x1b[31mred",))
    )


def test_supervision_and_provenance_stand_below(study: SimpleNamespace) -> None:
    flat = re.sub(r"\s+", " ", study.text)
    assert "images only" in flat
    assert "images + questions" in flat
    assert "fingerprint c0ffeec0ffee" in flat
    assert "torch 2.13.0" in flat
    assert "processor Example CPU" in flat
    assert (
        "synthetic CHAIR 1 exact, 0 near, of 150 images" in flat
    )  # sena's training images 3, 203, 403; sima's 3
    assert "Smallest true difference" in flat


def test_mcnemar_is_there_for_questions_scored_0_or_1(study: SimpleNamespace) -> None:
    tests = question_tests(study.records)
    assert {(benchmark, label) for benchmark, label, _, _ in tests} == {
        (benchmark, label) for benchmark in BENCHMARKS for label in ("sena", "sima")
    }
    _, _, seed, test = next(test for test in tests if test[:2] == ("synthetic_pope", "sima"))
    base = {
        grade.question: grade.value
        for grade in synthetic_grades("synthetic_pope", "untrained", 0, 0, 150)
    }
    mine = {
        grade.question: grade.value
        for grade in synthetic_grades("synthetic_pope", "sima", seed, 1, 150)
    }
    assert test.gained == sum(base[key] == 0 and mine[key] == 1 for key in base)
    assert test.lost == sum(base[key] == 1 and mine[key] == 0 for key in base)


def test_names_are_shown_as_the_field_writes_them() -> None:
    assert [display_name(name) for name in ("chair_i", "synthetic_pope", "yes_ratio", "f1")] == [
        "CHAIR-i",
        "synthetic POPE",
        "yes ratio",
        "F1",
    ]
    assert [number(-0.04, 1, sign=True), number(0.26, 1, sign=True)] == ["0.0", "+0.3"]
    durations = [stage_blocks.duration(seconds) for seconds in (59.7, 600, 9000)]
    assert durations == ["60 s", "10 min", "2.5 h"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tables.write(golden_study(Path(folder) / "study"))
        for name in GOLDEN_FILES:
            (GOLDEN / name).write_text((Path(folder) / "study" / name).read_text())
