"""The runner on a toy study with a real tiny model: its files, what it reuses, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks.interface import Question
from harness.artifacts.results_folder import read_json, read_jsonl
from harness.data.open_pool import open_pool
from harness.errors import UserError
from harness.models.base_cards import BASES, BaseCard
from harness.pipeline import context as contexts
from harness.reporting.tables import build as tables
from harness.training import placement
from methods.controls import Control
from methods.interface import Field
from tests.pipeline.toy_study import a_study, do, planned
from tests.tiny_models import picture
from tests.toy_method import RECIPE, Toy, Words, outputs, save_pictures

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.thorough
def test_the_files_of_a_run_are_the_contract(undisturbed: Path) -> None:
    study = read_json(undisturbed / "study.json")
    assert [run["label"] for run in study["runs"]] == ["untrained", "toy"]
    questions = read_jsonl(undisturbed / "questions/words/questions.jsonl")
    assert len(questions) == 6
    assert set(questions[0]) == {"id", "text", "max_new_tokens", "cluster", "images"}
    assert all(
        (undisturbed / "questions/words/images" / name).exists()
        for row in questions
        for name in row["images"]
    )
    assert not (undisturbed / "runs/untrained/seed0/round0/pairs").exists()
    for where in ("runs/untrained/seed0/round0", "runs/toy/seed0/round1", "runs/toy/seed0/round2"):
        answers = read_jsonl(undisturbed / where / "answers/words/answers.jsonl")
        assert [row["id"] for row in answers] == [row["id"] for row in questions]
        assert set(answers[0]) == {"id", "answer", "logp", "n_tokens", "finished"}
        grades = pd.read_parquet(undisturbed / where / "grades/words/grades.parquet")
        assert list(grades.columns) == [
            "question", "cluster", "value", "read_as", "why", "truth", "wrong",
            "count_answers", "count_the", "count_words",
        ]  # fmt: skip
        assert set(read_json(undisturbed / where / "grades/words/report.json")) == {
            "values",
            "unscored",
        }
    pairs = undisturbed / "runs/toy/seed0/round1/pairs"
    record = read_json(pairs / "record.json")
    assert record["counts"]["pairs"] + record["counts"]["dropped"] == record["items"] == 8
    assert record["tokens"] > 0
    assert {"versions", "hardware", "arithmetic", "peak_memory_mib", "seconds", "pool"} <= set(
        record
    )
    assert len(read_jsonl(pairs / "pairs.jsonl")) == record["counts"]["pairs"]
    train = undisturbed / "runs/toy/seed0/round1/train"
    assert read_jsonl(train / "log.jsonl")
    assert (train / "model").is_dir()
    assert read_json(train / "record.json")["training"]["steps"] == len(
        read_jsonl(train / "log.jsonl")
    )


def test_each_round_is_fresh_and_starts_from_the_round_before(undisturbed: Path) -> None:
    first, second = (undisturbed / f"runs/toy/seed0/round{round}" for round in (1, 2))
    ids = [
        {row["id"] for row in read_jsonl(where / "pairs/items.jsonl")} for where in (first, second)
    ]
    assert not ids[0] & ids[1]
    models = [read_json(where / "pairs/identity.json")["model"] for where in (first, second)]
    assert (
        models[0]
        == read_json(undisturbed / "runs/untrained/seed0/round0/answers/words/identity.json")[
            "model"
        ]
    )
    assert models[1] == read_json(first / "answers/words/identity.json")["model"] != models[0]


def test_training_changed_the_model(undisturbed: Path, card: BaseCard) -> None:
    assert isinstance(card.source, Path)
    trained = [undisturbed / f"runs/toy/seed0/round{round}/train/model" for round in (1, 2)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (card.source, *trained)]
    assert len(set(weights)) == 3


def test_a_finished_study_does_nothing_and_loads_nothing(
    undisturbed: Path, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(contexts, "load_model", refuse)
    before = outputs(undisturbed)
    assert "[" not in do(a_study(pool, rounds=2), undisturbed)
    assert outputs(undisturbed) == before
    assert "nothing is left to do" in planned(a_study(pool, rounds=2), undisturbed)


def test_another_setting_is_refused_before_any_work(undisturbed: Path, pool: str) -> None:
    before = outputs(undisturbed)
    with pytest.raises(UserError, match=r"method\.temperature: 1\.0 stored, 0\.7 requested"):
        do(a_study(pool, rounds=2, temperature=0.7), undisturbed)
    with pytest.raises(
        UserError,
        match=r"train holds results of other settings \(recipe\.lr: 0\.001 stored, 0\.01 req",
    ):
        do(a_study(pool, rounds=2, recipe=replace(Toy().recipe, lr=1e-2)), undisturbed)
    with pytest.raises(UserError, match=r"limit: null stored, 5 requested"):
        do(replace(a_study(pool, rounds=2), limit=5), undisturbed)
    with pytest.raises(UserError, match=r"pool: .* requested"):
        planned(
            replace(
                a_study(pool), runs=tuple(replace(run, images=7) for run in a_study(pool).runs)
            ),
            undisturbed,
        )
    assert outputs(undisturbed) == before


def test_another_base_under_the_same_name_is_refused(
    undisturbed: Path, pool: str, card: BaseCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASES, "tiny", replace(card, dtype="bfloat16"))
    with pytest.raises(UserError, match=r"model: .* stored, .* requested"):
        do(a_study(pool, rounds=2), undisturbed)


@dataclass(frozen=True, kw_only=True)
class Graded(Words):
    """The same questions under another version of the grader."""

    version: str = "2"


@dataclass(frozen=True, kw_only=True)
class Asked(Words):
    """Another version with other questions."""

    version: str = "2"

    def questions(self) -> Iterator[Question]:
        for question in super().questions():
            yield replace(question, text=f"please , {question.text}")


def test_a_newer_grader_grades_again_and_keeps_the_answers(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(a_study(pool), runs=a_study(pool).runs[:1])
    do(study, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(contexts, "load_model", None)  # answers are not made again
        said = do(replace(study, benchmarks=(Graded(),)), tmp_path)
    assert said.count(": done") == 2
    assert (
        read_json(tmp_path / "runs/untrained/seed0/round0/grades/words/identity.json")["version"]
        == "2"
    )
    with pytest.raises(
        UserError, match=r"answers/words holds results of other settings \(questions: "
    ):
        do(replace(study, benchmarks=(replace(Asked(), version="3"),)), tmp_path)


def test_untrained_is_answered_once_for_all_seeds(pool: str, tmp_path: Path) -> None:
    untrained, toy = a_study(pool).runs
    study = replace(a_study(pool), runs=(untrained, toy, replace(toy, seed=1)))
    said = planned(study, tmp_path / "out", stages=True)
    assert [line.split(":")[0].strip() for line in said.splitlines() if ": answer" in line] == [
        "untrained", "toy, seed 0, round 1",
    ]  # fmt: skip
    assert "(each of 2 seeds)" in said
    assert "0 of 11 stages" in said
    assert open_pool(pool).draw(8, 0, 1).ids != open_pool(pool).draw(8, 1, 1).ids


def test_a_plan_estimates_from_what_was_measured_and_writes_nothing(
    undisturbed: Path, pool: str, tmp_path: Path
) -> None:
    said = planned(a_study(pool), tmp_path / "new", stages=True)
    assert "0 of 7 stages are done" in said
    assert "unknown" in said
    assert not (tmp_path / "new").exists()
    said = planned(a_study(pool), undisturbed.parent / "new", stages=True)
    assert [
        line.split()[-3]
        for line in said.splitlines()
        if "round 1: pairs" in line or "round 1: train" in line
    ] == ["about"] * 2
    assert not (undisturbed.parent / "new").exists()


@dataclass(frozen=True, kw_only=True)
class Silent(Toy):
    """A method whose two answers are always equal."""

    temperature: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class Supervised(Toy):
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "reference"})


@pytest.mark.thorough
def test_a_row_without_pairs_says_why_and_the_other_rows_are_finished(
    pool: str, tmp_path: Path
) -> None:
    untrained, toy = a_study(pool).runs
    silent = replace(toy, label="silent", method=Silent(), rounds=2)
    last = do(replace(a_study(pool), runs=(untrained, silent, toy)), tmp_path).splitlines()[-1]
    assert last.startswith(
        "silent, seed 0, round 1: toy made no pair to train on; dropped: equal (8)"
    )
    with_it, alone = outputs(tmp_path), tmp_path / "alone"
    do(a_study(pool), alone)
    assert {name: content for name, content in with_it.items() if "silent" not in name} == outputs(
        alone
    )
    assert not list((tmp_path / "runs" / "silent").rglob("answers"))
    table = " ".join(tables.write(tmp_path).split())
    assert "silent, seed 0, round 1: it could not be trained (toy made no pair" in table


def test_a_row_whose_training_diverges_ends_alone(pool: str, tmp_path: Path) -> None:
    untrained, toy = a_study(pool).runs
    wild = replace(
        toy, label="wild", method=replace(toy.method, recipe=replace(RECIPE, lr=1e30)), rounds=2
    )
    last = do(replace(a_study(pool), runs=(untrained, wild, toy)), tmp_path).splitlines()[-1]
    assert last.startswith("wild, seed 0, round 1: ")
    assert "not finite" in last
    assert (tmp_path / "runs/toy/seed0/round1/grades/words/DONE").exists()
    assert not (tmp_path / "runs/wild/seed0/round1/answers").exists()
    table = " ".join(tables.write(tmp_path).split())
    assert "wild, seed 0, round 1: it could not be trained (" in table


def test_a_row_whose_training_runs_out_of_memory_ends_alone(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of a GiB: the arithmetic says so before the first step."""
    device_memory, (untrained, toy) = placement.device_memory, a_study(pool).runs

    def small(model: Any) -> int | None:
        return 2**30 if model.dtype == torch.float32 else device_memory(model)

    monkeypatch.setattr(placement, "device_memory", small)
    last = do(replace(a_study(pool), runs=(untrained, toy)), tmp_path).splitlines()[-1]
    assert last.startswith("toy, seed 0, round 1: One pair of up to")
    assert (tmp_path / "runs/untrained/seed0/round0/grades/words/DONE").exists()


