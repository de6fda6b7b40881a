"""Answers that other programs wrote: read, and checked against the exported questions, line by
line."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import plain_bytes
from benchmarks.interface import Benchmark
from harness.artifacts.fingerprint import storable
from harness.artifacts.results_folder import FORMAT, read_json, read_jsonl
from harness.artifacts.stored_files import check_files, read_bytes
from harness.errors import UserError
from harness.pipeline import answer_formats

SHOWN = 5
"""Problems of a file that are shown at once; the others are counted."""

FIELDS: Mapping[str, type] = {
    "id": str,
    "text": str,
    "max_new_tokens": int,
    "cluster": str,
    "images": list,
}
"""Of a question's line."""
IDENTITY: Mapping[str, Callable[[Any], bool]] = {
    "benchmark": lambda value: isinstance(value, str) and bool(value) and _utf8(value),
    "version": lambda value: isinstance(value, str) and bool(value) and _utf8(value),
    "split": lambda value: value in ("dev", "test"),
    "limit": lambda value: value is None or (type(value) is int and 1 <= value <= 10**9),
}
"""What grading reads of an export's identity."""


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
    for name, holds in IDENTITY.items():
        if name not in identity or not holds(identity[name]):
            raise UserError(
                f"{questions}/identity.json has no usable {name} ({identity.get(name)!r:.60});"
                " export again."
            )
    seen: set[str] = set()
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict) or any(
            not isinstance(row.get(name), kind) or not _utf8(row[name])
            for name, kind in FIELDS.items()
        ):
            raise UserError(
                f"{path}, line {number}, is no question with {', '.join(FIELDS)}; export again."
            )
        if isinstance(row["max_new_tokens"], bool) or not 1 <= row["max_new_tokens"] <= 10**6:
            raise UserError(
                f"{path}, line {number}: max_new_tokens is {row['max_new_tokens']!r:.60}; it must"
                " be from 1 to 1,000,000; export again."
            )
        if row["id"] in seen:
            raise UserError(
                f"{path}, line {number}: the id {row['id']!r:.60} is there already; export again."
            )
        seen.add(row["id"])
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
    """Answers that may be graded."""

    rows: Sequence[Mapping[str, Any]]
    """In the questions' order."""
    identity: Mapping[str, Any]
    counts: Mapping[str, int]
    """How many questions there are, and how many answers are missing, empty or odd."""


def accept(benchmark: Benchmark, questions: Path, answers: Path) -> Given:
    """The answers, checked against the questions.

    Raises:
        UserError: as for :func:`grade`.
    """
    export = exported(questions)
    _check_questions(benchmark, export, questions)
    content = read_bytes(questions / "questions.jsonl")
    asked = [row["id"] for row in read_jsonl(questions / "questions.jsonl")]
    identity = {
        "stage": "answer",
        "format": FORMAT,
        "benchmark": export["benchmark"],
        "questions": hashlib.sha256(content).hexdigest(),
    }
    path = answers
    if answers.is_dir():
        identity = _identity_of(answers, identity)
        path = answers / "answers.jsonl"
    found = read_file(path, set(asked))
    rows, models = found.rows, found.models
    identity |= {"answers": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()}
    if models:
        identity |= {"said_by": _model_of(path, models, identity)}
    return Given(rows=_in_order(rows, asked), identity=identity, counts=_counts(rows, asked))


def _in_order(rows: Mapping[str, str], asked: Sequence[str]) -> list[Mapping[str, Any]]:
    return [{"id": id, "answer": rows[id]} for id in asked if id in rows]


def _counts(rows: Mapping[str, str], asked: Sequence[str]) -> dict[str, int]:
    return {
        "questions": len(asked),
        "missing": len(asked) - len(rows),
        "empty": sum(not text.strip() for text in rows.values()),
        "control_characters": sum(
            any(_is_control(sign) for sign in text) for text in rows.values()
        ),
    }


