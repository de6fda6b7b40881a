"""Reported numbers: shown beside a study that matches, in columns of their own, with their source;
else nowhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_json, write_json
from harness.reporting import literature
from harness.reporting.results import BenchmarkColumns, StudyResults, load_results
from harness.reporting.study_row import Row
from harness.reporting.tables import build as tables
from harness.reporting.tables.cells import Block
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
    reported = [index for index, column in enumerate(block.columns) if column.reported]
    heads = [block.columns[index].heading for index in reported]
    assert heads == [
        "reported: accuracy official ↑ %",
        "reported: F1 official ↑ %",
        "reported: accuracy adversarial official ↑ %",
    ]
    texts = {line.head: [line.cells[index].value for index in reported] for line in block.lines}
    assert texts["untrained"][0] == "85.9 [1]"
    assert texts["SENA"] == ["not available"] * 3  # its own table could not be read
    assert re.fullmatch(r"8\d\.\d+ \[\d\]", texts["SIMA"][2])  # RE-ALIGN's rerun of SIMA
    only = [line for line in block.lines if line.group == literature.GROUP]
    assert {"povid", "CSR"} <= {line.head for line in only}
    assert not any("lambda" in line.head for line in only)  # ablations of a paper
    for line in only:  # never in a measured column, never in bold
        assert {
            line.cells[index].value for index in range(len(block.columns)) if index not in reported
        } == {literature.MISSING}
    assert all(not line.cells[index].ahead for line in block.lines for index in reported)


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


PAPERS = {
    "CSR": {"second-hand"},
    "SIMA": {"second-hand"},
    "RE-ALIGN rerun": {"first-hand", "first-hand rerun"},
    "SENTINEL": {"first-hand", "origin not stated", "second-hand"},
    "mDPO": {"first-hand", "second-hand"},
    "NaPO": {"first-hand", "origin not stated", "second-hand"},
    "TARS": {"first-hand", "first-hand rerun"},
    "REVERSE": {"first-hand"},
    "TPO (token)": {"second-hand"},
    "RLAIF-V": {"second-hand"},
}
"""The papers of the file, with the marks that their numbers may have."""
RANGES = {
    ("chair", "chair_s"): (1, 100, "captions with an invented object, "),
    ("chair", "chair_i"): (1, 100, "of all mentions, "),
    ("pope", "accuracy"): (50, 100, "split or average not stated"),
    ("pope", "f1"): (50, 100, "split or average not stated"),
    **{
        (f"pope_{split}", "accuracy"): (50, 100, "this split")
        for split in ("random", "popular", "adversarial")
    },
    **{
        ("amber_g", name): (0.3, 100, "generative part")
        for name in ("chair", "cover", "hal", "cog")
    },
    ("amber_d", "accuracy"): (50, 100, "discriminative part, all questions"),
    ("amber_d", "f1"): (50, 100, "discriminative part, all questions"),
    ("object_halbench", "response_rate"): (1, 100, "responses with an invented object"),
    ("object_halbench", "mention_rate"): (1, 100, "invented mentions of all mentions"),
    ("hallusionbench", "aAcc"): (30, 70, "all questions"),
    ("hallusionbench", "fAcc"): (5, 40, "figures with all questions right"),
    ("hallusionbench", "easy"): (30, 70, "questions on original images"),
    ("hallusionbench", "hard"): (30, 70, "questions on edited images"),
    ("mmhal", "score"): (0, 6, "mean rating, 0 to 6"),
    ("mmhal", "hallucination_rate"): (10, 100, "answers rated below 3"),
    ("mementos", "object_f1"): (1, 100, "F1 of keywords"),
    ("mementos", "behaviour_f1"): (1, 100, "F1 of keywords"),
    ("mme_perception", "score"): (1000, 2000, "sum of 10 subtasks"),
    ("mme_cognition", "score"): (200, 800, "sum of 4 subtasks"),
    ("mm_vet", "score"): (20, 50, "score of a judge, 0 to 100"),
    ("llava_w", "score"): (50, 100, "score of a judge, 0 to 100"),
    ("mmbench", "accuracy"): (50, 100, "dev split, circular"),
    ("seed", "accuracy"): (50, 100, "images and videos"),
    ("scienceqa_img", "accuracy"): (50, 100, "questions with an image"),
    **{(name, "accuracy"): (40, 80, "split not stated") for name in ("textvqa", "vizwiz", "gqa")},
}
"""(benchmark, metric) -> lowest and highest value that can be, and words of its reading."""
LOWER = {
    ("chair", "chair_s"),
    ("chair", "chair_i"),
    ("amber_g", "chair"),
    ("amber_g", "hal"),
    ("amber_g", "cog"),
    ("object_halbench", "response_rate"),
    ("object_halbench", "mention_rate"),
    ("mmhal", "hallucination_rate"),
}


def test_every_number_has_a_known_paper_benchmark_reading_and_range() -> None:
    numbers = literature.published()
    assert {number.paper for number in numbers} == set(PAPERS)
    assert {(number.benchmark, number.metric) for number in numbers} == set(RANGES)
    for number in numbers:
        key = (number.benchmark, number.metric)
        lowest, highest, words = RANGES[key]
        assert lowest <= float(number.value) <= highest, number
        assert words in number.reading, number
        assert number.verified in PAPERS[number.paper], number
        assert number.better == ("lower" if key in LOWER else "higher"), number
        assert number.base in ("llava-1.5-7b", "llava-1.5-13b"), number
        assert "able" in number.source or "note" in number.source, number
    keys = [(n.paper, n.row, n.base, n.benchmark, n.metric, n.source) for n in numbers]
    assert len(set(keys)) == len(keys)  # no number stands twice
    assert not any(number.row.startswith("sena") for number in numbers)  # not invented


def test_a_quoted_number_says_whose_it_is() -> None:
    """Numbers that a paper's text gives for others are told from its own."""
    own_rows = {"SENTINEL": "sentinel", "mDPO": "mdpo", "NaPO": "napo", "TARS": "tars"}
    for number in literature.published():
        if number.paper in own_rows and number.verified == "first-hand":
            assert number.row.startswith((own_rows[number.paper], "untrained")), number
        if number.verified == "second-hand":
            assert re.search("quot|says that it is the value of", number.source), number


