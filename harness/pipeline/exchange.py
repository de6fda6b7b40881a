"""The three file steps of one benchmark, each a command that can run on a machine of its own
(benchmarks/README.md):

    export    a benchmark            ->  questions.jsonl, images/       needs the benchmark's data;
    no model answer    questions, a model     ->  answers.jsonl                  needs a model;
    neither the benchmark's data nor its code grade     questions, answers     ->  grades.parquet,
    report.json    needs the benchmark's data; no model, no torch

They do what a study's stages do (the same functions), in folders that the user names. Each can be
cut and run again, and
``grade`` also takes answers that somebody else's model wrote.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interface import Benchmark
from benchmarks.judge import cost_in_words
from harness.artifacts.results_folder import (
    FORMAT,
    Stage,
    lock,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from harness.errors import UserError
from harness.pipeline import file_stages, stage_identity
from harness.pipeline.file_stages import Progress, quiet

if TYPE_CHECKING:
    from harness.models.base_cards import BaseCard

SHOWN = 5
"""Problems of a file that are said at once; the others are counted."""
FIELDS: Mapping[str, type] = {
    "id": str,
    "text": str,
    "max_new_tokens": int,
    "cluster": str,
    "images": list,
}


def export(
    benchmark: Benchmark, out: Path, *, split: str, limit: int | None, progress: Progress = quiet
) -> str:
    """Write the questions and their images; what was done, in a sentence.

    Raises:
        UserError: the folder holds another export, or the benchmark's data are not as they should
            be.
    """
    with lock(out):
        stage = Stage(out, stage_identity.export_identity(benchmark, split, limit))
        stage.check()
        if not stage.done:
            try:
                file_stages.export(stage, benchmark, progress=progress)
            except ValueError as error:
                raise UserError(f"{benchmark.name} cannot be exported: {error}") from error
        rows = read_jsonl(out / "questions.jsonl")
    pictures = {name for row in rows for name in row["images"]}
    return f"{out}: {len(rows)} questions of {benchmark.name} on {len(pictures)} images."


def answer(
    questions: Path, card: BaseCard, weights: Path | None, out: Path, *, progress: Progress = quiet
) -> str:
    """Let a model answer exported questions: the base, or ``weights`` of its architecture (a
    trained round's ``model/``).

    Raises:
        UserError: there are no questions, the weights do not fit, or the folder holds answers of
            other settings.
    """
    from transformers.utils import logging

    from harness.pipeline import stages
    from harness.pipeline.workshop import Models

    logging.disable_progress_bar()  # the stage shows its own
    benchmark = str(exported(questions)["benchmark"])
    at = stage_identity.untrained(card)
    if weights is not None:
        at = stage_identity.Checkpoint(
            card=card,
            id=stage_identity.untrained(replace(card, source=weights)).id,
            weights=weights,
        )
    with lock(out):
        stage = Stage(out, stage_identity.answers_identity(at, benchmark, questions))
        stage.check()
        if not stage.done:
            stages.answer(stage, vlm=Models().engine(at), questions=questions, progress=progress)
        rows = read_jsonl(out / "answers.jsonl")
    cut = sum(not row["finished"] for row in rows)
    return f"{out}: {len(rows)} answers to {benchmark}" + (
        f", {cut} of them cut at their length." if cut else "."
    )


def grade(benchmark: Benchmark, questions: Path, answers: Path, out: Path) -> str:
    """Grade answers: a folder that ``answer`` wrote, or a ``.jsonl`` file with lines ``{"id",
    "answer"}``. The answers as they were read lie in ``out``'s folder ``answers``; the values come
    back as text.

    Raises:
        UserError: the answers are not to these questions, or not in order (file and line); or they
            cannot be graded now.
    """
    with lock(out):
        given = accept(benchmark, questions, answers)
        kept = Stage(out / "answers", given.identity)
        kept.check()
        stage = Stage(out, stage_identity.grade_identity(given.identity, benchmark))
        if not stage.done and stage.differs_only_in(
            "version"
        ):  # it had stopped, perhaps for want of a judge: nothing is lost
            write_json(out / "identity.json", stage.identity)
        stage.check()
        if not stage.done:
            kept.open()
            write_jsonl(kept.folder / "answers.jsonl", given.rows)
            kept.finish({"stage": "answer", "name": benchmark.name, "counts": given.counts})
            file_stages.grade(stage, benchmark=benchmark, answers=kept.folder)
        report = read_json(out / "report.json")
    lines = [
        f"{out}: {given.counts['questions']} questions of {benchmark.name}, {report['unscored']}"
        " unscored" + said(given.counts)
    ]
    for metric in benchmark.metrics:
        value = report["values"][metric.name]
        lines.append(
            f"  {metric.name:<28}"
            f" {'nothing to measure' if value is None else f'{value:.2f} {metric.unit}'}"
        )
    return "\n".join(lines)


def estimate(benchmark: Benchmark, questions: Path, answers: Path) -> str:
    """What grading these answers would take where a model judges them; nothing is written and
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


def said(counts: Mapping[str, int]) -> str:
    """What was strange about the answers, in words."""
    strange = {
        "missing": "without an answer",
        "empty": "empty",
        "control_characters": "with control characters",
    }
    found = [f"{counts[name]} {words}" for name, words in strange.items() if counts[name]]
    return f" ({', '.join(found)})." if found else "."


def exported(questions: Path) -> Mapping[str, Any]:
    """The identity of a finished export, its questions checked.

    Raises:
        UserError: there is none, or a line of it is no question.
    """
    path = questions / "questions.jsonl"
    if (
        not (questions / "identity.json").is_file()
        or not path.is_file()
        or not (questions / "DONE").exists()
    ):
        raise UserError(
            f"{questions} holds no finished export; make one with: python -m harness export"
            f" BENCHMARK --out {questions}"
        )
    identity = read_json(questions / "identity.json")
    if (
        not isinstance(identity, dict)
        or identity.get("stage") != "export"
        or identity.get("format") != FORMAT
    ):
        raise UserError(
            f"{questions}/identity.json is not that of an export in format {FORMAT}; export again."
        )
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict) or any(
            not isinstance(row.get(name), kind) for name, kind in FIELDS.items()
        ):
            raise UserError(
                f"{path}, line {number}, is no question with {', '.join(FIELDS)}; export again."
            )
        # An image's name is a file in images/ and leads nowhere else, whoever wrote the line.
        if any(
            not isinstance(name, str) or name != Path(name).name or name.startswith(".")
            for name in row["images"]
        ):
            raise UserError(
                f"{path}, line {number}: an image's name must be that of a file in images/; export"
                " again."
            )
    return identity


