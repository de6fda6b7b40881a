"""A question that the model cannot read whole costs its pair or its answer, not the study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from benchmarks.interface import Question
from harness.artifacts.results_folder import read_json, read_jsonl
from harness.errors import PromptTooLong
from harness.pipeline.stages.shards import without_too_long
from methods.interface import Decoding, Dropped, Field, Item, PreferencePair, Prompt, Tools
from tests.pipeline.toy_study import a_study, do
from tests.toy_method import Toy, Words, save_pictures

pytestmark = pytest.mark.usefixtures("small")

LONG = "what colour is the ball ? " * 2000


@dataclass(frozen=True, kw_only=True)
class Asking(Toy):
    """Asks the pool's own questions."""

    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question"})

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        prompts = [
            Prompt(key=item.id, text=item.required("question"), image=item.image) for item in items
        ]
        answers = tools.vlm.generate(prompts, Decoding(max_new_tokens=3))
        for prompt, answer in zip(prompts, answers, strict=True):
            yield PreferencePair(
                key=prompt.key,
                item=prompt.key,
                prompt=prompt.text,
                chosen=answer.text,
                rejected=f"{answer.text} no",
            )


@dataclass(frozen=True, kw_only=True)
class OneLong(Words):
    """One of six questions is too long."""

    def questions(self) -> Iterator[Question]:
        for question in super().questions():
            long = question.id == "1-1"
            yield replace(question, text=LONG if long else question.text)


def test_an_over_long_question_loses_its_pair_and_its_answer_with_a_reason(tmp_path: Path) -> None:
    pool, manifest = save_pictures(tmp_path / "pool", 8), tmp_path / "pool.jsonl"
    names = sorted(path.name for path in pool.iterdir())
    rows = [
        {"image": f"pool/{name}", "question": LONG if name == names[2] else "what is it ?"}
        for name in names
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    study = a_study(str(manifest))
    untrained, toy = study.runs
    asking = replace(toy, label="asking", method=Asking())
    said = do(replace(study, runs=(untrained, asking), benchmarks=(OneLong(),)), tmp_path / "out")
    last = tmp_path / "out/runs/asking/seed0/round1"
    counts = read_json(last / "pairs/record.json")["counts"]
    assert counts["pairs"] == 7
    assert counts["drops_by_reason"] == {"prompt too long": 1}
    (drop,) = read_jsonl(last / "pairs/drops.jsonl")
    assert "the model reads" in drop["trace"]["why"]
    answers = {row["id"]: row for row in read_jsonl(last / "answers/words/answers.jsonl")}
    assert [id for id, row in answers.items() if "unanswered" in row] == ["1-1"]
    assert read_json(last / "answers/words/record.json")["counts"]["unanswered"] == 1
    grades = pd.read_parquet(last / "grades/words/grades.parquet").set_index("question")
    assert pd.isna(grades.loc["1-1", "value"])
    assert "the model reads" in str(grades.loc["1-1", "why"])
    assert grades["value"].notna().sum() == 5
    assert "asking, seed 0, round 1: grade words: done" in said


def test_all_that_can_be_read_is_done_in_few_calls() -> None:
    calls: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if 5 in items:
            raise PromptTooLong("too long")
        return [10 * item for item in items]

    done = without_too_long(range(16), work, lambda item, _: -item)
    assert done == [-5 if item == 5 else 10 * item for item in range(16)]
    assert len(calls) == 9
