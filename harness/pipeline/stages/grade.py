"""Grade: stored answers become grades. Caps: stored captions are graded again, cut at several
lengths. Needs no model and no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from benchmarks.interface import Benchmark, Metric, Report
from harness.artifacts.results_folder import Stage, read_jsonl, write_bytes, write_json
from harness.pipeline.checked_results import graded
from harness.pipeline.matched_baselines import CAPS, first_words, longest
from harness.pipeline.stages.shards import Progress, answer_texts, quiet

if TYPE_CHECKING:  # they need torch
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task


def run(context: Context, task: Task, _shard: int, progress: Progress) -> None:
    answers = context.results.answers(*task.where)
    benchmark = context.benchmark(task.benchmark)
    if task.kind == "caps":
        write_caps(task.stage, benchmark, answers, progress)
    else:
        write_grades(task.stage, benchmark, answers)


def write_grades(stage: Stage, benchmark: Benchmark, answers: Path) -> None:
    """Write ``grades.parquet`` and ``report.json``; ``answers`` is the folder of
    ``answers.jsonl``.

    Raises:
        UserError: the answers are to other questions, or a judge cannot be asked.
    """
    rows = read_jsonl(answers / "answers.jsonl")
    report = _with_reasons(graded(benchmark, answer_texts(rows)), rows)
    write_parquet(stage.folder / "grades.parquet", grades_frame(report, benchmark.metrics))
    content = {"values": dict(report.values), "unscored": report.unscored}
    write_json(stage.folder / "report.json", content)


def write_caps(
    stage: Stage, benchmark: Benchmark, answers: Path, progress: Progress = quiet
) -> None:
    """Write ``caps.parquet``: a row a caption and cap, with the counts of its grade. ``cap`` 0 is
    the caption as it was written; a cap longer than every caption is left out."""
    captions = answer_texts(read_jsonl(answers / "answers.jsonl"))
    frames = []
    for cap in (*(cap for cap in CAPS if cap < longest(captions)), 0):
        shortened = {
            id: first_words(caption, cap) if cap else caption for id, caption in captions.items()
        }
        frame = grades_frame(graded(benchmark, shortened))
        counts = [name for name in frame.columns if name.startswith("count_")]
        frames.append(frame[["question", "cluster", *counts]].assign(cap=cap))
        progress("captions", len(frames) * len(captions), 0)
    write_parquet(stage.folder / "caps.parquet", pd.concat(frames, ignore_index=True))


def _with_reasons(report: Report, rows: Sequence[Mapping[str, Any]]) -> Report:
    """The report with the reason of each question that was not answered."""
    reasons = {row["id"]: row["unanswered"] for row in rows if "unanswered" in row}
    if not reasons:
        return report
    grades = (replace(grade, why=reasons.get(grade.question, grade.why)) for grade in report.grades)
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
    text = partial(pd.Series, dtype="string")
    wrong = [" ".join(f"{start}-{end}" for start, end in grade.wrong) for grade in grades]
    value = [None if grade.value is None else float(grade.value) for grade in grades]
    columns: dict[str, pd.Series[Any]] = {
        "question": text([grade.question for grade in grades]),
        "cluster": text([grade.cluster for grade in grades]),
        "value": pd.Series(value, dtype="Float64"),
        "read_as": text([grade.read_as for grade in grades]),
        "why": text([grade.why for grade in grades]),
        "truth": text([grade.truth for grade in grades]),
        "wrong": text(wrong),
    }
    for name in sorted(counts):
        values = [float(grade.counts.get(name, 0.0)) for grade in grades]
        columns[f"count_{name}"] = pd.Series(values, dtype="float64")
    return pd.DataFrame(columns)
