"""The catalogue: every spec says what its benchmark is; benchmarks are opened by name with folders
of data."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from benchmarks import catalogue
from benchmarks.catalogue import BENCHMARKS, open_benchmarks
from benchmarks.interface import Benchmark, metric_value
from harness.errors import UserError
from harness.study import compare
from tests.benchmarks import official_files

NATIVE = [
    name
    for name, spec in BENCHMARKS.items()
    if spec.local and not spec.unavailable and not spec.judge
]


def built(name: str, at: Path) -> Benchmark:
    return BENCHMARKS[name].factory("test", None, official_files.folder_for(name, at))


@pytest.mark.parametrize("name", NATIVE)
def test_a_benchmark_is_what_the_catalogue_says(name: str, tmp_path: Path) -> None:
    spec, benchmark = catalogue.find(name), built(name, tmp_path)
    assert (benchmark.name, benchmark.group) == (name, spec.group)
    names = {metric.name for metric in benchmark.metrics}
    assert len(names) == len(benchmark.metrics)
    assert spec.name == name
    assert set() < set(spec.metrics) <= names
    assert spec.captions or "words" not in names
    assert benchmark.version.startswith(f"{benchmark.source} ")
    assert spec.missing(tmp_path) == ()
    assert spec.missing(None) == spec.missing(tmp_path / "nowhere") != ()


@pytest.mark.parametrize("name", NATIVE)
def test_a_limit_takes_some_of_the_images_with_all_their_questions(
    name: str, tmp_path: Path
) -> None:
    whole = [(q.id, q.text, q.cluster) for q in built(name, tmp_path).questions()]
    few = [
        (q.id, q.text, q.cluster) for q in BENCHMARKS[name].factory("test", 2, tmp_path).questions()
    ]
    fewer = [
        (q.id, q.text, q.cluster) for q in BENCHMARKS[name].factory("test", 1, tmp_path).questions()
    ]
    assert set(fewer) < set(few) < set(whole)
    kept = {cluster for _, _, cluster in few}
    assert len(kept) == 2
    assert few == [row for row in whole if row[2] in kept]
    with pytest.raises(ValueError, match="at least 1"):
        BENCHMARKS[name].factory("test", 0, tmp_path)


@pytest.mark.parametrize("name", NATIVE)
def test_values_follow_from_the_grades_and_the_version_from_the_truth(
    name: str, tmp_path: Path
) -> None:
    benchmark = built(name, tmp_path)
    rng = Random(name)
    answers = {
        question.id: rng.choice(["yes", "No.", "", "maybe", "a dog and a man", "A"])
        for question in benchmark.questions()
    }
    report = benchmark.grade(answers)
    sums: defaultdict[str, float] = defaultdict(float)
    for grade in report.grades:
        for count, amount in grade.counts.items():
            sums[count] += amount
    assert {
        metric.name: metric_value(metric, sums) for metric in benchmark.metrics
    } == pytest.approx(dict(report.values))
    assert benchmark.version == BENCHMARKS[name].factory("test", None, tmp_path).version
    assert benchmark.version != BENCHMARKS[name].factory("test", 1, tmp_path).version


def test_a_benchmark_that_cannot_be_run_says_why_and_toolkits_resolve() -> None:
    for name in ("mementos", "object_halbench"):
        spec = catalogue.find(name)
        assert spec.missing(Path()) == (spec.unavailable,)
        with pytest.raises(ValueError, match=f"{name} cannot be run here"):
            spec.factory("test", None, None)
    twins = [twin for spec in BENCHMARKS.values() for twin in spec.twins]
    assert all(catalogue.find(twin).about for twin in twins)
    for wrong in ("nothing", "lmms_eval:", "other:pope", ":"):
        with pytest.raises(KeyError):
            catalogue.find(wrong)
    with pytest.raises(ValueError, match="draws its own images"):
        BENCHMARKS["synthetic_pope"].factory("test", 3, Path())


def test_the_readme_has_a_row_for_every_benchmark_and_names_its_data() -> None:
    rows = [
        line
        for line in Path("benchmarks/README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    for name, spec in BENCHMARKS.items():
        row = next((row for row in rows if f"`{name}`" in row.split("|")[1]), None)
        assert row is not None, name
        assert not spec.unavailable or "cannot be run here" in row
        assert all(f"`{twin}`" in row for twin in spec.twins)


def test_local_data_reaches_every_benchmark_of_its_name(tmp_path: Path) -> None:
    official_files.pope(official_files.coco(tmp_path))
    opened = open_benchmarks(
        ["pope", "coco_chair", "synthetic_pope"], "test", 2, [f"coco={tmp_path}"]
    )
    assert [benchmark.name for benchmark in opened] == ["pope", "coco_chair", "synthetic_pope"]
    named = open_benchmarks(
        ["pope", "coco_chair"], "test", 2, [f"pope={tmp_path}", f"coco_chair={tmp_path}"]
    )
    assert [benchmark.version for benchmark in named] == [
        benchmark.version for benchmark in opened[:2]
    ]


@pytest.mark.parametrize(
    ("names", "local", "said"),
    [
        (
            ["pope"],
            [],
            "pope needs coco_pope_random.json .* in a folder .*--local-data coco=FOLDER",
        ),
        (["pope"], ["coco"], "must be NAME=FOLDER"),
        (["pope"], ["coco=no/such/folder"], "there is no folder no/such/folder"),
        (["pope"], ["coco=.", "coco=."], "given twice"),
        (["pope"], ["cocoa=."], "did you mean 'coco'"),
        (["popes"], [], "did you mean 'pope'"),
        (["mementos"], [], "mementos cannot be run here"),
    ],
)
def test_what_is_wrong_with_the_asking_is_said(
    names: list[str], local: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        open_benchmarks(names, "test", None, local)
    with pytest.raises(UserError, match=said):
        compare.study(benchmarks=names, local_data=local)