@dataclass(frozen=True, kw_only=True)
class Given:
    """Answers that may be graded: their rows in the questions' order, what they are, and what is
    strange about them."""

    rows: Sequence[Mapping[str, Any]]
    identity: Mapping[str, Any]
    counts: Mapping[str, int]


def accept(benchmark: Benchmark, questions: Path, answers: Path) -> Given:
    """The answers, checked against the questions.

    Raises:
        UserError: as for :func:`grade`.
    """
    export = exported(questions)
    same_questions(benchmark, export, questions)
    content = (questions / "questions.jsonl").read_bytes()
    asked = [row["id"] for row in read_jsonl(questions / "questions.jsonl")]
    identity = {
        "stage": "answer",
        "format": FORMAT,
        "benchmark": export["benchmark"],
        "questions": hashlib.sha256(content).hexdigest(),
    }
    path = answers
    if answers.is_dir():
        identity = of_folder(answers, identity)
        path = answers / "answers.jsonl"
    rows, models = read_answers(path, set(asked))
    identity |= {"answers": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()}
    if models:
        identity |= {"said_by": same_model(path, models, identity)}
    counts = {
        "questions": len(asked),
        "missing": len(asked) - len(rows),
        "empty": sum(not text.strip() for text in rows.values()),
        "control_characters": sum(any(is_control(sign) for sign in text) for text in rows.values()),
    }
    return Given(
        rows=[{"id": id, "answer": rows[id]} for id in asked if id in rows],
        identity=identity,
        counts=counts,
    )


