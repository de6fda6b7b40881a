"""``answer --server``: a model behind an HTTP server answers exported questions."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.catalogue import open_benchmarks
from harness.cli import main as cli
from harness.pipeline import exchange, foreign_answers
from tests.benchmarks.fake_judge import MODEL, Answer, refused, said, serving
from tests.pipeline.answer_files import files, ids

ROOT = Path(__file__).resolve().parents[2]
POPE = "synthetic_pope"
KEY = "sk-test-0123456789"
LONG = 120.0

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("server") / "questions"
    exchange.export(open_benchmarks([POPE], "test", 2)[0], out, split="test", limit=2)
    return out


@pytest.fixture
def run(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command with a settings file for quick tests: exit code, stdout, stderr."""

    def call(url: str, *, out: str = "a", **settings: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        server = save_settings(tmp_path, url, **settings)
        code = cli.main(
            ["answer", str(questions), "--server", server, "--out", str(tmp_path / out)]
        )
        said_by = capsys.readouterr()
        return code, said_by.out, said_by.err

    return call


def save_settings(folder: Path, url: str, **settings: Any) -> str:
    quick = {"requests_per_minute": 1e6, "backoff": 0.001, "retries": 2, "key_variable": None}
    path = folder / "server.json"
    path.write_text(json.dumps({"base_url": url, "model": MODEL, **quick, **settings}))
    return str(path)


def text_of(content: Any) -> str:
    assert [item["type"] for item in content] == ["image_url", "text"]
    return str(content[1]["text"])


def yes(_content: Any, _before: int) -> Answer:
    return said("yes")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_questions_and_images_are_sent_and_the_answers_are_graded_and_a_row(
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(yes) as server:
        command = ["answer", str(questions), "--server", save_settings(tmp_path, server.url)]
        settings = json.loads((tmp_path / "server.json").read_text())
        settings["key_variable"] = "OPENAI_API_KEY"
        (tmp_path / "server.json").write_text(json.dumps(settings))
        assert cli.main([*command, "--out", str(tmp_path / "a" / POPE)]) == 0
    exported = [
        json.loads(line) for line in (questions / "questions.jsonl").read_text().splitlines()
    ]
    expected = {(row["text"], row["images"][0], row["max_new_tokens"]) for row in exported}
    sent = set()
    names = {
        base64.b64encode(path.read_bytes()).decode(): path.name
        for path in (questions / "images").iterdir()
    }
    for body in server.asked:
        image, text = body["messages"][0]["content"]
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        sent.add((text["text"], names[data], body["max_tokens"]))
        assert (body["temperature"], body["model"]) == (0, MODEL)
    assert sent == expected
    assert set(server.keys) == {f"Bearer {KEY}"}
    said_by = capsys.readouterr()
    everything = b"".join(files(tmp_path / "a").values()).decode() + said_by.out + said_by.err
    assert KEY not in everything
    assert [row["id"] for row in rows(tmp_path / "a" / POPE)] == ids(questions)
    graded = ["grade", str(questions), str(tmp_path / "a" / POPE), "--out", str(tmp_path / "g")]
    assert cli.main(graded) == 0
    assert "yes_ratio                    100.00 %" in capsys.readouterr().out
    answers_read = foreign_answers.of_row(tmp_path / "a", POPE, ids(questions))
    assert answers_read.identity["said_by"] == MODEL
    assert answers_read.counts["missing"] == 0


def test_a_busy_server_and_a_malformed_reply_are_asked_again(run: Run, tmp_path: Path) -> None:
    def script(content: Any, before: int) -> Answer:
        if before == 0 and "ball" in text_of(content):
            return refused(429, "slow down", Retry_After="0.01")
        if before == 0:
            return Answer(body=b'{"choices": [{"message": ')
        return said("no")

    with serving(script) as server:
        code, out, _ = run(server.url)
    assert code == 0
    assert len(server.asked) == 2 * len(rows(tmp_path / "a"))
    assert {row["answer"] for row in rows(tmp_path / "a")} == {"no"}
    assert out == f"{tmp_path / 'a'}: {len(rows(tmp_path / 'a'))} answers to {POPE}.\n"


def test_declined_questions_stay_unscored_with_their_reason(
    run: Run, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = json.loads((questions / "questions.jsonl").read_text().splitlines()[0])["text"]
    kinds = {0: refused(400, "not allowed", "content_filter"), 1: said(None)}
    texts: list[str] = []

    def script(content: Any, _before: int) -> Answer:
        text = text_of(content)
        if text not in texts:
            texts.append(text)
        return kinds.get(texts.index(text), said("yes"))

    with serving(script) as server:
        code, out, _ = run(server.url, concurrency=1)
    declined = [row for row in rows(tmp_path / "a") if "unanswered" in row]
    assert (code, f", {len(declined)} declined." in out) == (0, True)
    assert {row["unanswered"] for row in declined} == {
        "the server's filter withheld the answer",
        "the model gave no text",
    }
    assert first == texts[0]
    graded = ["grade", str(questions), str(tmp_path / "a"), "--out", str(tmp_path / "g")]
    assert cli.main(graded) == 0
    assert (
        f"{len(declined)} unscored ({len(declined)} without an answer)" in capsys.readouterr().out
    )


def test_a_server_that_cannot_be_used_is_one_sentence_and_what_was_answered_is_kept(
    run: Run, questions: Path, tmp_path: Path
) -> None:
    good = 3

    def script(_content: Any, _before: int) -> Answer:
        return said("yes") if len(server.asked) <= good else Answer(body=b"<html>")

    with serving(script) as server:
        code, _, err = run(server.url, concurrency=1)
    assert code == 2
    assert "The server at" in err
    assert "gave no usable answer in 3 tries; the last: no chat completion: <html>" in err
    assert f"{good} replies of this run are kept in" in err
    assert not (tmp_path / "a" / "DONE").exists()
    with serving(yes) as server:
        assert run(server.url)[0] == 0
    assert len(server.asked) == len(ids(questions)) - good
    with serving(yes) as server:  # done: nothing is asked
        assert run(server.url)[0] == 0
        assert server.asked == []
    with serving(lambda *_: said("yes", model="another")) as server:
        code, _, err = run(server.url, out="b")
    assert (code, "pinned to 'fake-judge-1', but it answers as 'another'" in err) == (2, True)


def test_killed_in_the_middle_it_continues_to_the_same_bytes(
    run: Run, questions: Path, tmp_path: Path
) -> None:
    def script(_content: Any, _before: int) -> Answer:
        if len(server.asked) == 5:
            child.send_signal(signal.SIGKILL)
            child.wait(LONG)
        return said("yes")

    with serving(script) as server:
        settings = save_settings(tmp_path, server.url, concurrency=1)
        words = ["answer", str(questions), "--server", settings, "--out", str(tmp_path / "a")]
        child = subprocess.Popen(
            [sys.executable, "-m", "harness", *words], cwd=ROOT, env=dict(os.environ)
        )
        assert child.wait(LONG) == -signal.SIGKILL
    reply_count = (tmp_path / "a" / "replies.jsonl").read_text().count("\n")
    assert reply_count == 4
    with serving(yes) as server:
        assert run(server.url)[0] == 0
        assert len(server.asked) == len(ids(questions)) - reply_count
        assert run(server.url, out="whole")[0] == 0
    undisturbed = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--server", "http://127.0.0.1:9/v1"], "needs the model's name: --base NAME"),
        (
            ["--server", "http://a:b@c/v1", "--base", "m"],
            "put the key into an environment variable",
        ),
        (["--server", "nowhere.json"], "The settings nowhere.json cannot be read"),
        (["--server", "nowhere.json", "--base", "m"], "leave --base out"),
        (
            ["--server", "http://c/v1", "--base", "m", "--weights", "w"],
            "--weights is for a model on",
        ),
        ([], "Give the model that is to answer: --base NAME"),
    ],
)
def test_wrong_options_are_one_sentence(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["answer", str(tmp_path / "q"), "--out", str(tmp_path / "a")]
    assert cli.main([*fixed, *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
