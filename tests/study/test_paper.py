"""The paper study: pools and settings of the papers, costs, and missing data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.catalogue import BENCHMARKS, open_benchmarks
from harness.cli.main import main
from harness.data.open_pool import open_pool
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.study import cost_model, paper
from harness.study.study import Run
from methods.untrained import Untrained
from tests.benchmarks import official_files
from tests.data.test_layouts import entry
from tests.toy_method import save_pictures


def data(folder: Path, count: int = 4) -> str:
    for name in paper.SENA_SETS:
        save_pictures(folder / name, count)
    (folder / "llava").mkdir()
    for file in paper.INSTRUCT:
        rows = [entry(f"{file}-{index}", f"{index % count:02d}.png") for index in range(4 * count)]
        (folder / "llava" / file).write_text(json.dumps(rows))
    return str(folder)


def test_each_method_has_its_papers_pool_and_settings(tmp_path: Path) -> None:
    folder = data(tmp_path)
    study = paper.study(pool=folder, benchmarks=["synthetic_pope"])
    runs = {run.label: run for run in study.runs}
    assert {
        label: (run.images, run.rounds) for label, run in runs.items() if run.method.recipe
    } == paper.ROUNDS
    recipes = {label: run.method.recipe for label, run in runs.items() if run.method.recipe}
    assert [
        (label, one.lr, one.lora.r if one.lora else None) for label, one in recipes.items()
    ] == [
        ("sena", 2e-6, None),
        ("sima", 1e-7, 128),
        ("csr", 1e-7, 128),
    ]
    assert all(run.steps is None for run in study.runs)
    drawn = open_pool(runs["sena"].pool).draw(10, 0, 1).ids
    assert sorted(id.partition("/")[0] for id in drawn) == sorted(
        2 * ["ocr_vqa", "textvqa", "train2017", "gqa", "vg"]
    )
    asked = open_pool(runs["sima"].pool)
    assert asked.fields == {"image", "question", "reference"}
    assert sum(id.startswith("detail_23k") for id in asked.draw(8, 0, 1).ids) == 2
    assert "detail_23k" in runs["csr"].pool
    assert "reasoning" not in runs["csr"].pool
    assert [label for label, run in runs.items() if run.same_images] == ["csr"]
    with_released = paper.study(pool=folder, benchmarks=["synthetic_pope"], released=True).runs
    assert [run.label for run in with_released] == [
        "untrained",
        *(f"{name}{end}" for name in paper.ROUNDS for end in ("", " as released")),
    ]


def test_the_profile_equal_gives_all_the_same_images_and_steps(tmp_path: Path) -> None:
    study = paper.study(
        pool=data(tmp_path), profile="equal", images=256, benchmarks=["synthetic_pope"]
    )
    trained = [run for run in study.runs if run.method.recipe]
    assert len({(run.pool, run.images, run.rounds, run.steps) for run in trained}) == 1
    assert trained[0].steps == 2


def test_what_is_missing_is_named_and_planning_needs_none_of_it(tmp_path: Path) -> None:
    folder = data(tmp_path)
    (tmp_path / "llava" / "detail_23k.json").unlink()
    with pytest.raises(
        UserError, match=r"Missing for the study paper \(1\): .*detail_23k\.json is not there"
    ):
        paper.study(pool=folder, benchmarks=["synthetic_pope"])
    runs, missing = paper.needs(pool=str(tmp_path / "nowhere"), limit=3)
    assert [run.label for run in runs] == ["untrained", *paper.ROUNDS]
    assert sum("is not there" in line for line in missing) >= 7
    _, of_sima = paper.needs(pool=str(tmp_path / "nowhere"), only=["sima"])
    assert not any("vg is not there" in line for line in of_sima)
    with pytest.raises(UserError, match="no row 'sine'"):
        paper.needs(only=["sine"])
    official = official_files.pope(tmp_path / "elsewhere")
    _, missing = paper.needs(
        pool=folder, benchmarks=["pope", "mme"], local_data=[f"coco={official}"]
    )
    assert not any(line.startswith("pope:") for line in missing)
    assert f"mme: {Path(folder) / 'mme' / 'existence'} is not there" in missing


@pytest.mark.parametrize(
    ("options", "says", "lacks"),
    [
        (["paper"], "(coco_chair 500, pope 9,000, amber_d 14,216, mme 2,374)", "file: nowhere/gqa"),
        (["paper", "--limit", "10"], "(coco_chair 10, pope 180, amber_d 141, mme 20)", "file: "),
        (
            ["compare", "--base", "llava-1.5-7b", "--benchmarks", "pope,mmbench_dev_en", "--lora"],
            "(pope 9,000). Not counted: answers to mmbench_dev_en;",
            "pool",
        ),
    ],
)
def test_without_the_data_a_plan_tells_hours_and_what_it_assumed(
    options: list[str],
    says: str,
    lacks: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [*options, "--pool", "nowhere", "--out", "out"]
    assert main(["plan", *asked]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"known numbers of questions {says}" in said
    assert re.search(r"In all \d+\.\d GPU-(hours|minutes) for [\d,]+ questions a round", said)
    before, _, lacking = said.partition("run will not start without:")
    assert "lower bounds by arithmetic" in before
    assert lacks in lacking
    assert main(["run", *asked]) == 2
    monkeypatch.setitem(BASES, "llava-1.5-7b", replace(BASES["llava-1.5-7b"], parameters=None))
    assert main(["plan", *asked]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be told before llava-1.5-7b is here" in said
    assert "GPU-hours" not in said


def test_a_limit_is_of_pool_images_too_and_numbers_are_held_to_their_range(
    tmp_path: Path,
) -> None:
    folder = data(tmp_path)
    study = paper.study(pool=folder, benchmarks=["synthetic_pope"], limit=2)
    assert {run.images for run in study.runs if run.method.recipe} == {2}
    for name in ("seeds", "images", "rounds", "limit"):
        with pytest.raises(UserError, match=f"--{name} is 0; it must be at least 1"):
            paper.study(pool=folder, benchmarks=["synthetic_pope"], **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no profile 'equall'; did you mean 'equal'"):
        paper.study(pool=folder, benchmarks=["synthetic_pope"], profile="equall")  # type: ignore[arg-type]


def test_costs_are_lower_bounds_until_something_was_measured() -> None:
    sena, sima = (
        run
        for run in paper.runs_of(
            "llava-1.5-7b", "data", "published", ["sena", "sima"], 1, None, None
        )[1:]
    )
    floor = cost_model.cost(sena)
    assert floor.pairs == pytest.approx(18000 * 0.045)
    assert floor.measured == ()
    record = {
        "stage": "pairs",
        "base": "llava-1.5-7b",
        "name": "sena",
        "items": 100,
        "seconds": 20.0,
    }
    found = cost_model.cost(sena, [record, {**record, "base": "other", "seconds": 1e6}])
    assert found.pairs == pytest.approx(18000 * 0.2)
    assert found.measured == ("pairs",)
    assert (
        floor.memory > 16 * 7e9 / 2**30 > cost_model.cost(sima).memory
    )  # full training keeps 16 bytes a parameter
    larger = cost_model.cost(Run(label="u", base="llava-1.5-13b", method=Untrained()))
    assert cost_model.cost(sena, answering=18.0).answers == pytest.approx(floor.answers / 10)
    assert (
        larger.answers
        > cost_model.cost(Run(label="u", base="llava-1.5-7b", method=Untrained())).answers
    )


def test_answers_cost_what_the_asked_questions_cost(tmp_path: Path) -> None:
    coco = official_files.pope(tmp_path)
    few, more = (
        open_benchmarks(["pope"], "test", limit, [f"coco={coco}"], synthetic=False)
        for limit in (1, None)
    )
    costs = [
        cost_model.answer_seconds(
            {one.name: sum(1 for _ in one.questions()) for one in some}, set()
        )
        for some in (few, more)
    ]
    assert 0 < costs[0] < costs[1]
    asked = {name: BENCHMARKS[name].questions for name in ("pope", "mme", "coco_chair")}
    assert cost_model.answer_seconds(asked, {"coco_chair"}) == pytest.approx(180, rel=0.01)
