"""Matched baselines: what they match, that they are graded like all other rows, and what they say
of a gain."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.synthetic import suite
from benchmarks.synthetic.words import CATEGORIES
from harness.artifacts.results_folder import Results, Stage, read_jsonl, write_json, write_jsonl
from harness.pipeline import matched_baselines
from harness.pipeline.context import Context, ImageCache, exported_image
from harness.pipeline.executors.in_process import do
from harness.pipeline.stages.answer import write_margins
from harness.pipeline.stages.grade import write_caps
from harness.pipeline.stages.shards import quiet
from harness.pipeline.tasks import run_tasks
from harness.reporting.comparison import compare
from harness.reporting.results import load_results
from harness.study.study import Run, Study, vary
from methods.controls import Control
from methods.interface import Prompt
from methods.references import Oracle
from methods.sena.method import Sena
from methods.untrained import Untrained

CAPTIONS = {f"c{index}": " ".join(["a red ball ,"] * (1 + index % 7)) + "." for index in range(50)}


def words(text: str) -> int:
    return len(re.findall(r"\w+", text))


@pytest.mark.parametrize("mean", [2.0, 5.5, 7.31, 11.0])
def test_cut_captions_have_the_mean_asked_for(mean: float) -> None:
    made = matched_baselines.cut(CAPTIONS, mean)
    assert set(made) == set(CAPTIONS)
    assert all(CAPTIONS[id].startswith(text) for id, text in made.items())
    assert abs(sum(map(words, made.values())) - mean * len(CAPTIONS)) <= 1
    assert min(map(words, made.values())) >= 1


def test_captions_that_are_short_enough_stay_and_empty_ones_are_not_counted() -> None:
    assert matched_baselines.cut(CAPTIONS, 100.0) == CAPTIONS
    made = matched_baselines.cut({"a": "one two three four", "b": " . "}, 2.0)
    assert made == {"a": "one two", "b": " . "}


def test_every_caption_loses_the_same_share() -> None:
    made = matched_baselines.cut({"long": "x " * 80, "short": "x " * 20}, 25.0)
    assert abs(words(made["long"]) - 40) <= 1
    assert abs(words(made["short"]) - 10) <= 1


def test_shifted_answers_say_yes_as_often_as_asked_where_yes_leads_most() -> None:
    margins = {"a": 2.0, "b": -1.0, "c": 0.5, "d": -3.0}
    assert matched_baselines.shift(margins, 0.5) == {"a": "yes", "b": "no", "c": "yes", "d": "no"}
    assert matched_baselines.shift(margins, 0.75)["b"] == "yes"
    assert set(matched_baselines.shift(margins, 0.0).values()) == {"no"}


class Leaning:
    """Answers nothing; says yes as likely as the key's number says, "Yes" and "yes" alike."""

    def logps(self, prompts: list[Prompt], completions: list[str]) -> list[float]:
        return [
            float(prompt.key[-1]) * (text.lower() == "yes") - 10
            for prompt, text in zip(prompts, completions, strict=True)
        ]


def test_choices_are_weighed_over_both_spellings(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{index}", "text": "?", "max_new_tokens": 4, "cluster": "p", "images": []}
        for index in range(3)
    ]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    stage = Stage(tmp_path / "choices", {"stage": "choices", "format": 1, "benchmark": "b"})
    read = partial(exported_image, ImageCache())
    write_margins(stage, 0, range(3), Leaning(), tmp_path, read)  # type: ignore[arg-type]
    *shard, _spent = read_jsonl(stage.shard(0))
    assert [row["margin"] for row in shard] == pytest.approx([0.0, 1.0, 2.0])


def study(**changes: Any) -> Study:
    sena = Run(label="sena", base="synthetic", method=Sena())
    runs = (
        Run(label="untrained", base="synthetic", method=Untrained()),
        sena,
        *vary(sena, "noise_step", (200,)),
        Run(label="oracle", base="synthetic", method=Oracle()),
        Run(label="sena sft", base="synthetic", method=Control(inner=Sena(), kind="sft")),
    )
    benchmarks = (suite.chair("dev", 4), suite.pope("dev", 4), suite.visual_questions("dev", 4))
    return replace(
        Study(name="s", question="?", runs=runs, benchmarks=benchmarks, split="dev", limit=4),
        **changes,
    )


