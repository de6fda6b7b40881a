"""Reported numbers: shown beside a study that matches, in columns of their own, with their source;
else nowhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_json, write_json
from harness.reporting import literature
from harness.reporting.results import BenchmarkColumns, Row, StudyResults, load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables.model import Block
from tests.reporting.records import write_study


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A study on llava-1.5-7b's records: POPE, with the accuracy of a part, and rows of SENA and
    SIMA."""
    out = write_study(tmp_path_factory.mktemp("study"), seeds=(0,), images=30)
    study = read_json(Results(out).study)
    for run in study["runs"]:
        run["base"] = "llava-1.5-7b"
    write_json(Results(out).study, study)
    read = load_results(out)
    chair, pope = read.benchmarks
    f1 = next(metric for metric in pope.metrics if metric.name == "f1")
    official = tuple(
        replace(f1, name=name)
        for name in ("accuracy_official", "f1_official", "accuracy_adversarial_official")
    )
    grades = read.grades.replace({"benchmark": {"synthetic_pope": "pope"}})
    return replace(
        read,
        benchmarks=(chair, replace(pope, name="pope", metrics=(*pope.metrics, *official))),
        grades=grades,
    )


def block_of(records: StudyResults, name: str) -> Block:
    from harness.reporting.comparison import compare

    return next(
        block
        for block in tables.build(records, compare(records)).blocks
        if block.heading.startswith(name)
    )


def test_reported_numbers_have_columns_and_rows_of_their_own(records: StudyResults) -> None:
    block = block_of(records, "POPE")
    reported = [place for place, column in enumerate(block.columns) if column.reported]
    heads = [block.columns[place].heading for place in reported]
    assert heads == [
        "reported: accuracy official ↑ %",
        "reported: F1 official ↑ %",
        "reported: accuracy adversarial official ↑ %",
    ]
    texts = {line.head: [line.cells[place].value for place in reported] for line in block.lines}
    assert texts["untrained"][0] == "85.9 [1]"
    assert texts["sena"] == ["not available"] * 3  # its own table could not be read
    assert re.fullmatch(r"8\d\.\d+ \[\d\]", texts["sima"][2])  # RE-ALIGN's rerun of SIMA
    only = [line for line in block.lines if line.group == literature.GROUP]
    assert {"povid", "csr"} <= {line.head for line in only}
    assert not any("lambda" in line.head for line in only)  # ablations of a paper
    for line in only:  # never in a measured column, never in bold
        assert {
            line.cells[place].value for place in range(len(block.columns)) if place not in reported
        } == {literature.MISSING}
    assert all(not line.cells[place].ahead for line in block.lines for place in reported)


def test_the_notes_give_source_and_verification(records: StudyResults) -> None:
    from harness.reporting.comparison import compare

    note = tables.build(records, compare(records)).notes[-1]
    assert "second-hand" in note
    assert "first-hand rerun" in note
    assert "[1] CSR" in note


def test_on_another_base_nothing_is_shown(records: StudyResults) -> None:
    other = replace(records, rows=tuple(replace(row, base="synthetic") for row in records.rows))
    assert all(not literature.matching(other.rows, benchmark) for benchmark in other.benchmarks)
    assert literature.references(other.rows, other.benchmarks) == ()
    assert not any(column.reported for column in block_of(other, "POPE").columns)


def test_every_number_in_the_file_is_whole() -> None:
    """287 lines with a header in the project's file: each has a value that is a number, a source,
    and how far it was checked."""
    numbers = literature.published()
    assert len(numbers) == 286
    assert all(
        float(number.value) > 0 and number.source and number.better in ("higher", "lower")
        for number in numbers
    )
    assert {number.verified for number in numbers} == {"second-hand", "first-hand rerun"}
    assert not any(number.row.startswith("sena") for number in numbers)  # not invented


@pytest.mark.parametrize(
    ("benchmark", "metric", "theirs"),
    [
        ("pope", "accuracy_official", ("pope", "accuracy")),
        ("pope", "accuracy_popular_official", ("pope_popular", "accuracy")),
        ("mme", "perception", ("mme_perception", "score")),
        ("coco_chair", "chair_i_official", ("chair", "chair_i")),
        ("coco_chair", "chair_s", ("chair", "chair_s")),
        ("mmbench_dev_en", "circular_unread_wrong", ("mmbench", "accuracy")),
        ("vlmevalkit:MMVet", "score", ("mm_vet", "score")),
        ("lmms_eval:textvqa_val", "accuracy", ("textvqa", "accuracy")),
    ],
)
def test_names_here_and_in_papers_meet(
    benchmark: str, metric: str, theirs: tuple[str, str]
) -> None:
    found = {
        (one.benchmark, one.metric)
        for one in literature.published()
        if literature.belongs(one, benchmark, metric)
    }
    assert found == {theirs}


@pytest.mark.parametrize(
    ("benchmark", "metric"),
    [
        ("coco_chair_64", "chair_i"),
        ("repope", "accuracy"),
        ("mme", "accuracy"),
        ("pope", "accuracy"),
        ("pope", "accuracy_popular"),
        ("coco_chair", "chair_i"),
        ("lmms_eval:coco_cap_chair", "chair_i"),
        ("mmbench_dev_en", "circular"),
        ("synthetic_chair", "chair_i"),
    ],
)
def test_what_is_not_the_same_does_not_meet(benchmark: str, metric: str) -> None:
    column = Metric(name=metric, better="higher", unit="%", numerator="a", denominator="b")
    asked = BenchmarkColumns(name=benchmark, group="general", version="1", metrics=(column,))
    row = Row(
        label="x",
        base="llava-1.5-7b",
        method="sima",
        pool="p",
        needs=(),
        images=1,
        rounds=1,
        seeds=(0,),
    )
    assert literature.matching((row,), asked) == {}


def test_a_papers_chair_stands_only_where_it_is_read_alike() -> None:
    """SIMA's CHAIR-i counts a hallucinated word once a caption; nothing here does."""
    columns = ("chair_s", "chair_i", "chair_s_official", "chair_i_official")
    papers = {
        metric: {
            number.paper
            for number in literature.published()
            if literature.belongs(number, "coco_chair", metric)
        }
        for metric in columns
    }
    assert papers == {
        "chair_s": {"SIMA"},
        "chair_i": set(),
        "chair_s_official": {"CSR"},
        "chair_i_official": {"CSR"},
    }
