"""Caps: a row's stored captions graded again, cut at several lengths."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import Stage, read_jsonl
from harness.pipeline.checked_results import graded
from harness.pipeline.context import Context
from harness.pipeline.matched_baselines import CAPS, first_words, longest
from harness.pipeline.stages.grade import grades_frame, write_parquet
from harness.pipeline.stages.shards import Progress, answered, quiet
from harness.pipeline.tasks import Task


def run(context: Context, task: Task, _shard: int, progress: Progress) -> None:
    answers = context.results.answers(task.label, task.seed, task.round, task.benchmark)
    write_caps(task.stage, context.benchmark(task.benchmark), answers, progress)


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()


def write_caps(
    stage: Stage, benchmark: Benchmark, answers: Path, progress: Progress = quiet
) -> None:
    """Write ``caps.parquet``: a row a caption and cap, with the counts of its grade. ``cap`` 0 is
    the caption as it was written; a cap longer than every caption is left out."""
    captions = answered(read_jsonl(answers / "answers.jsonl"))
    parts = []
    for cap in (*(cap for cap in CAPS if cap < longest(captions)), 0):
        shortened = {
            id: first_words(caption, cap) if cap else caption for id, caption in captions.items()
        }
        frame = grades_frame(graded(benchmark, shortened))
        counts = [name for name in frame.columns if name.startswith("count_")]
        parts.append(frame[["question", "cluster", *counts]].assign(cap=cap))
        progress("captions", len(parts) * len(captions), 0)
    write_parquet(stage.folder / "caps.parquet", pd.concat(parts, ignore_index=True))