def same_questions(benchmark: Benchmark, export: Mapping[str, Any], questions: Path) -> None:
    """See that the benchmark still asks what was exported; another grader or judge is welcome.

    Raises:
        UserError: it asks something else by now.
    """
    # A version is "<source> <grader>"; a benchmark that does not tell them apart must be the very
    # one that was exported.
    source = benchmark.source
    same = export.get("version") == benchmark.version
    if not same and not (source and str(export.get("version")).startswith(f"{source} ")):
        raise UserError(
            f"{questions} holds questions of {export['benchmark']} in version"
            f" {export.get('version')!r}, but this is version {benchmark.version!r}; export and"
            " answer again."
        )


def of_folder(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of an answers' folder.

    Raises:
        UserError: it is not finished, or answers other questions.
    """
    if not (folder / "DONE").exists() or not (folder / "identity.json").is_file():
        raise UserError(
            f"{folder} holds no finished answers; run the same python -m harness answer again, or"
            " give a .jsonl file."
        )
    identity = read_json(folder / "identity.json")
    for name, value in asked.items():
        if not isinstance(identity, dict) or identity.get(name) != value:
            raise UserError(
                f"{folder} answers other questions (its identity.json differs in {name}); give the"
                " folder that answered these."
            )
    return dict(identity)


def read_answers(path: Path, asked: set[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Answers by id, and the first line of each model that the lines name (``"model"``, which they
    need not).

    Raises:
        UserError: there is no such file, or lines of it are no answers to these questions.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"The answers {path} cannot be read ({error.strerror}); give a folder or a .jsonl file."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 (byte {error.start}); save it in that encoding."
        ) from None
    rows: dict[str, str] = {}
    lines: dict[str, int] = {}
    models: dict[str, int] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row, why = parsed(line)
        if row is None:
            wrong.append(f"line {number} {why}")
        elif row["id"] in rows:
            wrong.append(
                f"line {number} answers {row['id']!r} again, after line {lines[row['id']]}"
            )
        elif row["id"] not in asked:
            wrong.append(f"line {number} answers {row['id']!r}, which is none of these questions")
        else:
            rows[row["id"]], lines[row["id"]] = row["answer"], number
            if row.get("model") is not None:
                models.setdefault(str(row["model"]), number)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError(
            f"{path}: {'; '.join(wrong[:SHOWN])}{more}. Each line must be an object with a"
            " question's id and its answer."
        )
    if not rows:
        raise UserError(
            f'{path} holds no answer; each line must look like {{"id": "...", "answer": "..."}}.'
        )
    return rows, models


def parsed(line: str) -> tuple[dict[str, Any] | None, str]:
    """The line's object, or None and what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, "is not JSON"
    if not isinstance(row, dict):
        return None, "is not an object"
    for name in ("id", "answer"):
        if name not in row:
            return None, f"has no {name!r}"
        if not isinstance(row[name], str):
            return (
                None,
                (
                    f"has {'no text' if row[name] is None else f'a {type(row[name]).__name__}'} as"
                    f" its {name!r}"
                ),
            )
        try:
            row[name].encode()
        except UnicodeEncodeError:
            return None, f"has half a character (a lone surrogate) in its {name!r}"
    return row, ""


def same_model(path: Path, models: Mapping[str, int], identity: Mapping[str, Any]) -> str:
    """The one model that the lines name.

    Raises:
        UserError: they name several, or another than the folder's identity.
    """
    (first, _), *others = models.items()
    if others:
        raise UserError(
            f"{path}, line {others[0][1]}: the model is {others[0][0]!r}, before it was {first!r};"
            " grade one model at a time."
        )
    known = {str(identity[name]) for name in ("base", "model") if name in identity}
    if known and first not in known:
        raise UserError(
            f"{path}, line {models[first]}: the model is {first!r}, but identity.json beside it"
            f" says {identity.get('base')!r}; put answers of another model into a file of their"
            " own."
        )
    return first


def is_control(sign: str) -> bool:
    return unicodedata.category(sign) == "Cc" and sign not in "\n\r\t"
