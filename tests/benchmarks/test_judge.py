"""The judge, against a server on this machine: pacing, retries, recording, replay; and no rule
replaces it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chat, judgements
from benchmarks.judge import Judge, JudgeRequest, cost_in_words
from benchmarks.judge_settings import Settings
from tests.benchmarks.fake_judge import MODEL, Answer, Script, refused, said, serving

KEY = "sk-very-secret-0123456789"
ROOT = Path(__file__).resolve().parents[2]
LONG = 300.0  # seconds, for waits that should not fail: far more than a busy machine needs


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)


def judge_of(url: str, folder: Path, lines: list[str] | None = None, **settings: Any) -> Judge:
    given: dict[str, Any] = {
        "model": MODEL,
        "key_variable": "FAKE_KEY",
        "requests_per_minute": 1e6,
        "backoff": 0.001,
        "timeout": LONG,
    }
    tell = (lambda _line: None) if lines is None else lines.append
    return Judge(settings=Settings(base_url=url, **(given | settings)), folder=folder, tell=tell)


def asks(*names: str) -> list[JudgeRequest]:
    return [JudgeRequest(about=name, prompt=f"judge {name}") for name in names]


def echo(prompt: str, _before: int) -> Answer:
    return said(f"about: {prompt}")


def flaky(*first: Answer) -> Script:
    """These answers first, to each prompt, and then the right one."""
    return lambda prompt, before: first[before] if before < len(first) else echo(prompt, before)


def texts(replies: Sequence[Sequence[chat.Reply]]) -> list[list[str]]:
    return [[reply.text for reply in some] for some in replies]


def test_what_is_asked_is_recorded_and_replayed(tmp_path: Path) -> None:
    lines: list[str] = []
    with serving(echo) as server:
        judge = judge_of(server.url, tmp_path, lines, repeats=2, price_in=10.0, price_out=100.0)
        first = judge.ask(asks("a", "b", "c"))
        assert texts(first) == [[f"about: judge {name}"] * 2 for name in "abc"]
        assert len(server.asked) == 6
        assert all(body["temperature"] == 0 and body["model"] == MODEL for body in server.asked)
        assert set(server.keys) == {f"Bearer {KEY}"}
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert sorted((row["about"], row["repeat"]) for row in rows) == [
        (name, repeat) for name in "abc" for repeat in (0, 1)
    ]
    assert {(row["model"], row["tokens_in"], row["tokens_out"]) for row in rows} == {
        (MODEL, 100, 10)
    }
    assert judge.ask(asks("c", "a", "b")) == [
        first[2],
        first[0],
        first[1],
    ]  # the server is gone: nobody is asked
    assert lines == [
        (
            f"judge {MODEL} x2: 6 requests, about 10 tokens in, at most 3,072 out, at most 0.31 at"
            " the given prices"
        ),
        f"judge {MODEL} x2: asked 6 requests, 600 tokens in, 60 out, 0.01 at the given prices",
    ]


def test_the_estimate_asks_nobody_and_knows_what_is_recorded(tmp_path: Path) -> None:
    with serving(echo) as server:
        judge = judge_of(server.url, tmp_path)
        assert judge.estimate(asks("a", "b")).requests == 2
        assert server.asked == []
        judge.ask(asks("a"))
        estimate = judge.estimate(asks("a", "b"))
    assert (estimate.requests, estimate.recorded, estimate.tokens_out, estimate.price) == (
        1,
        1,
        512,
        None,
    )
    assert cost_in_words(estimate) == "1 request (1 recorded already), 1 tokens in, 512 out"


def test_equal_prompts_are_sent_once(tmp_path: Path) -> None:
    with serving(echo) as server:
        twice = [JudgeRequest(about="1", prompt="same"), JudgeRequest(about="2", prompt="same")]
        assert texts(judge_of(server.url, tmp_path).ask(twice)) == [["about: same"]] * 2
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "first",
    [
        refused(429, Retry_After="0"),
        refused(500),
        refused(503, "overloaded", Retry_After="0"),
        Answer(body=b"<html>gateway</html>"),
        Answer(body=b'{"choices": []}'),
        Answer(body=b'{"choices": [{"message": {"content": 3}}]}'),
        Answer(body=b"[" * 100_000),
        Answer(body=said("cut in the middle").body, cut=True),
        Answer(silent=True),
    ],
    ids=["429", "500", "503", "html", "empty", "number", "deep", "cut", "silent"],
)
def test_what_passes_is_tried_again(first: Answer, tmp_path: Path) -> None:
    with serving(flaky(first, first)) as server:
        assert texts(judge_of(server.url, tmp_path).ask(asks("a"))) == [["about: judge a"]]
        assert len(server.asked) == 3
        with pytest.raises(
            ValueError, match=r"no usable answer in 2 tries; the last: .*are kept in"
        ):
            judge_of(server.url, tmp_path, retries=1).ask(asks("b"))
        assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (refused(401, f"Incorrect API key provided: {KEY[:8]}***"), "refuses the key"),
        (
            refused(400, f"max_tokens is too large for {KEY}\n\x1b[31m"),
            r"refuses the request \(status 400\): max_tokens",
        ),
        (refused(404, "no such model"), "no such model"),
        (refused(429, "pay", "insufficient_quota"), "quota is spent"),
        (
            refused(429, "tomorrow", Retry_After="86400"),
            "asks to wait 86400 seconds|asks to wait 86401 seconds",
        ),
        (refused(307, Location="http://127.0.0.1:9/elsewhere"), "status 307"),
        (
            said("yes", model="another-model"),
            "pinned to 'fake-judge-1', but it answers as 'another-model'",
        ),
        (said("yes", model=None), "but it names no model"),
    ],
    ids=["key", "request", "model", "quota", "tomorrow", "redirect", "another", "nameless"],
)
def test_what_lasts_stops_at_once_with_one_sentence_without_the_key(
    first: Answer, words: str, tmp_path: Path
) -> None:
    with serving(lambda _prompt, _before: first) as server:
        with pytest.raises(ValueError, match=words) as caught:
            judge_of(server.url, tmp_path).ask(asks("a"))
        assert len(server.asked) == 1
    message = str(caught.value)
    assert KEY not in message
    assert KEY[:8] not in message
    assert message.isprintable()
    assert (tmp_path / "judgements.jsonl").read_text() == ""


def test_what_was_judged_is_kept_when_it_stops_and_not_asked_again(tmp_path: Path) -> None:
    def script(prompt: str, before: int) -> Answer:
        return refused(400, "bad") if prompt == "judge c" else echo(prompt, before)

    with serving(script) as server:
        judge = judge_of(server.url, tmp_path, concurrency=1)
        with pytest.raises(ValueError, match="2 replies of this run are kept"):
            judge.ask(asks("a", "b", "c", "d"))
        assert server.prompts() == ["judge a", "judge b", "judge c"]
        server.script = echo
        assert texts(judge.ask(asks("a", "b", "c", "d"))) == [
            [f"about: judge {name}"] for name in "abcd"
        ]
        assert server.prompts() == ["judge a", "judge b", "judge c", "judge c", "judge d"]
    assert KEY not in (tmp_path / "judgements.jsonl").read_text()


def test_no_more_requests_than_allowed_are_under_way(tmp_path: Path) -> None:
    meet = threading.Barrier(3, timeout=LONG)

    def script(prompt: str, before: int) -> Answer:
        meet.wait()  # goes on when three are here: so three are really asked at once
        return echo(prompt, before)

    with serving(script) as server:
        judge_of(server.url, tmp_path, concurrency=3).ask(asks(*"abcdefghi"))
        assert (server.most, len(server.asked)) == (3, 9)


def test_a_server_that_dawdles_is_left(tmp_path: Path) -> None:
    go = threading.Event()

    def script(prompt: str, before: int) -> Answer:
        if before == 0:
            go.wait(LONG)
        return echo(prompt, before)

    with serving(script) as server:
        # On a busy machine other tries may run over too, so there are many, and at least two.
        judge = judge_of(server.url, tmp_path, timeout=0.5, retries=100)
        assert texts(judge.ask(asks("a"))) == [["about: judge a"]]
        go.set()
        assert len(server.asked) >= 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("endless", "words"),
    [
        ("headers", "longer than the time-out"),
        ("body", "longer than the time-out"),
        ("flood", "more than 4 MiB"),
    ],
)
def test_a_server_that_drips_or_floods_is_left(endless: str, words: str, tmp_path: Path) -> None:
    """Every single read is fast; the limits hold for the whole reply, its headers included."""
    timeout = 60.0 if endless == "flood" else 1.0
    with serving(lambda _prompt, _before: Answer(endless=endless)) as server:
        with pytest.raises(ValueError, match=words):
            judge_of(server.url, tmp_path, timeout=timeout, retries=0).ask(asks("a"))
        assert len(server.asked) == 1


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    with serving(echo) as server:
        url = server.url
    with pytest.raises(
        ValueError, match=r"gave no usable answer in 3 tries; the last: ConnectError"
    ):
        judge_of(url, tmp_path, retries=2).ask(asks("a"))


def test_a_refusal_of_the_judge_is_a_judgement(tmp_path: Path) -> None:
    with serving(lambda _prompt, _before: said(None)) as server:
        judge = judge_of(server.url, tmp_path)
        assert texts(judge.ask(asks("a"))) == [[""]]
    assert texts(judge.ask(asks("a"))) == [[""]]


def test_half_a_letter_is_no_reason_to_stop(tmp_path: Path) -> None:
    body = json.dumps(
        {"model": MODEL, "choices": [{"message": {"content": "good \ud83d"}}]}
    ).encode()
    with serving(lambda _prompt, _before: Answer(body=body)) as server:
        lines: list[str] = []
        assert texts(
            judge_of(server.url, tmp_path, lines, price_in=1.0, price_out=1.0).ask(asks("a"))
        ) == [["good ?"]]
    assert lines[1].endswith("the server did not count 1 of them")


def test_a_count_that_no_number_holds_is_no_count_and_spoils_no_recording(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": -1}
    choices = [{"message": {"content": "good"}, "finish_reason": "\ud83d"}]
    body = json.dumps({"model": MODEL, "choices": choices, "usage": usage}).encode()
    with serving(lambda _prompt, _before: Answer(body=body)) as server:
        judge = judge_of(server.url, tmp_path, price_in=1.0, price_out=1.0)
        judge.ask(asks("a"))
    (reply,) = judgements.read(judge.recording).values()
    assert (reply.tokens_in, reply.tokens_out, reply.finish) == (None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_in": 10**400},
        {"tokens_in": -1},
        {"tokens_out": True},
        {"reply": "\ud83d"},
        {"model": "\ud83d"},
    ],
)
def test_a_recorded_line_that_spoils_the_grading_is_named(
    change: dict[str, Any], tmp_path: Path
) -> None:
    line = {"request": "r", "reply": "good", "finish": None, "model": MODEL}
    line |= {"tokens_in": 1, "tokens_out": 1}
    path = tmp_path / "judgements.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | change) + "\n")
    with pytest.raises(ValueError, match="line 2, is no recorded judgement"):
        judgements.read(path)


def test_without_a_key_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(echo) as server:
        monkeypatch.delenv("FAKE_KEY")
        with pytest.raises(ValueError, match="needs a key in the environment variable FAKE_KEY"):
            judge_of(server.url, tmp_path).ask(asks("a"))
        monkeypatch.setenv("FAKE_KEY", "broken\nkey")
        with pytest.raises(ValueError, match="holds characters that no key has") as caught:
            judge_of(server.url, tmp_path).ask(asks("a"))
        assert "broken" not in str(caught.value)
        assert server.asked == []
        judge_of(server.url, tmp_path, key_variable=None).ask(asks("a"))
        assert server.keys == [None]
        monkeypatch.delenv("FAKE_KEY")
        judge_of(server.url, tmp_path).ask(asks("a"))  # recorded: no key is needed


def test_a_cut_line_is_asked_again_and_a_spoilt_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    with serving(echo) as server:
        judge = judge_of(server.url, tmp_path, concurrency=1)
        judge.ask(asks("a", "b"))
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert texts(judge.ask(asks("a", "b"))) == [["about: judge a"], ["about: judge b"]]
        assert server.prompts() == ["judge a", "judge b", "judge b"]
    assert len(judgements.read(path)) == 2
    path.write_bytes(b'{"request": 3}\n' + whole)
    with pytest.raises(ValueError, match=r"judgements.jsonl, line 1, is no recorded judgement"):
        judge.ask(asks("a"))
    path.write_bytes(whole.replace(MODEL.encode(), b"other"))
    with pytest.raises(ValueError, match="answers as 'other'"):
        judge.ask(asks("a"))


KILLED = """
import sys
from pathlib import Path
from benchmarks.judge import Judge, JudgeRequest
from benchmarks.judge_settings import Settings
settings = Settings(
    base_url=sys.argv[1],
    model="fake-judge-1",
    key_variable=None,
    requests_per_minute=1e6,
    concurrency=2,
    timeout=300.0,
)
requests = [JudgeRequest(about=str(n), prompt=f"judge {n}") for n in range(20)]
Judge(settings=settings, folder=Path(sys.argv[2])).ask(requests)
"""


def test_killed_in_the_middle_it_asks_nothing_twice_that_was_recorded(tmp_path: Path) -> None:
    killing = threading.Lock()

    def script(prompt: str, before: int) -> Answer:
        if len(server.asked) > 8:
            with killing:  # a request beside this one waits until the child is dead
                child.send_signal(signal.SIGKILL)
                child.wait(LONG)
        return echo(prompt, before)

    with serving(script) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, server.url, str(tmp_path)],
            cwd=ROOT,
            env=dict(os.environ),
        )
        assert child.wait(LONG) == -signal.SIGKILL
    kept = judgements.read(tmp_path / "judgements.jsonl")
    assert 5 <= len(kept) <= 8
    # A server of its own: a last request of the dead child may still be on its way to the first.
    with serving(echo) as server:
        judge = judge_of(server.url, tmp_path, key_variable=None, concurrency=2)
        replies = judge.ask(asks(*map(str, range(20))))
    assert texts(replies) == [[f"about: judge {n}"] for n in range(20)]
    assert len(server.asked) == 20 - len(kept)


def test_two_processes_with_one_recording_ask_once(tmp_path: Path) -> None:
    with serving(echo) as server:
        lines: list[str] = []
        judge = judge_of(server.url, tmp_path, lines)
        with judgements.open_writer(judge.recording, lines.append):
            other = threading.Thread(target=lambda: judge.ask(asks("a")))
            other.start()
            while not lines and other.is_alive():
                time.sleep(0.01)
            assert "another process is judging" in lines[0]
            assert server.asked == []
        other.join()
        assert len(server.asked) == 1
