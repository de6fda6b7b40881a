"""The stages answer and choices, shard by shard. Answer: a model answers exported questions
greedily. Choices: the margin log p(yes) - log p(no) of each question."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from harness.artifacts.results_folder import Stage, read_jsonl, write_jsonl
from harness.errors import UserError
from harness.pipeline.stage_identity import YES_NO
from harness.pipeline.stages.shards import (
    Progress,
    Rows,
    read_shards,
    record,
    without_too_long,
    write_shard,
)
from methods.interface import VLM, Completion, Decoding, Prompt

if TYPE_CHECKING:
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task

ReadImage = Callable[[Path, str], Image]
"""Reads an exported image by its folder of questions and its name."""


def run(context: Context, task: Task, shard: int, _progress: Progress) -> None:
    assert task.checkpoint is not None
    write = write_margins if task.kind == "choices" else write_answers
    write(
        task.stage,
        shard,
        task.shard_range(shard),
        context.models.engine(task.checkpoint),
        context.results.questions(task.benchmark),
        context.question_image,
    )


def merge(_context: Context, task: Task) -> None:
    if task.kind == "answer":
        merge_answers(task.stage, task.benchmark, task.shards)
        return
    rows, usage = read_shards(task.stage, task.shards)
    write_jsonl(task.stage.folder / "choices.jsonl", rows)
    counts = {"questions": len(rows)}
    task.stage.finish(record(task.stage, task.benchmark, len(rows), usage, counts))


def write_answers(
    stage: Stage, shard: int, numbers: range, vlm: VLM, questions: Path, read: ReadImage
) -> None:
    """Write the answers to the questions with these ``numbers`` as one shard."""
    rows = _questions(questions, numbers)

    def generate(decoding: Decoding, prompts: Sequence[Prompt]) -> list[Completion | str]:
        return list(vlm.generate(prompts, decoding))

    def work() -> Rows:
        prompts = {prompt.key: prompt for prompt in prompts_of(rows, questions, read)}
        answers: dict[str, Completion | str] = {}
        for cap in sorted({row["max_new_tokens"] for row in rows}):
            ids = [row["id"] for row in rows if row["max_new_tokens"] == cap]
            capped = partial(generate, Decoding(max_new_tokens=cap))
            done = without_too_long(
                [prompts[id] for id in ids], capped, lambda _prompt, error: str(error)
            )
            answers |= zip(ids, done, strict=True)
        return [_row(row["id"], answers[row["id"]]) for row in rows]

    write_shard(stage, shard, work, vlm)


def merge_answers(stage: Stage, benchmark: str, shards: int) -> None:
    """Write ``answers.jsonl`` in the questions' order, the record and ``DONE``."""
    rows, usage = read_shards(stage, shards)
    write_jsonl(stage.folder / "answers.jsonl", rows)
    counts = {"questions": len(rows), "unfinished": sum(not row["finished"] for row in rows)}
    if unanswered := sum("unanswered" in row for row in rows):
        counts["unanswered"] = unanswered
    stage.finish(record(stage, benchmark, len(rows), usage, counts))


def write_margins(
    stage: Stage, shard: int, numbers: range, vlm: VLM, questions: Path, read: ReadImage
) -> None:
    """Write ``{"id", "margin"}`` (nats) of the questions with these ``numbers`` as one shard. Each
    choice counts as it is and capitalised. A question that is too long has no line."""
    rows = _questions(questions, numbers)

    def work() -> Rows:
        prompts = prompts_of(rows, questions, read)
        margins = without_too_long(prompts, partial(_margins, vlm), lambda _prompt, _error: None)
        return [
            {"id": row["id"], "margin": margin}
            for row, margin in zip(rows, margins, strict=True)
            if margin is not None
        ]

    # Nothing is generated, so no model counts tokens.
    write_shard(stage, shard, work, None)


def _questions(folder: Path, numbers: range) -> Rows:
    rows: Rows = read_jsonl(folder / "questions.jsonl")
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


def _margins(vlm: VLM, prompts: Sequence[Prompt]) -> list[float | None]:
    def logps(choice: str) -> list[float]:
        """Of the choice in both spellings together, prompt by prompt."""
        spellings = sorted({choice, choice.capitalize()})
        spellings_logps = [vlm.logps(prompts, [text] * len(prompts)) for text in spellings]
        return [_log_sum(of_prompt) for of_prompt in zip(*spellings_logps, strict=True)]

    yes, no = map(logps, YES_NO)
    return [of_yes - of_no for of_yes, of_no in zip(yes, no, strict=True)]


def _log_sum(logps: Sequence[float]) -> float:
    """The logarithm of the sum of probabilities; at least -1e4 nats, because JSON has no
    infinity."""
    top = max(*logps, -1e4)
    return top + math.log(sum(math.exp(logp - top) for logp in logps) or 1.0)