def test_the_two_methods_named_tpo_are_told_apart() -> None:
    """Object HalBench 5.6 and 3.2 are of the topic-level one, which no row here may confuse."""
    rows = {number.row for number in literature.published() if number.row.startswith("tpo")}
    assert rows == {"tpo_topic", "tpo_token"}
    topic = {
        number.value
        for number in literature.published()
        if number.row == "tpo_topic" and number.benchmark == "object_halbench"
    }
    assert topic == {"5.6", "3.2"}


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
        ("amber_g", "hal_official", ("amber_g", "hal")),
        ("amber_d", "f1_official", ("amber_d", "f1")),
        ("vlmevalkit:HallusionBench", "aAcc", ("hallusionbench", "aAcc")),
    ],
)
def test_names_here_and_in_papers_meet(
    benchmark: str, metric: str, theirs: tuple[str, str]
) -> None:
    matches = {
        (number.benchmark, number.metric)
        for number in literature.published()
        if literature.is_of_metric(number, benchmark, metric)
    }
    assert matches == {theirs}


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
        ("amber_g", "hal"),
        ("amber_d", "accuracy"),
        ("mmhal", "score"),
        ("mmhal", "hallucination_rate"),
    ],
)
def test_what_is_not_the_same_does_not_meet(benchmark: str, metric: str) -> None:
    column = Metric(name=metric, better="higher", unit="%", numerator="a", denominator="b")
    columns = BenchmarkColumns(name=benchmark, group="general", version="1", metrics=(column,))
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
    assert literature.matching((row,), columns) == {}


def test_a_papers_chair_stands_only_where_it_is_read_alike() -> None:
    """SIMA's CHAIR-i counts a hallucinated word once a caption; nothing here does."""
    columns = ("chair_s", "chair_i", "chair_s_official", "chair_i_official")
    papers = {
        metric: {
            number.paper
            for number in literature.published()
            if literature.is_of_metric(number, "coco_chair", metric)
        }
        for metric in columns
    }
    assert papers == {
        "chair_s": {"SIMA"},
        "chair_i": set(),
        "chair_s_official": {"CSR"},
        "chair_i_official": {"CSR"},
    }