def test_a_method_that_needs_more_than_the_pool_has_is_refused_before_any_work(
    pool: str, tmp_path: Path
) -> None:
    untrained, toy = a_study(pool).runs
    with pytest.raises(UserError, match="toy needs reference"):
        do(replace(a_study(pool), runs=(untrained, replace(toy, method=Supervised()))), tmp_path)
    assert not (tmp_path / "questions").exists()


@pytest.mark.thorough
def test_what_was_done_under_another_label_is_not_done_again(pool: str, tmp_path: Path) -> None:
    untrained, toy = a_study(pool).runs
    slower = replace(
        toy, label="slower", method=replace(toy.method, recipe=replace(RECIPE, lr=5e-4))
    )
    twin = replace(toy, label="twin")
    spoilt = replace(toy, label="spoilt", method=Control(inner=toy.method, kind="shuffled"))
    together = tmp_path / "together"
    do(replace(a_study(pool), runs=(untrained, toy, slower, twin, spoilt)), together)
    reused = {
        path.relative_to(together / "runs").as_posix().removesuffix("/record.json"): record[
            "reused_from"
        ]
        for path in sorted(together.rglob("record.json"))
        if "reused_from" in (record := read_json(path))
    }
    where = "seed0/round1"
    assert reused == {
        f"slower/{where}/pairs": f"runs/toy/{where}/pairs",
        f"twin/{where}/pairs": (
            f"runs/slower/{where}/pairs"
        ),  # the first in the folder's order, itself the toy's
        **{
            f"twin/{where}/{stage}": f"runs/toy/{where}/{stage}"
            for stage in ("train", "answers/words")
        },
    }
    for run in (slower, spoilt):  # the same results as when each is made alone
        alone = tmp_path / run.label
        do(replace(a_study(pool), runs=(untrained, run)), alone)
        assert outputs(alone).items() <= outputs(together).items()


