"""The three file steps of one benchmark, each a command that can run on a machine of its own
(benchmarks/README.md):

    export    a benchmark          -> questions.jsonl, images/       needs the benchmark's data
    answer    questions, a model   -> answers.jsonl                  needs a model
    grade     questions, answers   -> grades.parquet, report.json    needs the benchmark's data

A model behind a server with OpenAI's chat interface can answer, too: paced, retried, recorded and
replayed as a judge's replies are (benchmarks/judge.py). ``replies.jsonl`` in the folder of answers
holds every reply as it arrives; a command that was cut asks for the missing ones alone. The key
comes from an environment variable and is written nowhere.

Only ``answer`` by a model on this machine needs torch. The steps call the functions of a study's
stages, in folders that the user names. Each can be cut and run again. ``grade`` also takes answers
that another program wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chat import FILTERED, Reply
from benchmarks.interface import Benchmark
from benchmarks.judge import Judge, JudgeRequest, SentImage, cost_in_words, to_stderr
from benchmarks.judge_settings import Settings, read_settings
from harness.artifacts.results_folder import (
    Stage,
    lock,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from harness.artifacts.stored_files import read_bytes
from harness.errors import UserError, user_errors
from harness.pipeline import stage_identity
from harness.pipeline.foreign_answers import accept, exported
from harness.pipeline.stages.export import write_questions
from harness.pipeline.stages.grade import write_grades
from harness.pipeline.stages.shards import Progress, quiet

if TYPE_CHECKING:  # it needs torch
    from harness.models.base_cards import BaseCard


RECORDING = "replies.jsonl"
KEY_VARIABLE = "OPENAI_API_KEY"


def export(
    benchmark: Benchmark, out: Path, *, split: str, limit: int | None, progress: Progress = quiet
) -> str:
    """Write the questions and their images; returns what was done, in a sentence.

    Raises:
        UserError: the folder holds another export, or the benchmark's data are missing or broken.
    """
    with lock(out):
        stage = Stage(out, stage_identity.export_identity(benchmark, split, limit))
        stage.open()
        if not stage.done:
            write_questions(stage, benchmark, progress)
            stage.finish()
        rows = read_jsonl(out / "questions.jsonl")
    images = {name for row in rows for name in row["images"]}
    return f"{out}: {len(rows)} questions of {benchmark.name} on {len(images)} images."


def answer(
    questions: Path, card: BaseCard, weights: Path | None, out: Path, *, progress: Progress = quiet
) -> str:
    """Answer exported questions with the base, or with ``weights`` of its architecture (a trained
    round's ``model/`` or ``adapter/``).

    Raises:
        UserError: there are no questions, the weights do not fit, or the folder holds answers of
            other settings.
    """
    # The other two steps run without torch.
    from transformers.utils import logging

    from harness.pipeline.context import ImageCache, LoadedModel, exported_image, set_threads
    from harness.pipeline.stages.answer import merge_answers, write_answers
    from harness.pipeline.tasks import QUESTIONS_A_SHARD, Task

    logging.disable_progress_bar()  # the stage shows its own
    set_threads([card])
    benchmark = str(exported(questions)["benchmark"])
    checkpoint = stage_identity.untrained(card, weights, download=True)
    with lock(out):
        stage = Stage(out, stage_identity.answers_identity(checkpoint, benchmark, questions))
        stage.open()
        if not stage.done:
            total = len(read_jsonl(questions / "questions.jsonl"))
            task = Task(
                key="answer",
                kind="answer",
                title=f"answer {benchmark}",
                name=benchmark,
                stage=stage,
                items=total,
                shard_items=QUESTIONS_A_SHARD,
            )
            vlm, read = LoadedModel().engine(checkpoint), partial(exported_image, ImageCache())
            for shard in range(task.shards):
                numbers = task.shard_range(shard)
                if not stage.shard(shard).exists():
                    write_answers(stage, shard, numbers, vlm, questions, read)
                progress("questions", numbers.stop, total)
            merge_answers(stage, benchmark, task.shards)
        rows = read_jsonl(out / "answers.jsonl")
    cut = sum(not row["finished"] for row in rows)
    return f"{out}: {len(rows)} answers to {benchmark}" + (
        f", {cut} of them cut at their length." if cut else "."
    )


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


def answer_by_server(
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
    server = Judge(settings=settings, folder=out, tell=tell, role="server", progress=progress)
    rows = read_jsonl(questions / "questions.jsonl")
    model = {"base": settings.pinned_model, "by": "server"}
    identity = stage_identity.given_identity(model, benchmark, questions) | {
        "decoding": {"temperature": 0.0}
    }
    with lock(out):
        stage = Stage(out, identity)
        stage.open()
        if not stage.done:
            requests = [_request(questions, row) for row in rows]
            with user_errors():
                replies = server.ask(requests)
            found = [
                _server_row(row["id"], settings.pinned_model, reply)
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


def _server_row(id: str, model: str, reply: Reply) -> dict[str, Any]:
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


def grade(benchmark: Benchmark, questions: Path, answers: Path, out: Path) -> str:
    """Grade answers: a folder that ``answer`` wrote, or a ``.jsonl`` file with lines ``{"id",
    "answer"}``. Keeps the answers as they were read in ``out``'s folder ``answers``; returns the
    values as text.

    Raises:
        UserError: the answers are not to these questions, or a line is wrong (file and line); or
            they cannot be graded now.
    """
    with lock(out):
        given = accept(benchmark, questions, answers)
        kept = Stage(out / "answers", given.identity)
        kept.check()
        stage = Stage(out, stage_identity.grade_identity(given.identity, benchmark))
        if not stage.done and stage.differs_only_in("version"):
            # It had stopped, perhaps for want of a judge: nothing is lost.
            write_json(out / "identity.json", stage.identity)
        stage.check()
        if not stage.done:
            kept.open()
            write_jsonl(kept.folder / "answers.jsonl", given.rows)
            kept.finish({"stage": "answer", "name": benchmark.name, "counts": given.counts})
            stage.open()
            write_grades(stage, benchmark, kept.folder)
            stage.finish()
        report = read_json(out / "report.json")
    head = f"{out}: {given.counts['questions']} questions of {benchmark.name}"
    lines = [f"{head}, {report['unscored']} unscored{_oddities(given.counts)}"]
    for metric in benchmark.metrics:
        value = report["values"][metric.name]
        shown = "nothing to measure" if value is None else f"{value:.2f} {metric.unit}"
        lines.append(f"  {metric.name:<28} {shown}")
    return "\n".join(lines)


def estimate(benchmark: Benchmark, questions: Path, answers: Path) -> str:
    """What grading these answers would cost where a model judges them. Nothing is written and
    nobody is asked.

    Raises:
        UserError: as for :func:`grade`.
    """
    given = accept(benchmark, questions, answers)
    try:
        cost = benchmark.estimate({row["id"]: row["answer"] for row in given.rows})
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be graded: {error}") from error
    if cost is None:
        return f"No model judges {benchmark.name}: grading it asks nobody and costs nothing."
    return f"{benchmark.name}: {cost_in_words(cost, 'about', 'at most')}"


def _oddities(counts: Mapping[str, int]) -> str:
    """What was odd about the answers, in words."""
    words = {
        "missing": "without an answer",
        "empty": "empty",
        "control_characters": "with control characters",
    }
    shown = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
    return f" ({', '.join(shown)})." if shown else "."
