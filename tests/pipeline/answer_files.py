"""Whole stages, small files of answers, and what lies in a folder: for the tests of export, answer
and grade."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import Stage, read_jsonl
from harness.pipeline.stages.export import write_questions
from harness.pipeline.stages.grade import write_grades


def export(stage: Stage, benchmark: Benchmark) -> None:
    stage.open()
    write_questions(stage, benchmark)
    stage.finish()


def grade(stage: Stage, benchmark: Benchmark, answers: Path) -> None:
    stage.open()
    write_grades(stage, benchmark, answers)
    stage.finish()


def ids(exported: Path) -> list[str]:
    return [row["id"] for row in read_jsonl(exported / "questions.jsonl")]


def save_answers(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
