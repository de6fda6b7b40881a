"""Grade: stored answers become grades. Needs no model and no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.interface import Benchmark, Metric, Report
from harness.artifacts.results_folder import Stage, read_jsonl, write_bytes, write_json
from harness.pipeline.checked_results import graded
from harness.pipeline.stages.shards import Progress, answered

if TYPE_CHECKING:  # they need torch
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task


def run(context: Context, task: Task, _shard: int, _progress: Progress) -> None:
    answers = context.results.answers(task.label, task.seed, task.round, task.benchmark)
    write_grades(task.stage, context.benchmark(task.benchmark), answers)


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()


def write_grades(stage: Stage, benchmark: Benchmark, answers: Path) -> None:
    """Write ``grades.parquet`` and ``report.json``; ``answers`` is the folder of
    ``answers.jsonl``.

    Raises:
        UserError: the answers are to other questions, or a judge cannot be asked.
    """
    rows = read_jsonl(answers / "answers.jsonl")
    report = _with_reasons(graded(benchmark, answered(rows)), rows)
    write_parquet(stage.folder / "grades.parquet", grades_frame(report, benchmark.metrics))
    content = {"values": dict(report.values), "unscored": report.unscored}
    write_json(stage.folder / "report.json", content)


def _with_reasons(report: Report, rows: Sequence[Mapping[str, Any]]) -> Report:
    """The report with the reason of each question that was not answered."""
    reasons = {row["id"]: row["unanswered"] for row in rows if "unanswered" in row}
    if not reasons:
        return report
    grades = (replace(one, why=reasons.get(one.question, one.why)) for one in report.grades)
    return replace(report, grades=tuple(grades))


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    content = io.BytesIO()
    frame.to_parquet(content, index=False, compression="zstd")
    write_bytes(path, content.getvalue())


def grades_frame(report: Report, metrics: Sequence[Metric] = ()) -> pd.DataFrame:
    """The content of ``grades.parquet``: a row a question. The counts of ``metrics`` have a column
    even where no answer could be read."""
    grades = report.grades
    counts = {name for metric in metrics for name in (metric.numerator, metric.denominator)}
    counts |= {name for grade in grades for name in grade.counts}
    wrong = [" ".join(f"{start}-{end}" for start, end in grade.wrong) for grade in grades]
    columns: dict[str, pd.Series[Any]] = {
        "question": pd.Series([grade.question for grade in grades], dtype="string"),
        "cluster": pd.Series([grade.cluster for grade in grades], dtype="string"),
        "value": pd.Series(
            [None if grade.value is None else float(grade.value) for grade in grades],
            dtype="Float64",
        ),
        "read_as": pd.Series([grade.read_as for grade in grades], dtype="string"),
        "why": pd.Series([grade.why for grade in grades], dtype="string"),
        "truth": pd.Series([grade.truth for grade in grades], dtype="string"),
        "wrong": pd.Series(wrong, dtype="string"),
    }
    for name in sorted(counts):
        values = [float(grade.counts.get(name, 0.0)) for grade in grades]
        columns[f"count_{name}"] = pd.Series(values, dtype="float64")
    return pd.DataFrame(columns)
