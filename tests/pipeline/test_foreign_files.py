"""Folders and files of an exchange that somebody else made or edited: one sentence each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.catalogue import open_benchmarks
from harness.cli import main as cli
from harness.errors import UserError
from harness.pipeline import exchange
from tests.edited_files import without_hashes
from tests.pipeline.answer_files import ids, save_answers

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("foreign") / "questions"
    exchange.export(open_benchmarks(["synthetic_pope"], "test", 2)[0], out, split="test", limit=2)
    return out


@pytest.fixture
def questions(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "q")
    without_hashes(tmp_path / "q")
    return tmp_path / "q"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"benchmark": None}, "no usable benchmark"),
        ({"benchmark": 3}, "no usable benchmark"),
        ({"version": None}, "no usable version"),
        ({"version": "\ud83d"}, "no usable version"),
        ({"split": "train"}, r"no usable split \('train'\)"),
        ({"limit": 0}, r"no usable limit \(0\)"),
        ({"limit": True}, "no usable limit"),
        ({"limit": "2"}, "no usable limit"),
    ],
)
def test_an_identity_without_what_grading_reads_is_named(
    change: dict[str, Any], words: str, questions: Path
) -> None:
    path = questions / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"identity.json has {words}.*export again"):
        exchange.read_export(questions)


@pytest.mark.parametrize("name", ["benchmark", "version", "split", "limit"])
def test_an_identity_that_lacks_a_field_is_named(name: str, questions: Path) -> None:
    path = questions / "identity.json"
    identity = json.loads(path.read_text())
    del identity[name]
    path.write_text(json.dumps(identity))
    with pytest.raises(UserError, match=rf"identity.json has no usable {name} \(None\)"):
        exchange.read_export(questions)


@pytest.mark.parametrize(
    "change",
    [
        *({"max_new_tokens": value} for value in (0, -5, True, 2.0, 10**400)),
        *({name: "\ud83d"} for name in ("id", "text", "cluster")),
        {"id": None},
    ],
)
def test_a_question_that_cannot_be_asked_is_named(change: dict[str, Any], questions: Path) -> None:
    path = questions / "questions.jsonl"
    first, *other_lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *other_lines]) + "\n")
    with pytest.raises(UserError, match=r"line 1.*export again"):
        exchange.read_export(questions)


def test_a_question_that_stands_twice_is_named(questions: Path) -> None:
    path = questions / "questions.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{first}\n{first}\n")
    with pytest.raises(UserError, match=r"line 2: the id .* is there already"):
        exchange.read_export(questions)


def test_half_a_character_in_a_model_s_name_is_named(questions: Path, tmp_path: Path) -> None:
    (benchmark,) = open_benchmarks(["synthetic_pope"], "test", 2)
    row = {"id": ids(questions)[0], "answer": "yes", "model": "\ud83d"}
    answers = save_answers(tmp_path / "a.jsonl", [row])
    with pytest.raises(UserError, match="line 1 has half a character"):
        exchange.grade(benchmark, questions, answers, tmp_path / "g")


def _loop(path: Path) -> None:
    path.symlink_to(path)


PLACES: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": _loop,
    "deep": lambda path: path.write_text(DEEP) and None,
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", ["identity.json", "questions.jsonl", "answers.jsonl"])
def test_what_is_no_file_is_one_sentence(
    kind: str, name: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = save_answers(tmp_path / "answers.jsonl", [{"id": ids(questions)[0], "answer": "no"}])
    path = answers if name == "answers.jsonl" else questions / name
    path.unlink()
    PLACES[kind](path)
    command = ["grade", str(questions), str(answers), "--out", str(tmp_path / "g")]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path if kind == "deep" else path.parent) in said
