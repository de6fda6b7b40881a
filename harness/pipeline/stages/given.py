"""Given: another program's answers, matched with the exported questions by id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.artifacts.results_folder import write_json, write_jsonl
from harness.pipeline import given_answers
from harness.pipeline.stages.shards import Progress

if TYPE_CHECKING:
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task


def run(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    """Write ``answers.jsonl`` in the questions' order; a question without an answer has no line."""
    questions = context.results.questions(task.benchmark)
    row = context.run(task.label, task.seed)
    given = given_answers.read(context.study, row, task.benchmark, questions)
    write_jsonl(task.stage.folder / "answers.jsonl", given.rows)
    record = {"stage": "answer", "base": row.base, "name": task.benchmark, "counts": given.counts}
    write_json(task.stage.folder / "record.json", record)


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()
