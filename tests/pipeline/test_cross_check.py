"""Stored answers graded twice: what the comparison finds, keeps and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import via_vlmevalkit
from benchmarks.interface import Grade, Report
from benchmarks.synthetic import suite
from harness.artifacts.results_folder import Results, Stage, write_json, write_jsonl
from harness.errors import UserError
from harness.pipeline import cross_check
from harness.pipeline.cross_check import StoredAnswer, StoredGrades, check
from tests.pipeline.answer_files import export, grade

ANSWERS = ("yes", "no", "Yes.", "no, there is none", "maybe", "")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A results folder with the world's POPE: exported, answered (by hand) and graded natively."""
    results, benchmark = Results(tmp_path / "out"), suite.pope("test", 2)
    export(Stage(results.questions(benchmark.name), {"stage": "export"}), benchmark)
    answers = results.answers("untrained", 0, 0, benchmark.name)
    rows = [
        {"id": item.id, "answer": ANSWERS[number % len(ANSWERS)]}
        for number, item in enumerate(benchmark.items())
    ]
    write_jsonl(answers / "answers.jsonl", rows)
    grade(
        Stage(results.grades("untrained", 0, 0, benchmark.name), {"stage": "grade"}),
        benchmark=benchmark,
        answers=answers,
    )
    write_json(
        results.study, {"benchmarks": [{"name": benchmark.name}, {"name": "synthetic_chair"}]}
    )
    return results.out


def exact(asked: Sequence[StoredAnswer], _folder: Path) -> tuple[str, Report]:
    """A toolkit that accepts exactly "yes" and "no", as lmms-eval's POPE does, and leaves nothing
    unscored."""
    grades = [
        Grade(
            question=str(number),
            cluster="",
            value=float(one.answer.lower() == one.truth),
            read_as=one.answer,
        )
        for number, one in enumerate(asked)
    ]
    accuracy = 100 * sum(grade.value or 0.0 for grade in grades) / len(grades)
    return "exact-1", Report(values={"accuracy": accuracy, "other": 1.0}, grades=grades, unscored=0)


def test_each_difference_is_named_with_its_reason(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_check, "KITS", {"exact": exact})
    said: list[str] = []
    (found,) = check(stored, said.append)
    assert (found.model, found.benchmark, found.questions) == (
        "untrained/seed0/round0",
        "synthetic_pope",
        12,
    )
    by_answer = {one.answer: one for one in found.differences}
    # Read alike where the answer is the bare word; "Yes." and sentences differ where they are
    # right; the unreadable always do.
    assert "yes" not in by_answer
    assert "no" not in by_answer
    assert by_answer["maybe"].native is None
    assert (
        by_answer["maybe"].reason
        == "natively unscored (neither yes nor no, or both); the toolkit reads 'maybe'"
    )
    assert by_answer["Yes."].reason.startswith("read natively as 'yes', by the toolkit as 'Yes.'")
    native, kit = found.metrics["accuracy"]
    assert native is not None
    assert kit is not None
    assert native > kit
    assert set(found.metrics) == {"accuracy"}
    text = "\n".join(said)
    assert "12 questions" in text
    assert "a toolkit counts it as wrong" in text
    written = json.loads((stored / "cross_check.json").read_text())
    assert len(written["comparisons"][0]["differences"]) == len(found.differences)


def test_a_models_characters_do_not_reach_the_terminal() -> None:
    one = StoredAnswer(
        id="a",
        text="?",
        image=None,
        answer="\x1b[2Jno",
        truth="yes",
        value=0.0,
        read_as="no",
        why="it is there",
    )
    report = Report(
        values={},
        grades=[Grade(question="0", cluster="c", value=None, read_as="", why="\x1b]0;x")],
        unscored=1,
    )
    graded = StoredGrades(model="m", benchmark="b", answers=[one], values={})
    made = graded.compared("kit", "1", report)
    assert "\x1b" not in "\n".join(cross_check.lines(made))


def test_a_kit_that_refuses_is_named_and_the_other_goes_on(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_asked: Sequence[StoredAnswer], _folder: Path) -> tuple[str, Report]:
        raise ValueError("it is not installed; install it")

    monkeypatch.setattr(cross_check, "KITS", {"absent": absent, "exact": exact})
    said: list[str] = []
    assert len(check(stored, said.append)) == 1
    assert "Not compared (1 times). absent: it is not installed; install it" in said
    monkeypatch.setattr(cross_check, "KITS", {"absent": absent})
    with pytest.raises(UserError, match=r"No toolkit graded anything. absent: it is not installed"):
        check(stored, said.append)


def test_a_folder_without_grades_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no results"):
        check(tmp_path)
    write_json(tmp_path / "study.json", {"benchmarks": [{"name": "synthetic_chair"}]})
    with pytest.raises(UserError, match="run a study with yes/no or one-word questions first"):
        check(tmp_path)


def test_an_unanswered_question_is_left_out_and_counted(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_check, "KITS", {"exact": exact})
    path = stored / "runs/untrained/seed0/round0/answers/synthetic_pope/answers.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (found,) = check(stored, lambda _line: None)
    assert (found.questions, found.left_out) == (11, 1)


@pytest.mark.toolkit
@pytest.mark.slow
def test_the_installed_toolkits_agree_where_an_answer_is_a_plain_word(stored: Path) -> None:
    try:
        via_vlmevalkit.python()
    except ValueError as error:
        pytest.skip(str(error))
    found = {one.kit: one for one in check(stored, lambda _line: None)}
    assert found["vlmevalkit"].differences == ()
    if "lmms_eval" in found:
        assert {one.answer for one in found["lmms_eval"].differences} <= {
            "Yes.",
            "no, there is none",
            "maybe",
        }
