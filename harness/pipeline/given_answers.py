"""Rows of answers that another program wrote (``--row "GPT-4o=answers:FOLDER"``): each question's
answer is found by its id. Nothing is trained or asked here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.grading import without_images
from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import FORMAT, Results, read_jsonl
from harness.artifacts.stored_files import is_stored, read_bytes
from harness.pipeline import foreign_answers
from harness.pipeline.foreign_answers import Given
from harness.pipeline.stage_identity import Identity
from harness.study.study import Run, Study


def asked(study: Study) -> list[Run]:
    """The runs whose model answers here."""
    return [run for run in study.runs if run.answers is None]


def folder_of(run: Run) -> Path:
    assert run.answers is not None  # asked of such rows alone
    return run.answers


def read(study: Study, run: Run, benchmark: str, questions: Path) -> Given:
    """The answers to exported questions.

    Raises:
        UserError: they are not there, or lines of them are no answers to these questions.
    """
    path = questions / "questions.jsonl"
    ids = [row["id"] for row in read_jsonl(path)]
    sha = hashlib.sha256(read_bytes(path)).hexdigest()
    limited = study.limit is not None
    return foreign_answers.of_row(folder_of(run), benchmark, ids, sha, limited=limited)


def identity(study: Study, results: Results, run: Run, benchmark: str) -> Identity:
    """What the row's answers depend on: the questions and the content of the file.

    Raises:
        UserError: as :func:`read`.
    """
    questions = results.questions(benchmark)
    path = questions / "questions.jsonl"
    content = hashlib.sha256(read_bytes(path)).hexdigest() if is_stored(path) else None
    known: dict[str, Any] = {
        "stage": "answer",
        "format": FORMAT,
        "base": run.base,
        "benchmark": benchmark,
        "questions": content,
    }
    if content is None:
        return known
    return {**known, **read(study, run, benchmark, questions).identity}


def look(run: Run, benchmark: Benchmark, *, limited: bool) -> str:
    """A sentence about what is odd about the row's answers, before any work; empty: nothing.

    Raises:
        UserError: as :func:`read`.
    """
    name = benchmark.name
    ids = [question.id for question in without_images(benchmark)]
    counts = foreign_answers.of_row(folder_of(run), name, ids, None, limited=limited).counts
    parts = []
    if counts["missing"]:
        parts.append(
            f"{counts['missing']:,} of {counts['questions']:,} answers to {name} are missing, which"
            " count as unscored"
        )
    if counts["extra"]:
        parts.append(f"{counts['extra']:,} answers to {name} are beyond --limit and unused")
    return f"Row {run.label}: {'; '.join(parts)}." if parts else ""
