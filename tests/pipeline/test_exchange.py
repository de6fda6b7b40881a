"""The three file steps as commands: restartable, apart from each other, and patient with other
people's answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.catalogue import open_benchmarks
from harness.artifacts.results_folder import read_jsonl
from harness.cli import main as cli
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.pipeline import exchange, foreign_answers
from tests.edited_files import without_hashes
from tests.pipeline.answer_files import files, ids, save_answers
from tests.tiny_models import tiny_llava
from tests.toy_method import Words, save_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SELFSIGHT_JUDGE", raising=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exchange") / "questions"
    exchange.export(open_benchmarks(["synthetic_pope"], "test", 2)[0], out, split="test", limit=2)
    return out


def grade(exported: Path, answers: Path, out: Path) -> str:
    return exchange.grade(open_benchmarks(["synthetic_pope"], "test", 2)[0], exported, answers, out)


def test_export_answer_and_grade_and_do_nothing_again(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "tiny"))
    out = {name: str(tmp_path / name) for name in ("questions", "answers", "grades")}
    commands = [
        ["export", "synthetic_pope", "--limit", "2", "--out", out["questions"]],
        ["answer", out["questions"], "--base", "tiny", "--out", out["answers"]],
        ["grade", out["questions"], out["answers"], "--out", out["grades"]],
    ]
    for command in commands:
        assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert f"{len(ids(exported))} questions of synthetic_pope on 2 images." in first
    assert files(tmp_path / "questions")["questions.jsonl"] == files(exported)["questions.jsonl"]
    frame = pd.read_parquet(tmp_path / "grades" / "grades.parquet")
    assert list(frame["question"]) == ids(exported)
    values = json.loads((tmp_path / "grades" / "report.json").read_text())["values"]
    assert set(values) == {
        metric.name for metric in open_benchmarks(["synthetic_pope"], "test", 2)[0].metrics
    }
    before = files(tmp_path)
    for command in commands:
        assert cli.main(command) == 0
    assert capsys.readouterr().out == first
    assert files(tmp_path) == before
    # The same weights elsewhere are the same model; others are not, and their answers are not mixed
    # with the base's.
    shutil.copytree(tmp_path / "tiny", tmp_path / "copy")
    assert cli.main([*commands[1], "--weights", str(tmp_path / "copy")]) == 0
    tiny_llava(seed=1)[0].save_pretrained(tmp_path / "trained")
    assert cli.main([*commands[1], "--weights", str(tmp_path / "trained")]) == 2
    assert "answers holds results of other settings (model:" in capsys.readouterr().err
    assert (
        cli.main(
            [*commands[1][:-1], str(tmp_path / "theirs"), "--weights", str(tmp_path / "trained")]
        )
        == 0
    )
    assert files(tmp_path / "theirs")["answers.jsonl"] != before["answers/answers.jsonl"]


@pytest.mark.equality
def test_an_answering_that_was_cut_goes_on(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.pipeline import tasks

    card = save_base(tmp_path / "tiny")
    monkeypatch.setattr(tasks, "QUESTIONS_A_SHARD", 5)
    exchange.answer(exported, card, None, tmp_path / "whole")

    def cut(_what: str, done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exchange.answer(exported, card, None, tmp_path / "cut", progress=cut)
    assert not (tmp_path / "cut" / "answers.jsonl").exists()
    with pytest.raises(UserError, match="holds no finished answers"):
        grade(exported, tmp_path / "cut", tmp_path / "grades")
    shard = (tmp_path / "cut" / "shards" / "00000.jsonl").read_bytes()
    exchange.answer(exported, card, None, tmp_path / "cut")
    assert (tmp_path / "cut" / "shards" / "00000.jsonl").read_bytes() == shard
    assert files(tmp_path / "cut")["answers.jsonl"] == files(tmp_path / "whole")["answers.jsonl"]


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "trl", "peft", "accelerate"):
    sys.modules[name] = None
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
WITHOUT_BENCHMARKS = """
import json, sys
from pathlib import Path
from harness.pipeline import exchange, runner
from tests.toy_method import card_of
exchange.answer(Path(sys.argv[1]), card_of(Path(sys.argv[2])), None, Path(sys.argv[3]))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("benchmarks"))))
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.thorough
def test_exporting_and_grading_need_no_torch(exported: Path, tmp_path: Path) -> None:
    done = child(
        WITHOUT_TORCH, "export", "synthetic_pope", "--limit", "2", "--out", tmp_path / "questions"
    )
    assert done.returncode == 0
    assert all("export" in line for line in done.stderr.splitlines())  # its progress
    assert files(tmp_path / "questions")["questions.jsonl"] == files(exported)["questions.jsonl"]
    answers = save_answers(
        tmp_path / "answers.jsonl", [{"id": id, "answer": "yes"} for id in ids(exported)]
    )
    done = child(WITHOUT_TORCH, "grade", exported, answers, "--out", tmp_path / "grades")
    assert (done.returncode, done.stderr) == (0, "")
    assert "yes_ratio                    100.00 %" in done.stdout
    done = child(
        WITHOUT_TORCH, "grade", exported, tmp_path / "nowhere.jsonl", "--out", tmp_path / "grades"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.thorough
def test_answering_needs_nothing_of_the_benchmark_but_its_export(
    exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "elsewhere")
    save_base(tmp_path / "tiny")
    done = child(
        WITHOUT_BENCHMARKS, tmp_path / "elsewhere", tmp_path / "tiny", tmp_path / "answers"
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not {
        name
        for name in loaded
        if name.split(".")[1:2] in (["catalogue"], ["pope"], ["synthetic"], ["chair"])
    }, loaded


def test_answers_of_another_model_are_taken_and_what_is_strange_is_counted(
    exported: Path, tmp_path: Path
) -> None:
    first_id, *other_ids = ids(exported)
    rows = [
        {"id": id, "answer": "no", "model": "theirs", "extra": [1]}
        for id in reversed(other_ids[2:])
    ]
    rows += [
        {"id": first_id, "answer": "yes\u2028\x07", "model": "theirs"},
        {"id": other_ids[0], "answer": " ", "model": "theirs"},
    ]
    path = save_answers(tmp_path / "a.jsonl", ["", *rows])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    message = grade(exported, path, tmp_path / "grades")
    assert "2 unscored (1 without an answer, 1 empty, 1 with control characters)." in message
    stored_rows = read_jsonl(tmp_path / "grades" / "answers" / "answers.jsonl")
    assert [row["id"] for row in stored_rows] == [id for id in ids(exported) if id != other_ids[1]]
    assert stored_rows[0]["answer"] == "yes\u2028\x07"
    assert (
        json.loads((tmp_path / "grades" / "answers" / "identity.json").read_text())["said_by"]
        == "theirs"
    )
    frame = pd.read_parquet(tmp_path / "grades" / "grades.parquet").set_index("question")
    assert frame.loc[other_ids[1], "why"] == "no answer"
    assert frame.loc[other_ids[0], "why"] == "empty answer"
    assert frame["value"].isna().sum() == 2
    with pytest.raises(UserError, match=r"answers: .* stored, .* requested"):
        grade(exported, save_answers(path, [{"id": first_id, "answer": "no"}]), tmp_path / "grades")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
        ({"answer": "yes"}, "line 2 has no 'id'"),
        ({"id": "ID"}, "line 2 has no 'answer'"),
        ({"id": "ID", "answer": None}, "line 2 has no text as its 'answer'"),
        ({"id": "ID", "answer": 1}, "line 2 has a int as its 'answer'"),
        ({"id": "ID", "answer": "\ud83d"}, "half a character"),
        ({"id": "FIRST", "answer": "no"}, "line 2 answers '.*' again, after line 1"),
        (
            {"id": "elsewhere", "answer": "no"},
            "line 2 answers 'elsewhere', which is none of these questions",
        ),
        ({"id": "ID", "answer": "no", "model": "b"}, "line 2: the model is 'b', before it was 'a'"),
    ],
)
def test_a_wrong_line_is_named(line: Any, words: str, exported: Path, tmp_path: Path) -> None:
    first, second, *_ = ids(exported)
    if isinstance(line, dict):
        line = {
            key: {"ID": second, "FIRST": first}.get(str(value), value)
            for key, value in line.items()
        }
    path = save_answers(
        tmp_path / "answers.jsonl", [{"id": first, "answer": "yes", "model": "a"}, line]
    )
    with pytest.raises(UserError, match=words) as caught:
        grade(exported, path, tmp_path / "grades")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "grades" / "grades.parquet").exists()


