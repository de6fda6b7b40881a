"""The stages that need no model, and so no torch: a benchmark is exported to files, and answers in
files are graded."""

from __future__ import annotations

import datetime
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL.Image import Image

from benchmarks.interface import Benchmark, Metric, Question, Report
from harness.artifacts.environment import arithmetic, hardware, peak_memory_mib, versions
from harness.artifacts.results_folder import Stage, read_jsonl, write_bytes, write_json, write_jsonl
from harness.data.pool import difference_hash, pixels_sha
from harness.errors import UserError

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``, such as ``("images", 64, 600)``; what it raises ends
the stage."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress shown."""


def export(stage: Stage, benchmark: Benchmark, *, progress: Progress = quiet) -> None:
    """Write a benchmark's questions and images; no model, no torch. Images are PNG named by
    their pixels' sha256."""
    stage.open()
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    for question in kindly_asked(benchmark):
        names = [_export_picture(stage.folder / "images", image) for image in question.images]
        hashes |= {
            name: difference_hash(image)
            for name, image in zip(names, question.images, strict=True)
            if name not in hashes
        }
        rows.append(
            {
                "id": question.id,
                "text": question.text,
                "max_new_tokens": question.max_new_tokens,
                "cluster": question.cluster,
                "images": names,
            }
        )
        progress("questions", len(rows), 0)
    check_keys(f"benchmark {benchmark.name}", [row["id"] for row in rows])
    if not rows:
        raise UserError(f"The benchmark {benchmark.name} has no question; ask for a larger limit.")
    write_jsonl(stage.folder / "questions.jsonl", rows)
    pictures = [
        {"sha256": name.removesuffix(".png"), "dhash": dhash} for name, dhash in hashes.items()
    ]
    write_jsonl(stage.folder / "images.jsonl", pictures)
    stage.finish(record(stage, benchmark.name, len(rows), time.perf_counter() - started))


def kindly_asked(benchmark: Benchmark) -> Iterator[Question]:
    """
    Raises:
        UserError: an image of the user's own files cannot be read.
    """
    try:
        yield from benchmark.questions()
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be exported: {error}") from error


def _export_picture(folder: Path, image: Image) -> str:
    path = folder / f"{pixels_sha(image)}.png"
    if not path.exists():
        content = io.BytesIO()
        image.convert("RGB").save(content, format="PNG", compress_level=1)
        write_bytes(path, content.getvalue())
    return path.name


def grade(stage: Stage, *, benchmark: Benchmark, answers: Path) -> None:
    """Grade stored answers; no model. Writes ``grades.parquet`` and ``report.json``."""
    stage.open()
    rows = read_jsonl(answers / "answers.jsonl")
    try:
        report = benchmark.grade({row["id"]: row["answer"] for row in rows})
    # answers of other questions, or a judge that cannot be asked, in a sentence of its own
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be graded: {error}") from error
    content = io.BytesIO()
    grades_frame(report, benchmark.metrics).to_parquet(content, index=False, compression="zstd")
    write_bytes(stage.folder / "grades.parquet", content.getvalue())
    write_json(
        stage.folder / "report.json", {"values": dict(report.values), "unscored": report.unscored}
    )
    stage.finish()


def grades_frame(report: Report, metrics: Sequence[Metric] = ()) -> pd.DataFrame:
    """The grades as a table, a row a question: what ``grades.parquet`` holds. The counts that
    ``metrics`` are made of have a column even where no answer could be read."""
    asked = {name for metric in metrics for name in (metric.numerator, metric.denominator)}
    names = sorted(asked | {name for grade in report.grades for name in grade.counts})
    columns: dict[str, pd.Series[Any]] = {
        "question": pd.Series([grade.question for grade in report.grades], dtype="string"),
        "cluster": pd.Series([grade.cluster for grade in report.grades], dtype="string"),
        "value": pd.Series([grade.value for grade in report.grades], dtype="Float64"),
        "read_as": pd.Series([grade.read_as for grade in report.grades], dtype="string"),
        "why": pd.Series([grade.why for grade in report.grades], dtype="string"),
        "truth": pd.Series([grade.truth for grade in report.grades], dtype="string"),
        "wrong": pd.Series(
            [" ".join(f"{start}-{end}" for start, end in grade.wrong) for grade in report.grades],
            dtype="string",
        ),
    }
    for name in names:
        columns[f"count_{name}"] = pd.Series(
            [float(grade.counts.get(name, 0.0)) for grade in report.grades], dtype="float64"
        )
    return pd.DataFrame(columns)


def check_keys(what: str, keys: Sequence[str]) -> None:
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise UserError(
            f"The {what} gave the key {twice[0]!r} more than once; keys name pairs and questions"
            " and must be unique."
        )


def record(
    stage: Stage,
    name: str,
    items: float,
    seconds: float,
    *,
    tokens: float = 0,
    counts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What was measured; ``items`` are what time is proportional to: images (times epochs, in
    training) or questions."""
    return {
        "stage": stage.identity["stage"],
        "base": stage.identity.get("base"),
        "name": name,
        "items": items,
        "seconds": round(seconds, 3),
        "tokens": int(tokens),
        "counts": dict(counts or {}),
        "peak_memory_mib": peak_memory_mib(),
        "versions": versions(),
        "hardware": hardware(),
        "arithmetic": arithmetic(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
