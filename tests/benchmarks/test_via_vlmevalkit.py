"""VLMEvalKit behind the benchmark interface: our side on recorded replies, and (marker toolkit) the
kit's own code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import choice, via_vlmevalkit
from benchmarks.interface import Report
from benchmarks.synthetic import suite
from benchmarks.via_vlmevalkit import VARIABLE, benchmark
from tests.benchmarks import vlmevalkit_cases as cases
from tests.benchmarks.vlmevalkit_cases import CASES


def installed() -> bool:
    try:
        via_vlmevalkit.python()
    except ValueError:
        return False
    return True


needs_kit = pytest.mark.skipif(
    not installed(), reason="VLMEvalKit is not installed: python -m nox -s toolkit_vlmevalkit"
)


@pytest.fixture
def played_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program in place of the kit's python that plays recorded replies back."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{cases.__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    via_vlmevalkit.commit.cache_clear()
    yield
    via_vlmevalkit.commit.cache_clear()


def graded(name: str, folder: Path) -> tuple[dict[str, str], Report]:
    answers = CASES[name](folder)
    return answers, benchmark(name, "test", None, folder).grade(answers)


@pytest.fixture(
    params=[
        "recorded",
        pytest.param("kit", marks=[pytest.mark.toolkit, pytest.mark.slow, needs_kit]),
    ]
)
def kit(request: pytest.FixtureRequest) -> None:
    """Every test that asks for this runs twice: on recorded replies, and through the kit's own code
    where it is installed."""
    if request.param == "recorded":
        request.getfixturevalue("played_back")


@pytest.mark.usefixtures("kit")
def test_pope_is_graded_as_natively(tmp_path: Path) -> None:
    answers, report = graded("POPE", tmp_path)
    native = suite.pope("test", 3)
    theirs = native.grade(
        {item.id: answers[str(number)] for number, item in enumerate(native.items())}
    )
    assert [grade.value for grade in report.grades] == [grade.value for grade in theirs.grades]
    assert [grade.read_as.lower() for grade in report.grades] == [
        grade.read_as for grade in theirs.grades
    ]
    assert report.unscored == theirs.unscored > 0
    # The kit counts what it cannot read as wrong, natively it is not counted: the same right
    # answers over other sums.
    right = sum(grade.value or 0.0 for grade in theirs.grades)
    assert report.values["accuracy"] == pytest.approx(100 * right / len(theirs.grades))
    assert theirs.values["accuracy"] == pytest.approx(
        100 * right / (len(theirs.grades) - theirs.unscored)
    )
    assert report.values["vlmevalkit:Overall"] == pytest.approx(
        report.values["f1"]
    )  # its "Overall" is F1
    assert report.values["vlmevalkit:acc|popular"] == pytest.approx(
        report.values["accuracy_popular"]
    )


@pytest.mark.usefixtures("kit")
def test_pope_says_what_became_of_an_answer(tmp_path: Path) -> None:
    answers, report = graded("POPE", tmp_path)
    why = {answers[grade.question]: grade for grade in report.grades}
    assert why["NA"].value is None
    assert "took it for 'nan'" in why["NA"].why  # pandas reads the word NA as nothing
    assert "blanks" in why["no\x00pe"].why
    assert why["no\x00pe"].read_as == "No"
    assert why["maybe"].why.startswith("the kit reads nothing in it and counts it as wrong")


@pytest.mark.usefixtures("kit")
def test_pope_asks_with_the_kits_words_and_images(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    asked = list(benchmark("POPE", "test", None, tmp_path).questions())
    native = list(suite.pope("test", 3).questions())
    assert [question.text for question in asked] == [
        question.text for question in native
    ]  # POPE's rows are the whole prompt
    assert len({question.cluster for question in asked}) == 3
    assert [question.id for question in asked] == [str(number) for number in range(len(native))]


@pytest.mark.toolkit
@pytest.mark.slow
@needs_kit
def test_the_images_come_through_the_kit_unchanged(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    for question, native in zip(
        benchmark("POPE", "test", None, tmp_path).questions(),
        suite.pope("test", 3).questions(),
        strict=True,
    ):
        assert question.images[0].tobytes() == native.images[0].convert("RGB").tobytes()


@pytest.mark.usefixtures("kit")
def test_a_choice_is_read_as_natively_and_a_group_needs_all_rotations(tmp_path: Path) -> None:
    answers, report = graded("MMBench_DEV_EN+exact_matching", tmp_path)
    rows = {
        row.index: row
        for row in benchmark("MMBench_DEV_EN+exact_matching", "test", None, tmp_path).rows
    }
    others = []
    for grade in report.grades:
        options = [(letter, rows[grade.question].cells[letter]) for letter in "ABCD"]
        answer = answers.get(grade.question)
        natively = None if answer is None else choice.read_choice(answer, options)
        if grade.counts and (natively or "") != grade.read_as:
            others.append((int(grade.question) % 1_000_000, natively, grade.read_as))
    assert others == []
    groups = {
        int(grade.question): grade.counts["all_right"]
        for grade in report.grades
        if "groups" in grade.counts
    }
    assert groups == {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0, 5: 1.0}
    left_out = [grade.why for grade in report.grades if not grade.counts]
    assert (
        sorted(left_out)
        == ["no answer"] + ["no answer to 1 of the 4 rotations of its question"] * 3
    )
    assert report.values["accuracy_circular"] == pytest.approx(60.0)
    assert report.values["accuracy_circular"] == pytest.approx(
        100 * (report.values["vlmevalkit:Overall|dev"] or 0)
    )


@pytest.mark.usefixtures("kit")
def test_mme_has_points_as_the_kit_sums_them(tmp_path: Path) -> None:
    answers, report = graded("MME", tmp_path)
    right = {index: (answer == "Yes") == (int(index) % 2 == 0) for index, answer in answers.items()}
    points = [
        50.0 * (right[str(2 * n)] + right[str(2 * n + 1)])
        + 100.0 * (right[str(2 * n)] and right[str(2 * n + 1)])
        for n in range(14)
    ]
    assert report.values["perception"] == pytest.approx(sum(points[:10]))
    assert report.values["reasoning"] == pytest.approx(sum(points[10:]))
    assert report.values["vlmevalkit:perception"] == pytest.approx(report.values["perception"])


@pytest.mark.usefixtures("kit")
def test_amber_has_the_mean_of_its_categories(tmp_path: Path) -> None:
    _, report = graded("AMBER", tmp_path)
    apart = [
        report.values[f"accuracy_{kind}"] or 0.0 for kind in ("Existence", "Attribute", "Relation")
    ]
    assert report.values["average_accuracy"] == pytest.approx(sum(apart) / 3)
    assert report.values["vlmevalkit:Avg ACC"] == pytest.approx(report.values["average_accuracy"])


@pytest.mark.usefixtures("kit")
def test_words_are_compared_as_gqa_does(tmp_path: Path) -> None:
    _, report = graded("GQA_TestDev_Balanced", tmp_path)
    assert [grade.value for grade in report.grades] == [
        1.0,
        0.0,
        1.0,
        None,
    ]  # an article is an error here, natively it is none
    assert report.values["accuracy"] == 50.0


@pytest.mark.toolkit
@pytest.mark.slow
@needs_kit
def test_a_part_of_mme_has_no_totals_and_says_so(tmp_path: Path) -> None:
    CASES["MME"](tmp_path)
    opened = benchmark("MME", "test", 3, tmp_path)
    assert len({row.cluster for row in opened.rows}) == 3
    with pytest.warns(UserWarning, match="no totals for this part of MME"):
        report = opened.grade({row.index: "Yes" for row in opened.rows})
    assert report.values["accuracy"] == 50.0
    assert not [name for name in report.values if name.startswith("vlmevalkit:")]


@pytest.mark.toolkit
@pytest.mark.slow
@needs_kit
def test_the_synthetic_models_answers_are_worth_the_same_to_both(tmp_path: Path) -> None:
    from harness.engine.engine import Engine
    from harness.engine.load import load_model
    from harness.models.base_cards import BASES
    from methods.interface import Decoding, Prompt

    cases.vlmevalkit_pope(tmp_path, 6)
    opened = benchmark("POPE", "test", None, tmp_path)
    questions = list(opened.questions())
    engine = Engine(*load_model(BASES["synthetic"], "cpu"))
    prompts = [
        Prompt(key=question.id, text=question.text, image=question.images[0])
        for question in questions
    ]
    texts = [answer.text for answer in engine.generate(prompts, Decoding(max_new_tokens=8))]
    report = opened.grade(
        {question.id: text for question, text in zip(questions, texts, strict=True)}
    )
    native = suite.pope("test", 6)
    theirs = native.grade({item.id: text for item, text in zip(native.items(), texts, strict=True)})
    assert [grade.value for grade in report.grades] == [grade.value for grade in theirs.grades]
    assert theirs.unscored == 0
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        assert report.values[name] == pytest.approx(theirs.values[name])


@pytest.mark.usefixtures("played_back")
def test_an_answer_to_no_question_is_an_error(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    with pytest.raises(ValueError, match=r"no question '99' for an answer \(2 such answers\)"):
        benchmark("POPE", "test", None, tmp_path).grade({"99": "yes", "98": "no"})


@pytest.mark.usefixtures("played_back")
def test_without_answers_nothing_is_graded_and_all_is_counted(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    report = benchmark("POPE", "test", None, tmp_path).grade({})
    assert report.unscored == len(report.grades) == 18
    assert {grade.why for grade in report.grades} == {"no answer"}
    assert report.values["accuracy"] is None


@pytest.mark.usefixtures("played_back")
def test_totals_that_are_not_those_of_the_rows_are_an_error(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    opened = benchmark("POPE", "test", None, tmp_path)
    rows = {row.index: {"read_as": "Yes", "hit": 1.0} for row in opened.rows}
    reply = {
        "rows": rows,
        "seen": {},
        "trouble": "",
        "totals": [{"split": "Overall", "Overall": 12.5, "acc": 100.0}],
    }
    values = dict.fromkeys((metric.name for metric in opened.metrics), 100.0)
    with pytest.raises(
        ValueError, match=r"f1 of POPE is 100.0 by the kit's rows and 12.5 by its total Overall"
    ):
        opened._totals(reply, Report(values=values, grades=(), unscored=0), complete=True)


@pytest.mark.usefixtures("played_back")
def test_a_failing_kit_is_quoted(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    with pytest.raises(ValueError, match=r"failed at grade .no recorded reply to this grade"):
        benchmark("POPE", "test", None, tmp_path).grade({"0": "yes"})


@pytest.mark.usefixtures("played_back")
@pytest.mark.parametrize(
    ("name", "split", "limit", "why"),
    [
        ("Pope", "test", None, "not among those"),
        ("POPE", "dev", None, "has no 'dev' split"),
        ("POPE", "test", 0, "limit is 0 images"),
        ("POPE+gpt-4o", "test", None, "needs no judge"),
        ("MMBench_DEV_EN", "test", None, "say which: MMBench_DEV_EN.exact_matching"),
        ("MMBench_DEV_EN+gpt-4o-mini", "test", None, "needs the judge's key in OPENAI_API_KEY"),
        ("MMStar", "test", None, "asks a judge"),
    ],
)
def test_what_cannot_be_asked_for(
    name: str,
    split: str,
    limit: int | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in via_vlmevalkit.KEYS:
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(ValueError, match=why):
        benchmark(name, split, limit, tmp_path)


def test_a_kit_that_is_not_there_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(
        ValueError,
        match=r"is no file; make its environment with: python -m nox -s toolkit_vlmevalkit",
    ):
        benchmark("POPE", "test", None, tmp_path)


@pytest.mark.toolkit
@pytest.mark.slow
@needs_kit
def test_a_judge_that_does_not_answer_stops_the_grading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kit itself would warn and go on with exact matching."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1/chat/completions")
    answers = CASES["MMBench_DEV_EN+exact_matching"](tmp_path)
    with pytest.raises(ValueError, match="the judge gpt-4o-mini does not answer"):
        benchmark("MMBench_DEV_EN+gpt-4o-mini", "test", None, tmp_path).grade(answers)


@pytest.mark.usefixtures("played_back")
def test_a_limit_takes_whole_images_and_a_smaller_one_some_of_them(tmp_path: Path) -> None:
    CASES["POPE"](tmp_path)
    of = {
        limit: {row.index for row in benchmark("POPE", "test", limit, tmp_path).rows}
        for limit in (1, 2, None)
    }
    assert [len(of[limit]) for limit in (1, 2, None)] == [6, 12, 18]
    assert of[1] < of[2] < of[None]