def of_row(
    folder: Path,
    benchmark: str,
    asked: Sequence[str],
    questions: str | None = None,
    *,
    limited: bool = False,
) -> Given:
    """Another program's answers to a study's questions, matched by id. ``identity`` holds the model
    that the file names and the content.

    Args:
        folder: the row's folder, with answers to each benchmark.
        asked: the ids of the questions.
        questions: the SHA-256 of the exported questions; None: they are not exported yet.
        limited: whether the study asks a part of the questions. Then answers to others are left
            out and counted.

    Raises:
        UserError: the answers are not there, or lines of them are no answers to these questions.
    """
    path, known = answer_formats.find(folder, benchmark), dict[str, Any]()
    if path.is_dir():
        other = {} if questions is None or limited else {"questions": questions}
        known = _identity_of(path, {"stage": "answer", "benchmark": benchmark, **other})
        path = path / "answers.jsonl"
    found = read_file(path, set(asked), extras=limited)
    model = str(known.get("base") or next(iter(found.models), ""))
    if found.models and not known:
        model = _model_of(path, found.models, {})
    content = json.dumps(found.rows, sort_keys=True).encode()
    counts = _counts(found.rows, asked) | {"extra": found.extra}
    return Given(
        rows=_in_order(found.rows, asked),
        identity={"said_by": model or None, "model": hashlib.sha256(content).hexdigest()},
        counts=counts,
    )


def _check_questions(benchmark: Benchmark, export: Mapping[str, Any], questions: Path) -> None:
    """Check that the benchmark still has the exported questions; its grader or judge may differ.

    Raises:
        UserError: its questions have changed.
    """
    # A version is "<source> <grader>". Of a benchmark without a source, all of it must agree.
    source = benchmark.source
    same = export.get("version") == benchmark.version
    if not same and not (source and str(export.get("version")).startswith(f"{source} ")):
        raise UserError(
            f"{questions} holds questions of {export['benchmark']} in version"
            f" {export.get('version')!r}, but this is version {benchmark.version!r}; export and"
            " answer again."
        )


def _identity_of(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a folder of answers.

    Raises:
        UserError: it is not finished, a file of it was changed, or its answers are to other
            questions.
    """
    if not (folder / "DONE").exists() or not (folder / "identity.json").is_file():
        raise UserError(
            f"{folder} holds no finished answers; run the same python -m harness answer again, or"
            " give a .jsonl file."
        )
    check_files(folder)
    identity = read_json(folder / "identity.json")
    for name, value in asked.items():
        if not isinstance(identity, dict) or identity.get(name) != value:
            raise UserError(
                f"{folder} answers other questions (its identity.json differs in {name}); give the"
                " folder that answered these."
            )
    return dict(identity)


@dataclass(frozen=True, kw_only=True)
class FileAnswers:
    """The answers of a file, in its order."""

    rows: Mapping[str, str]
    """By question id; unscored ones (``unanswered``) are left out."""
    models: Mapping[str, int]
    """The first line of each model that lines name."""
    extra: int
    """Answers to questions that are not asked."""


def read_file(path: Path, asked: set[str], *, extras: bool = False) -> FileAnswers:
    """The answers in a file. ``extras``: leave out answers to other questions, and count them.

    Raises:
        UserError: there is no such file, or lines of it are no answers to these questions.
    """
    try:
        text = plain_bytes(path).decode("utf-8-sig")
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
    unanswered: set[str] = set()
    wrong: list[str] = []
    extra = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row, why = answer_formats.parse(line)
        if row is None:
            wrong.append(f"line {number} {why}")
            continue
        id = next((id for id in row["ids"] if id in asked), row["ids"][0])
        if id in rows:
            wrong.append(f"line {number} answers {id!r} again, after line {lines[id]}")
        elif id not in asked and extras:
            extra += 1
        elif id not in asked:
            wrong.append(f"line {number} answers {id!r}, which is none of these questions")
        else:
            rows[id], lines[id] = row["answer"], number
            if row["unanswered"]:  # its prompt was too long: unscored, not a wrong answer
                unanswered.add(id)
            if row["model"] is not None:
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
    kept = {id: text for id, text in rows.items() if id not in unanswered}
    return FileAnswers(rows=kept, models=models, extra=extra)


def _utf8(value: object) -> bool:
    """Whether UTF-8 can hold it, if it is a text."""
    return not isinstance(value, str) or storable(value)


def _model_of(path: Path, models: Mapping[str, int], identity: Mapping[str, Any]) -> str:
    """The model that the lines name.

    Raises:
        UserError: they name several, or another one than the folder's identity.
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


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) == "Cc" and sign not in "\n\r\t"
