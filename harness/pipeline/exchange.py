"""The three file steps of one benchmark, each a command that can run on a machine of its own
(benchmarks/README.md):

    export    a benchmark          -> questions.jsonl, images/       needs the benchmark's data
    answer    questions, a model   -> answers.jsonl                  needs a model
    grade     questions, answers   -> grades.parquet, report.json    needs the benchmark's data

Only ``answer`` needs torch. They call the functions of a study's stages, in folders that the user
names. Each can be cut and run again. ``grade`` also takes answers that another program wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.interface import Benchmark
from benchmarks.judge import cost_in_words
from harness.artifacts.results_folder import (
    Stage,
    lock,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from harness.errors import UserError
from harness.pipeline import stage_identity
from harness.pipeline.foreign_answers import accept, exported
from harness.pipeline.stages.export import write_questions
from harness.pipeline.stages.grade import write_grades
from harness.pipeline.stages.shards import Progress, quiet

if TYPE_CHECKING:  # it needs torch
    from harness.models.base_cards import BaseCard


def export(
    benchmark: Benchmark, out: Path, *, split: str, limit: int | None, progress: Progress = quiet
) -> str:
    """Write the questions and their images; returns what was done, in a sentence.

    Raises:
        UserError: the folder holds another export, or the benchmark's data are missing or broken.
    """
    with lock(out):
        stage = Stage(out, stage_identity.export_identity(benchmark, split, limit))
        stage.open()
        if not stage.done:
            write_questions(stage, benchmark, progress)
            stage.finish()
        rows = read_jsonl(out / "questions.jsonl")
    images = {name for row in rows for name in row["images"]}
    return f"{out}: {len(rows)} questions of {benchmark.name} on {len(images)} images."


def answer(
    questions: Path, card: BaseCard, weights: Path | None, out: Path, *, progress: Progress = quiet
) -> str:
    """Answer exported questions with the base, or with ``weights`` of its architecture (a trained
    round's ``model/`` or ``adapter/``).

    Raises:
        UserError: there are no questions, the weights do not fit, or the folder holds answers of
            other settings.
    """
    # The other two steps run without torch.
    from transformers.utils import logging

    from harness.pipeline.image_cache import ImageCache, exported_image
    from harness.pipeline.loaded_model import LoadedModel, set_threads
    from harness.pipeline.stages.answer import merge_answers, write_answers
    from harness.pipeline.tasks import QUESTIONS_A_SHARD

    logging.disable_progress_bar()  # the stage shows its own
    set_threads([card])
    benchmark = str(exported(questions)["benchmark"])
    checkpoint = stage_identity.untrained(card, weights, download=True)
    with lock(out):
        stage = Stage(out, stage_identity.answers_identity(checkpoint, benchmark, questions))
        stage.open()
        if not stage.done:
            total = len(read_jsonl(questions / "questions.jsonl"))
            shards, read = (
                math.ceil(total / QUESTIONS_A_SHARD),
                partial(exported_image, ImageCache()),
            )
            vlm = LoadedModel().engine(checkpoint)
            for shard in range(shards):
                start = shard * QUESTIONS_A_SHARD
                numbers = range(start, min(start + QUESTIONS_A_SHARD, total))
                if not stage.shard(shard).exists():
                    write_answers(stage, shard, numbers, vlm, questions, read)
                progress("questions", numbers.stop, total)
            merge_answers(stage, benchmark, shards)
        rows = read_jsonl(out / "answers.jsonl")
    cut = sum(not row["finished"] for row in rows)
    return f"{out}: {len(rows)} answers to {benchmark}" + (
        f", {cut} of them cut at their length." if cut else "."
    )


def grade(benchmark: Benchmark, questions: Path, answers: Path, out: Path) -> str:
    """Grade answers: a folder that ``answer`` wrote, or a ``.jsonl`` file with lines ``{"id",
    "answer"}``. Keeps the answers as they were read in ``out``'s folder ``answers``; returns the
    values as text.

    Raises:
        UserError: the answers are not to these questions, or a line is wrong (file and line); or
            they cannot be graded now.
    """
    with lock(out):
        given = accept(benchmark, questions, answers)
        kept = Stage(out / "answers", given.identity)
        kept.check()
        stage = Stage(out, stage_identity.grade_identity(given.identity, benchmark))
        if not stage.done and stage.differs_only_in("version"):
            # It had stopped, perhaps for want of a judge: nothing is lost.
            write_json(out / "identity.json", stage.identity)
        stage.check()
        if not stage.done:
            kept.open()
            write_jsonl(kept.folder / "answers.jsonl", given.rows)
            kept.finish({"stage": "answer", "name": benchmark.name, "counts": given.counts})
            stage.open()
            write_grades(stage, benchmark, kept.folder)
            stage.finish()
        report = read_json(out / "report.json")
    lines = [
        f"{out}: {given.counts['questions']} questions of {benchmark.name}, {report['unscored']}"
        " unscored" + _oddities(given.counts)
    ]
    for metric in benchmark.metrics:
        value = report["values"][metric.name]
        shown = "nothing to measure" if value is None else f"{value:.2f} {metric.unit}"
        lines.append(f"  {metric.name:<28} {shown}")
    return "\n".join(lines)


def estimate(benchmark: Benchmark, questions: Path, answers: Path) -> str:
    """What grading these answers would cost where a model judges them. Nothing is written and
    nobody is asked.

    Raises:
        UserError: as for :func:`grade`.
    """
    given = accept(benchmark, questions, answers)
    try:
        cost = benchmark.estimate({row["id"]: row["answer"] for row in given.rows})
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be graded: {error}") from error
    if cost is None:
        return f"No model judges {benchmark.name}: grading it asks nobody and costs nothing."
    return f"{benchmark.name}: {cost_in_words(cost, 'about', 'at most')}"


def _oddities(counts: Mapping[str, int]) -> str:
    """What was odd about the answers, in words."""
    words = {
        "missing": "without an answer",
        "empty": "empty",
        "control_characters": "with control characters",
    }
    shown = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
    return f" ({', '.join(shown)})." if shown else "."
