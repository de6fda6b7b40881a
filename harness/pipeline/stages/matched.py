"""Derive: the answers of a matched baseline, computed from the baseline's stored answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Stage, read_jsonl, write_json, write_jsonl
from harness.pipeline import matched_baselines
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import Match, matched_metric
from harness.pipeline.stages.shards import Progress, answered
from harness.pipeline.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Source:
    """The baseline's folders: answers, log-probabilities of yes and no, grades of its answers. A
    match by length reads the answers alone."""

    answers: Path
    choices: Path
    grades: Path


def run(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    matched = next(
        matched
        for matched in matched_baselines.planned(context.study)
        if (matched.label, matched.run.seed) == (task.label, task.seed)
    )
    base, method, results = matched.baseline, matched.run, context.results
    where = (base.label, base.seed, base.last, task.benchmark)
    metric = matched_metric(context.benchmark(task.benchmark), matched.kind)
    assert metric is not None  # planned only where there is one
    write_answers(
        task.stage,
        matched.kind,
        Source(
            answers=results.answers(*where),
            choices=results.choices(*where),
            grades=results.grades(*where),
        ),
        results.grades(method.label, method.seed, method.last, task.benchmark),
        metric,
    )


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()


def write_answers(stage: Stage, kind: Match, source: Source, grades: Path, metric: Metric) -> None:
    """Write ``answers.jsonl`` and the record. ``grades``: the folder of the method's grades, whose
    value of ``metric`` is matched. An answer of the baseline that cannot be read as yes or no is
    kept as it is."""
    value = matched_baselines.target(grades, metric)
    answers = answered(read_jsonl(source.answers / "answers.jsonl"))
    if kind == "length":
        answers = matched_baselines.cut(answers, value)
    else:
        unread = matched_baselines.unreadable(source.grades, metric)
        choices = read_jsonl(source.choices / "choices.jsonl")
        margins = {row["id"]: row["margin"] for row in choices if row["id"] not in unread}
        shifted = matched_baselines.shift(margins, value)
        answers = {row["id"]: shifted.get(row["id"], answers[row["id"]]) for row in choices}
    rows = [{"id": id, "answer": answer} for id, answer in answers.items()]
    write_jsonl(stage.folder / "answers.jsonl", rows)
    record = {"stage": "derive", "counts": {"questions": len(rows)}, "target": value}
    write_json(stage.folder / "record.json", record)
