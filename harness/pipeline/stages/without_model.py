"""Answers without a model. Given: another program's, matched with the exported questions by id.
Derive: those of a matched baseline, computed from the baseline's stored answers."""

from __future__ import annotations

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, Stage, read_jsonl, write_json, write_jsonl
from harness.pipeline import foreign_answers, matched_baselines
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import Match, matched_metric
from harness.pipeline.stages.shards import Progress, answer_texts
from harness.pipeline.tasks import Task, Where


def run_given(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    """Write ``answers.jsonl`` in the questions' order; a question without an answer has no line."""
    questions = context.results.questions(task.benchmark)
    row = context.run(task.label, task.seed)
    answers = foreign_answers.read_given(context.study, row, task.benchmark, questions)
    write_jsonl(task.stage.folder / "answers.jsonl", answers.rows)
    record = {"stage": "answer", "base": row.base, "name": task.benchmark, "counts": answers.counts}
    write_json(task.stage.folder / "record.json", record)


def run_matched(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    matched = next(
        matched
        for matched in matched_baselines.planned(context.study)
        if (matched.label, matched.run.seed) == (task.label, task.seed)
    )
    base, method, name = matched.baseline, matched.run, task.benchmark
    metric = matched_metric(context.benchmark(name), matched.kind)
    assert metric is not None  # planned only where there is one
    base_where, method_where = ((run.label, run.seed, run.last, name) for run in (base, method))
    write_matched(task.stage, matched.kind, context.results, base_where, method_where, metric)


def write_matched(
    stage: Stage, kind: Match, results: Results, base: Where, method: Where, metric: Metric
) -> None:
    """Write ``answers.jsonl`` and the record: the answers of ``base``, changed so that they have
    the value of ``metric`` that the grades of ``method`` have. An answer that cannot be read as yes
    or no is kept as it is."""
    value = matched_baselines.target(results.grades(*method), metric)
    answers = answer_texts(read_jsonl(results.answers(*base) / "answers.jsonl"))
    if kind == "length":
        answers = matched_baselines.cut(answers, value)
    else:
        unread = matched_baselines.unreadable(results.grades(*base), metric)
        choices = read_jsonl(results.choices(*base) / "choices.jsonl")
        margins = {row["id"]: row["margin"] for row in choices if row["id"] not in unread}
        shifted = matched_baselines.shift(margins, value)
        answers = {row["id"]: shifted.get(row["id"], answers[row["id"]]) for row in choices}
    rows = [{"id": id, "answer": answer} for id, answer in answers.items()]
    write_jsonl(stage.folder / "answers.jsonl", rows)
    record = {"stage": "derive", "counts": {"questions": len(rows)}, "target": value}
    write_json(stage.folder / "record.json", record)