def test_steps_are_fixed_whatever_the_number_of_pairs(pool: str, tmp_path: Path) -> None:
    untrained, toy = a_study(pool).runs
    do(replace(a_study(pool), runs=(untrained, replace(toy, steps=5))), tmp_path)
    record = read_json(tmp_path / "runs/toy/seed0/round1/train/record.json")
    assert (record["training"]["steps"], record["training"]["visits"], record["items"]) == (
        5,
        20,
        20,
    )
    with pytest.raises(UserError, match=r"steps: 5 stored, 6 requested"):
        do(replace(a_study(pool), runs=(untrained, replace(toy, steps=6))), tmp_path)


def test_a_rounds_record_has_the_statistics_of_its_pairs(undisturbed: Path) -> None:
    pairs = undisturbed / "runs/toy/seed0/round1/pairs"
    pair_rows = read_jsonl(pairs / "pairs.jsonl")
    row = read_json(pairs / "record.json")["pair_stats"]["answer"]
    assert row["pairs"] == len(pair_rows)
    assert row["chosen_words"] == pytest.approx(
        sum(len(pair["chosen"].split()) for pair in pair_rows) / len(pair_rows), abs=1e-4
    )
    assert "right" not in row  # a folder of images knows no truth


def test_a_broken_picture_is_counted_in_the_record(pool: str, tmp_path: Path) -> None:
    mixed = save_pictures(tmp_path / "pool", 7)
    (mixed / "broken.png").write_bytes(b"nothing")
    Image.new("RGBA", (60, 60)).save(mixed / "00.png")
    drawn = open_pool(str(mixed)).draw(8, 0, 1)
    assert len(drawn.ids) == 7
    untrained, toy = a_study(pool).runs
    do(replace(a_study(pool), runs=(untrained, replace(toy, pool=str(mixed)))), tmp_path / "out")
    counts = read_json(tmp_path / "out/runs/toy/seed0/round1/pairs/record.json")["counts"]
    assert [entry["id"] for entry in counts["unreadable_images"]] == ["broken.png"]
    assert counts["images"] == 7
    assert counts["image_treatments"] == {"composited": 1}


def test_two_pictures_in_a_question_are_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sequences(Words):
        def questions(self) -> Iterator[Question]:
            yield Question(
                id="q",
                images=(picture(1), picture(2)),
                text="what ?",
                max_new_tokens=2,
                cluster="c",
            )

    study = a_study("synthetic")
    with pytest.raises(UserError, match="Question q has 2 images"):
        do(replace(study, runs=study.runs[:1], benchmarks=(Sequences(),)), tmp_path)
