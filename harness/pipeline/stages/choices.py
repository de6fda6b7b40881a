"""Choices: how far the log-probability of yes leads that of no, question by question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.artifacts.results_folder import Stage, write_jsonl
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import YES_NO
from harness.pipeline.stages.answer import ReadImage, prompts_of, read_questions
from harness.pipeline.stages.shards import Progress, Rows, read_shards, record, write_shard
from harness.pipeline.stages.too_long import without_too_long
from harness.pipeline.tasks import Task
from methods.interface import VLM, Prompt


def run(context: Context, task: Task, shard: int, _progress: Progress) -> None:
    assert task.checkpoint is not None
    vlm = context.models.engine(task.checkpoint)
    questions = context.results.questions(task.benchmark)
    write_margins(
        task.stage, shard, task.shard_range(shard), vlm, questions, context.question_image
    )


def merge(_context: Context, task: Task) -> None:
    """Write ``choices.jsonl`` in the questions' order, the record and ``DONE``."""
    rows, spent = read_shards(task.stage, task.shards)
    write_jsonl(task.stage.folder / "choices.jsonl", rows)
    counts = {"questions": len(rows)}
    task.stage.finish(record(task.stage, task.benchmark, len(rows), spent, counts))


def write_margins(
    stage: Stage, shard: int, numbers: range, vlm: VLM, questions: Path, read: ReadImage
) -> None:
    """Write ``{"id", "margin"}`` (nats) of the questions with these ``numbers`` as one shard. Each
    choice counts as it is and capitalised. A question that is too long has no line."""
    rows = read_questions(questions, numbers)

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


def _margins(vlm: VLM, prompts: Sequence[Prompt]) -> list[float | None]:
    yes, no = (
        [
            vlm.logps(prompts, [text] * len(prompts))
            for text in sorted({choice, choice.capitalize()})
        ]
        for choice in YES_NO
    )
    return [
        _log_sum(of_yes) - _log_sum(of_no)
        for of_yes, of_no in zip(zip(*yes, strict=True), zip(*no, strict=True), strict=True)
    ]


def _log_sum(logps: Sequence[float]) -> float:
    """The logarithm of the sum of probabilities; at least -1e4 nats, because JSON has no
    infinity."""
    top = max(*logps, -1e4)
    return top + math.log(sum(math.exp(logp - top) for logp in logps) or 1.0)
