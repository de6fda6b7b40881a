"""Derive: the answers of a matched baseline, computed from the baseline's stored answers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Stage, read_jsonl, write_json, write_jsonl
from harness.pipeline import matched_baselines
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import Match, matched_metric
from harness.pipeline.stages.shards import Progress
from harness.pipeline.tasks import Task


def run(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    matched = next(
        matched
        for matched in matched_baselines.planned(context.study)
        if (matched.label, matched.run.seed) == (task.label, task.seed)
    )
    base, method, results = matched.baseline, matched.run, context.results
    folder_of = results.answers if matched.source == "answer" else results.choices
    metric = matched_metric(context.benchmark(task.benchmark), matched.kind)
    assert metric is not None  # planned only where there is one
    write_answers(
        task.stage,
        matched.kind,
        folder_of(base.label, base.seed, base.last, task.benchmark),
        results.grades(method.label, method.seed, method.last, task.benchmark),
        metric,
    )


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()


def write_answers(stage: Stage, kind: Match, source: Path, grades: Path, metric: Metric) -> None:
    """Write ``answers.jsonl`` and the record. ``source`` is the folder of the baseline's answers,
    or of its log-probabilities of yes and no; ``grades`` that of the method's grades, whose value
    of ``metric`` is matched."""
    value = matched_baselines.target(grades, metric)
    if kind == "length":
        captions = {row["id"]: row["answer"] for row in read_jsonl(source / "answers.jsonl")}
        answers = matched_baselines.cut(captions, value)
    else:
        margins = {row["id"]: row["margin"] for row in read_jsonl(source / "choices.jsonl")}
        answers = matched_baselines.shift(margins, value)
    rows = [{"id": id, "answer": answer} for id, answer in answers.items()]
    write_jsonl(stage.folder / "answers.jsonl", rows)
    record = {"stage": "derive", "counts": {"questions": len(rows)}, "target": value}
    write_json(stage.folder / "record.json", record)