def test_methods_and_bounds_have_derived_rows_where_they_mean_something() -> None:
    said = {
        (run["label"], run["role"], run["of"], *run.get("benchmarks", ()))
        for run in matched_baselines.study_json(study())["runs"]
    }
    assert said == {
        ("untrained", "baseline", None),
        ("sena", "method", None),
        ("sena noise_step=200", "method", None),
        ("oracle", "reference", None),
        ("sena sft", "control", "sena"),
        ("untrained at sena length", "matched", "sena", "synthetic_chair"),
        ("untrained at oracle length", "matched", "oracle", "synthetic_chair"),
        ("untrained at sena yes-ratio", "matched", "sena", "synthetic_pope"),
        ("untrained at oracle yes-ratio", "matched", "oracle", "synthetic_pope"),
    }


@pytest.mark.thorough
def test_the_derived_row_has_the_methods_length_in_the_table(tmp_path: Path) -> None:
    """Untrained invents its last object; sena says nothing else but stops before: cutting alone
    reaches its gain."""
    results, benchmark = Results(tmp_path), suite.chair("dev", 40)
    made = study(benchmarks=(benchmark,), runs=study().runs[:2], limit=40)
    write_json(results.study, matched_baselines.study_json(made))
    truth = {item.id: sorted(item.truth) for item in benchmark.items()}
    absent = {id: next(c for c in CATEGORIES if c not in there) for id, there in truth.items()}
    told = {
        id: f"there is a {truth[id][0]} in it , and then there is a {absent[id]}" for id in truth
    }
    short = {id: text.rpartition(" , and")[0] for id, text in told.items()}
    context = Context(made, results)
    tasks = {task.key: task for task in run_tasks(context)}
    for label, number, texts in (("untrained", 0, told), ("sena", 1, short)):
        where = f"{label}/seed0/round{number}/synthetic_chair"
        answer = tasks[f"answer/{where}"]
        answer.stage.open()
        rows = [{"id": id, "answer": text} for id, text in texts.items()]
        write_jsonl(answer.stage.folder / "answers.jsonl", rows)
        answer.stage.finish()
        do(context, tasks[f"grade/{where}"], quiet)
    where = "untrained at sena length/seed0/round0/synthetic_chair"
    for task in (tasks[f"derive/{where}"], tasks[f"grade/{where}"]):
        assert task.missing()
        do(context, task, quiet)
        assert not task.missing()
    cells = {(cell.label, cell.metric): cell for cell in compare(load_results(tmp_path))}
    sena, same = cells["sena", "words"], cells["untrained at sena length", "words"]
    assert sena.value == pytest.approx(same.value, abs=1 / 40)
    # One training, and each of the 40 captions loses its invented object.
    assert cells["sena", "chair_i"].verdict == "this training differs"
    assert cells["sena", "chair_i"].matched_by == "untrained at sena length"
    assert cells["sena", "chair_i"].matched_difference == 0
    assert cells["untrained at sena length", "chair_i"].verdict == "not tested"
    assert cells["untrained", "chair_i"].value == 50


def test_captions_are_graded_at_every_cap_that_cuts_one(tmp_path: Path) -> None:
    benchmark = suite.chair("dev", 3)
    ids = [item.id for item in benchmark.items()]
    write_jsonl(tmp_path / "answers.jsonl", [{"id": id, "answer": "a red ball " * 6} for id in ids])
    stage = Stage(tmp_path / "caps", {"format": 1})
    write_caps(stage, benchmark, tmp_path)
    frame = pd.read_parquet(stage.folder / "caps.parquet")
    words_at = {int(str(cap)): part["count_words"].tolist() for cap, part in frame.groupby("cap")}
    assert words_at == {8: [8.0] * 3, 16: [16.0] * 3, 0: [18.0] * 3}