def test_a_wrong_file_is_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        grade(exported, tmp_path / "nowhere.jsonl", tmp_path / "grades")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        grade(exported, tmp_path / "a.jsonl", tmp_path / "grades")
    with pytest.raises(UserError, match="holds no answer"):
        grade(exported, save_answers(tmp_path / "a.jsonl", []), tmp_path / "grades")
    with pytest.raises(UserError, match=r"line 5 is not JSON; and 3 more\."):
        grade(exported, save_answers(tmp_path / "a.jsonl", ["x"] * 8), tmp_path / "grades")
    with pytest.raises(UserError, match="holds no finished export"):
        grade(tmp_path, tmp_path / "a.jsonl", tmp_path / "grades")


def test_answers_are_graded_with_the_questions_they_answer(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    card = save_base(tmp_path / "tiny")
    exchange.answer(exported, card, None, folder)
    other = tmp_path / "other"
    exchange.export(open_benchmarks(["synthetic_pope"], "test", 1)[0], other, split="test", limit=1)
    with pytest.raises(
        UserError, match=r"answers other questions \(its identity.json differs in questions\)"
    ):
        exchange.grade(
            open_benchmarks(["synthetic_pope"], "test", 1)[0], other, folder, tmp_path / "grades"
        )
    path = folder / "answers.jsonl"
    rows = read_jsonl(path)
    save_answers(path, [rows[0], rows[1] | {"model": "another"}, *rows[2:]])
    with pytest.raises(UserError, match="was changed after its stage was finished"):
        grade(exported, folder, tmp_path / "grades")
    without_hashes(folder)
    with pytest.raises(
        UserError, match=r"line 2: the model is 'another', but identity\.json beside it says 'tiny'"
    ):
        grade(exported, folder, tmp_path / "grades")
    identity = json.loads((exported / "identity.json").read_text())
    without_hashes(shutil.copytree(exported, tmp_path / "older"))
    (tmp_path / "older" / "identity.json").write_text(
        json.dumps(identity | {"version": "world-0.9 pope-1"})
    )
    with pytest.raises(
        UserError,
        match=(
            r"in version 'world-0.9 pope-1', but this is version 'world-.* pope-.*'; export and"
            r" answer"
        ),
    ):
        grade(tmp_path / "older", folder, tmp_path / "grades")
    (tmp_path / "older" / "identity.json").write_text(
        json.dumps(identity | {"version": f"{identity['version']}.older-grader"})
    )
    save_answers(path, rows)
    assert "synthetic_pope" in grade(
        tmp_path / "older", folder, tmp_path / "grades"
    )  # another grader of the same questions


def test_a_picture_s_name_leads_nowhere_else(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    without_hashes(shutil.copytree(exported, folder))
    row = json.loads((folder / "questions.jsonl").read_text().splitlines()[0])
    for change in (
        {"images": ["../../secret.png"]},
        {"images": [3]},
        {"images": ["."]},
        {"max_new_tokens": "8"},
    ):
        (folder / "questions.jsonl").write_text(json.dumps(row | change) + "\n")
        with pytest.raises(UserError, match="line 1"):
            exchange.read_export(folder)


def test_an_export_of_other_settings_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "synthetic_pope", "--limit", "3", "--out", str(exported)]) == 2
    assert "limit: 2 stored, 3 requested" in capsys.readouterr().err
    for wrong, words in (
        (["synthetic_popp"], "did you mean 'synthetic_pope'"),
        (["synthetic_pope", "--limit", "0"], "--limit is 0"),
    ):
        assert cli.main(["export", *wrong, "--out", str(tmp_path / "q")]) == 2
        assert words in capsys.readouterr().err
    exchange.export(Words(), tmp_path / "words", split="test", limit=None)
    assert (
        cli.main(["grade", str(tmp_path / "words"), str(exported), "--out", str(tmp_path / "g")])
        == 2
    )
    assert "no benchmark 'words'" in capsys.readouterr().err


def test_a_prompt_that_was_too_long_is_a_missing_answer(exported: Path, tmp_path: Path) -> None:
    first, *other_ids = ids(exported)
    rows: list[dict[str, str]] = [{"id": id, "answer": "yes"} for id in other_ids]
    rows.append({"id": first, "answer": "", "unanswered": "the prompt is too long"})
    answers_read = foreign_answers.read_for_grading(
        open_benchmarks(["synthetic_pope"], "test", 2)[0],
        exported,
        save_answers(tmp_path / "answers.jsonl", rows),
    )
    assert answers_read.counts["missing"] == 1
    assert answers_read.counts["empty"] == 0
    assert first not in {row["id"] for row in answers_read.rows}
