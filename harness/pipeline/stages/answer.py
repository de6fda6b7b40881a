"""Answer: a model answers exported questions greedily, shard by shard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from harness.artifacts.results_folder import Stage, read_jsonl, write_jsonl
from harness.errors import PromptTooLong, UserError
from harness.pipeline.stages.shards import (
    Progress,
    Rows,
    read_shards,
    record,
    write_shard,
)
from harness.pipeline.stages.too_long import without_too_long
from methods.interface import VLM, Completion, Decoding, Prompt

if TYPE_CHECKING:
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task

ReadImage = Callable[[Path, str], Image]
"""Reads an exported image by its folder of questions and its name."""


def run(context: Context, task: Task, shard: int, _progress: Progress) -> None:
    assert task.checkpoint is not None
    vlm = context.models.engine(task.checkpoint)
    questions = context.results.questions(task.benchmark)
    write_answers(
        task.stage, shard, task.shard_range(shard), vlm, questions, context.question_image
    )


def merge(_context: Context, task: Task) -> None:
    merge_answers(task.stage, task.benchmark, task.shards)


def write_answers(
    stage: Stage, shard: int, numbers: range, vlm: VLM, questions: Path, read: ReadImage
) -> None:
    """Write the answers to the questions with these ``numbers`` as one shard."""
    rows = read_questions(questions, numbers)

    def work() -> Rows:
        prompts = dict(
            zip((row["id"] for row in rows), prompts_of(rows, questions, read), strict=True)
        )
        answers: dict[str, Completion | str] = {}
        for cap in sorted({row["max_new_tokens"] for row in rows}):
            ids = [row["id"] for row in rows if row["max_new_tokens"] == cap]
            generate = partial(_generate, vlm, Decoding(max_new_tokens=cap))
            done = without_too_long([prompts[id] for id in ids], generate, _unanswered)
            answers |= zip(ids, done, strict=True)
        return [_row(row["id"], answers[row["id"]]) for row in rows]

    write_shard(stage, shard, work, vlm)


def merge_answers(stage: Stage, benchmark: str, shards: int) -> None:
    """Write ``answers.jsonl`` in the questions' order, the record and ``DONE``."""
    rows, spent = read_shards(stage, shards)
    write_jsonl(stage.folder / "answers.jsonl", rows)
    counts = {"questions": len(rows), "unfinished": sum(not row["finished"] for row in rows)}
    if unanswered := sum("unanswered" in row for row in rows):
        counts["unanswered"] = unanswered
    stage.finish(record(stage, benchmark, len(rows), spent, counts))


def read_questions(questions: Path, numbers: range) -> Rows:
    """The exported questions with these numbers."""
    rows: Rows = read_jsonl(questions / "questions.jsonl")
    return rows[numbers.start : numbers.stop]


def prompts_of(rows: Sequence[Mapping[str, Any]], questions: Path, read: ReadImage) -> list[Prompt]:
    """Exported questions as prompts. Questions about one image share it.

    Raises:
        UserError: a question has several images, or an image cannot be read.
    """
    images = {name: read(questions, name) for row in rows for name in row["images"][:1]}
    return [Prompt(key=row["id"], text=row["text"], image=_image(row, images)) for row in rows]


def _image(row: Mapping[str, Any], images: Mapping[str, Image]) -> Image | None:
    if len(row["images"]) > 1:
        raise UserError(
            f"Question {row['id']} has {len(row['images'])} images; the engine answers questions"
            " about one image."
        )
    return images[row["images"][0]] if row["images"] else None


def _generate(vlm: VLM, decoding: Decoding, prompts: Sequence[Prompt]) -> list[Completion | str]:
    return list(vlm.generate(prompts, decoding))


def _unanswered(_prompt: Prompt, error: PromptTooLong) -> str:
    return str(error)


def _row(id: str, completion: Completion | str) -> dict[str, Any]:
    """An answer's line; of a question that was not answered, the reason stands beside an empty
    answer."""
    if isinstance(completion, str):
        empty = {"answer": "", "logp": None, "n_tokens": 0, "finished": True}
        return {"id": id, **empty, "unanswered": completion}
    return {
        "id": id,
        "answer": completion.text,
        # JSON has no infinity: a log-probability that overflowed is unknown.
        "logp": completion.logp if math.isfinite(completion.logp) else None,
        "n_tokens": completion.n_tokens,
        "finished": completion.finished,
    }
