"""A model behind a server with OpenAI's chat interface answers exported questions: paced, retried,
recorded and replayed as a judge's replies are (benchmarks/judge.py). Needs no torch.

``replies.jsonl`` in the folder of answers holds every reply as it arrives; a command that was cut
asks for the missing ones alone. The key comes from an environment variable and is written
nowhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chat import FILTERED, Reply
from benchmarks.judge import Judge, JudgeRequest, SentImage, to_stderr
from benchmarks.judge_settings import Settings, read_settings
from harness.artifacts.results_folder import FORMAT, Stage, lock, read_jsonl, write_jsonl
from harness.artifacts.stored_files import read_bytes
from harness.errors import UserError, user_errors
from harness.pipeline.foreign_answers import exported
from harness.pipeline.stages.shards import Progress, quiet

RECORDING = "replies.jsonl"
KEY_VARIABLE = "OPENAI_API_KEY"


def settings_of(server: str, model: str | None) -> Settings:
    """How the server is asked: ``server`` is its address (then ``model`` is needed), or a JSON file
    with the settings of a judge.

    Raises:
        UserError: the file is missing or wrong, or the model is given nowhere or twice.
    """
    is_address = server.startswith(("http://", "https://"))
    if is_address == (model is None):
        raise UserError(
            "--server with an address needs the model's name: --base NAME."
            if is_address
            else "--server names a settings file, which holds the model's name; leave --base out."
        )
    with user_errors():
        if is_address:
            key = KEY_VARIABLE if os.environ.get(KEY_VARIABLE, "").strip() else None
            return Settings(base_url=server, model=model or "", key_variable=key)
        return read_settings(Path(server))


def answer(
    questions: Path,
    settings: Settings,
    out: Path,
    *,
    progress: Progress = quiet,
    tell: Callable[[str], None] = to_stderr,
) -> str:
    """Ask the server all questions; returns what was done, in a sentence. ``tell`` gets a line
    about the cost before and after asking.

    Raises:
        UserError: there are no questions, the folder holds answers of other settings, or the server
            cannot be used. What was answered until then is kept.
    """
    benchmark = str(exported(questions)["benchmark"])
    settings = replace(settings, repeats=1, recording=RECORDING)
    server = Judge(settings=settings, folder=out, tell=tell, who="server", progress=progress)
    rows = read_jsonl(questions / "questions.jsonl")
    content = hashlib.sha256(read_bytes(questions / "questions.jsonl")).hexdigest()
    identity = {
        "stage": "answer",
        "format": FORMAT,
        "base": settings.pinned_model,
        "by": "server",
        "benchmark": benchmark,
        "questions": content,
        "decoding": {"temperature": 0.0},
    }
    with lock(out):
        stage = Stage(out, identity)
        stage.open()
        if not stage.done:
            requests = [_request(questions, row) for row in rows]
            with user_errors():
                replies = server.ask(requests)
            found = [
                _row(row["id"], settings.pinned_model, reply)
                for row, (reply,) in zip(rows, replies, strict=True)
            ]
            write_jsonl(out / "answers.jsonl", found)
            counts = _counts(found)
            record = {"stage": "answer", "base": settings.pinned_model, "name": benchmark}
            stage.finish({**record, "server": settings.base_url, "counts": counts})
        counts = _counts(read_jsonl(out / "answers.jsonl"))
    return (
        f"{out}: {counts['questions']} answers to {benchmark}"
        + (f", {counts['unfinished']} of them cut at their length" if counts["unfinished"] else "")
        + (f", {counts['unanswered']} declined." if counts["unanswered"] else ".")
    )


def _request(questions: Path, row: Mapping[str, Any]) -> JudgeRequest:
    images = tuple(
        SentImage(name=name, read=partial(read_bytes, questions / "images" / name))
        for name in row["images"]
    )
    cap = row["max_new_tokens"]
    return JudgeRequest(about=row["id"], prompt=row["text"], images=images, max_tokens=cap)


def _row(id: str, model: str, reply: Reply) -> dict[str, Any]:
    """An answer's line; of a question that the model or the server's filter declined, the reason
    stands beside an empty answer."""
    row = {"id": id, "answer": reply.text, "model": model, "n_tokens": reply.tokens_out}
    row["finished"] = reply.finish != "length"
    if reply.finish == FILTERED:
        return {**row, "answer": "", "unanswered": "the server's filter withheld the answer"}
    return row if reply.text else {**row, "unanswered": "the model gave no text"}


def _counts(rows: list[Any]) -> dict[str, int]:
    return {
        "questions": len(rows),
        "unfinished": sum(not row["finished"] for row in rows),
        "unanswered": sum("unanswered" in row for row in rows),
    }
