"""Another program's answers as a row: matched by id in three formats, marked, and never a star."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.catalogue import open_benchmarks
from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Stage, read_json, write_json
from harness.cli import main as cli
from harness.errors import UserError
from harness.models.base_cards import BASES, BaseCard
from harness.pipeline import answer_formats, exchange, foreign_answers
from harness.reporting.difference import between
from tests.pipeline.answer_files import ids, save_answers

LIMIT = 3
POPE = "synthetic_pope"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported questions of a larger limit than the study's."""
    out = tmp_path_factory.mktemp("given") / "questions"
    benchmark = open_benchmarks([POPE], "test", LIMIT + 1)[0]
    exchange.export(benchmark, out, split="test", limit=LIMIT + 1)
    return out


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """The ids of the study's questions."""
    return [question.id for question in open_benchmarks([POPE], "test", LIMIT)[0].questions()]


@pytest.fixture
def run(
    card: BaseCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    monkeypatch.setitem(BASES, "tiny", card)
    fixed = ["--base", "tiny", "--only", "untrained", "--benchmarks", POPE, "--jobs", "1"]
    fixed += ["--limit", str(LIMIT), "--out", str(tmp_path / "out")]

    def call(*rows: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["run", "compare", *fixed, *(f"--row={row}" for row in rows)])
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return call


def save(folder: Path, name: str, rows: Sequence[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_answers(folder / name, list(rows))
    return folder


def in_lines(format: str, answers: dict[str, str]) -> list[dict[str, Any]]:
    if format == "llava":
        return [
            {"question_id": id, "text": text, "prompt": "?", "model_id": "llava-v1.6"}
            for id, text in answers.items()
        ]
    if format == "lmms-eval":
        return [
            {"doc_id": number, "doc": {"question_id": id}, "filtered_resps": [text], "resps": []}
            for number, (id, text) in enumerate(answers.items())
        ]
    return [{"id": id, "answer": text} for id, text in answers.items()]


@pytest.mark.thorough
def test_rows_in_three_formats_have_the_same_numbers_and_are_marked(
    run: Call, asked: list[str], tmp_path: Path
) -> None:
    answers = {id: "yes" if number % 3 else "no" for number, id in enumerate(asked)}
    folders = {
        "ours": (f"{POPE}.jsonl", "ours"),
        "llava": (f"{POPE}.jsonl", "llava"),
        "lmms": (f"20260101_000000_samples_{POPE}.jsonl", "lmms-eval"),
    }
    for label, (name, format) in folders.items():
        save(tmp_path / label, name, in_lines(format, answers))
    code, out, _ = run(*(f"{label}=answers:{tmp_path / label}" for label in folders))
    assert code == 0
    assert "llava (not trained here)" in out
    cells = pd.read_csv(tmp_path / "out" / "table.csv")
    values = [cells.loc[cells["label"] == label, "value"].tolist() for label in folders]
    assert values[0] == values[1] == values[2]
    yes = cells[(cells["label"] == "ours") & (cells["metric"] == "yes_ratio")]["value"].item()
    assert yes == pytest.approx(100 * list(answers.values()).count("yes") / len(asked))
    given = cells[cells["label"] != "untrained"]
    assert set(given["about"]) <= {"training", "none"}
    assert not set(given["verdict"]) & {"better", "worse"}
    table = (tmp_path / "out" / "table.md").read_text().replace("\\", "")
    assert "Answers of other programs, read from files (ours, llava, lmms)" in table
    assert f"synthetic POPE {len(asked)} of {len(asked)} by llava-v1.6" in table
    assert "On another base" not in table
    # A changed file is other results.
    save(tmp_path / "ours", f"{POPE}.jsonl", in_lines("ours", dict.fromkeys(asked, "yes")))
    code, _, err = run(*(f"{label}=answers:{tmp_path / label}" for label in folders))
    assert (code, "holds results of other settings" in err) == (2, True)


@pytest.mark.thorough
def test_the_answers_count_and_not_their_place_or_format(
    run: Call, asked: list[str], tmp_path: Path
) -> None:
    answers = dict.fromkeys(asked, "yes")
    first = save(tmp_path / "first", f"{POPE}.jsonl", in_lines("ours", answers))
    assert run(f"theirs=answers:{first}")[0] == 0
    out_folder, copy = tmp_path / "out", tmp_path / "copy"
    shutil.copytree(out_folder, copy)
    other = save(tmp_path / "other", f"1_samples_{POPE}.jsonl", in_lines("lmms-eval", answers))
    code, out, _ = run(f"theirs=answers:{other}")
    assert (code, "nothing left to do" in out) == (0, True)
    assert "Settings that differ: none." in between(copy, out_folder)
    stages = out_folder / "runs" / "theirs" / "seed0" / "round0"
    answer, grade = (stages / kind / POPE for kind in ("answers", "grades"))
    # As earlier versions wrote it.
    placed = {**read_json(answer / "identity.json"), "base": f"answers:{first}"}
    of_placed = {**read_json(grade / "identity.json"), "answers": fingerprint(placed)}
    for folder, identity in ((answer, placed), (grade, of_placed)):
        write_json(folder / "identity.json", identity)
        Stage(folder, identity).finish()
    code, out, _ = run(f"theirs=answers:{other}")
    assert (code, "nothing left to do" in out) == (0, True)


@pytest.mark.thorough
def test_missing_answers_are_counted_and_unscored_and_those_beyond_the_limit_left_out(
    run: Call, questions: Path, asked: list[str], tmp_path: Path
) -> None:
    every = ids(questions)
    assert set(asked) < set(every)
    answers = {id: "yes" for id in every if id not in asked[:2]}
    save(tmp_path / "theirs", f"{POPE}.jsonl", in_lines("ours", answers))
    code, out, _ = run(f"GPT-4o=answers:{tmp_path / 'theirs'}")
    assert code == 0
    assert (
        f"Row GPT-4o: 2 of {len(asked)} answers to {POPE} are missing, which count as unscored;"
        f" {len(every) - len(asked)} answers to {POPE} are beyond --limit and unused." in out
    )
    cells = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(cells.loc[cells["label"] == "GPT-4o", "unscored"]) == {2}
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"GPT-4o synthetic POPE {len(asked) - 2} of {len(asked)}, " in table


def test_what_cannot_be_matched_is_one_sentence_before_any_work(
    run: Call, asked: list[str], tmp_path: Path
) -> None:
    def refused(row: str) -> str:
        code, _, err = run(f"theirs=answers:{row}")
        assert code == 2
        assert not (tmp_path / "out").exists()
        return err

    assert "there is no folder" in refused(str(tmp_path / "nowhere"))
    assert "there is no folder ''" in refused("")
    empty = save(tmp_path / "empty", "mme.jsonl", [])
    assert f"has no answers to {POPE}; it must hold {POPE}/" in refused(str(empty))
    lines = in_lines("llava", dict.fromkeys(asked, "yes"))
    twice = save(tmp_path / "twice", f"{POPE}.jsonl", [*lines, lines[0]])
    assert f"line {len(lines) + 1} answers {asked[0]!r} again, after line 1" in refused(str(twice))
    both = save(tmp_path / "both", f"{POPE}.jsonl", lines)
    save(both, f"1_samples_{POPE}.jsonl", lines)
    assert f"has the answers to {POPE} 2 times" in refused(str(both))
    mixed = [*lines[:-1], {**lines[-1], "model_id": "another"}]
    two = save(tmp_path / "two", f"{POPE}.jsonl", mixed)
    assert "the model is 'another', before it was 'llava-v1.6'" in refused(str(two))


def test_answers_to_other_questions_are_refused_where_all_questions_are_asked(
    questions: Path, asked: list[str], tmp_path: Path
) -> None:
    folder = save(
        tmp_path / "a", f"{POPE}.jsonl", in_lines("ours", dict.fromkeys(ids(questions), "no"))
    )
    with pytest.raises(UserError, match="which is none of these questions"):
        foreign_answers.of_row(folder, POPE, asked)
    assert foreign_answers.of_row(folder, POPE, asked, limited=True).counts["missing"] == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"question_id": 7, "text": "yes"}, ["7"]),
        ({"question_id": "a/7", "text": ""}, ["a/7"]),
        (
            {
                "doc_id": 3,
                "doc": {"question_id": "7", "category": "popular"},
                "filtered_resps": [["a"]],
            },
            ["000003", "7", "popular/7"],
        ),
        ({"doc_id": 3, "filtered_resps": "yes"}, ["000003"]),
    ],
)
def test_the_ids_that_a_line_may_mean(line: dict[str, Any], expected: list[str]) -> None:
    row, why = answer_formats.parse(json.dumps(line))
    assert (row and row["ids"], why) == (expected, "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"question_id": 7}, "has no 'text'"),
        ({"question_id": 7.5, "text": "yes"}, "has a float as its 'question_id'"),
        ({"question_id": 7, "text": None}, "has no text as its 'text'"),
        ({"doc_id": 7, "filtered_resps": ["a", "b"]}, "has a list as its 'filtered_resps'"),
        ({"doc_id": True, "filtered_resps": ["a"]}, "has a bool as its 'doc_id'"),
        ({"id": 7, "answer": "yes"}, "has a int as its 'id'"),
        ({"question_id": "\ud83d", "text": "a"}, "has half a character"),
    ],
)
def test_a_line_that_is_no_answer(line: dict[str, Any], why: str) -> None:
    assert answer_formats.parse(json.dumps(line))[1].startswith(why)


def test_a_question_that_is_not_asked_takes_no_other_questions_place(tmp_path: Path) -> None:
    lines = [
        {"doc_id": number, "doc": {"question_id": number, "id": number - 1}, "filtered_resps": text}
        for number, text in ((7, "yes"), (9, "no"))
    ]
    path = save(tmp_path / "theirs", "a.jsonl", lines) / "a.jsonl"
    read = foreign_answers.read_file(path, {"7", "8"}, extras=True)
    assert (dict(read.rows), read.extra) == ({"7": "yes"}, 1)


def test_an_answer_that_says_it_is_not_unanswered_counts(tmp_path: Path) -> None:
    lines = [{"id": "a", "answer": "yes", "unanswered": False}]
    path = save(tmp_path / "theirs", "a.jsonl", lines) / "a.jsonl"
    assert dict(foreign_answers.read_file(path, {"a"}).rows) == {"a": "yes"}
