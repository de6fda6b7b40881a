"""Answers that other programs wrote: read, and checked against the exported questions, line by
line. Of a study's row of such answers (``--row "GPT-4o=answers:FOLDER"``) each question's answer is
found by its id; nothing is trained or asked here."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import plain_bytes
from benchmarks.grading import without_images
from benchmarks.interface import Benchmark
from harness.artifacts.fingerprint import storable
from harness.artifacts.results_folder import ANSWERS_PREFIX, FORMAT, Results, read_json, read_jsonl
from harness.artifacts.stored_files import check_files, is_stored
from harness.errors import UserError
from harness.pipeline import answer_formats
from harness.pipeline.stage_identity import Identity, given_identity, questions_sha
from harness.study.study import Run, Study

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
    path, stored = questions / "questions.jsonl", questions / "identity.json"
    if not (stored.is_file() and path.is_file() and (questions / "DONE").exists()):
        raise UserError(
            f"{questions} holds no finished export; make one with: python -m harness export"
            f" BENCHMARK --out {questions}"
        )
    identity = read_json(stored)
    kind = (identity.get("stage"), identity.get("format")) if isinstance(identity, dict) else None
    if kind != ("export", FORMAT):
        raise UserError(f"{stored} is not that of an export in format {FORMAT}; export again.")
    for name, holds in IDENTITY.items():
        if name not in identity or not holds(identity[name]):
            raise UserError(
                f"{stored} has no usable {name} ({identity.get(name)!r:.60}); export again."
            )
    seen: set[str] = set()
    for number, row in enumerate(read_jsonl(path), start=1):
        if wrong := _no_question(row, seen):
            raise UserError(f"{path}, line {number}{wrong}; export again.")
        seen.add(row["id"])
    return dict(identity)


def _no_question(row: Any, seen: set[str]) -> str:
    """What is wrong with a question's line, to end a sentence; empty: nothing."""
    if not isinstance(row, dict) or any(
        not isinstance(row.get(name), kind) or not _utf8(row[name]) for name, kind in FIELDS.items()
    ):
        return f", is no question with {', '.join(FIELDS)}"
    most = row["max_new_tokens"]
    if isinstance(most, bool) or not 1 <= most <= 10**6:
        return f": max_new_tokens is {most!r:.60}; it must be from 1 to 1,000,000"
    if row["id"] in seen:
        return f": the id {row['id']!r:.60} is there already"
    # An image's name is a file in images/ and leads nowhere else, whoever wrote the line.
    if not all(
        isinstance(name, str) and name == Path(name).name and not name.startswith(".")
        for name in row["images"]
    ):
        return ": an image's name must be that of a file in images/"
    return ""


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
    asked = [row["id"] for row in read_jsonl(questions / "questions.jsonl")]
    identity, path = given_identity({}, export["benchmark"], questions), answers
    if answers.is_dir():
        identity = _identity_of(answers, identity)
        path = answers / "answers.jsonl"
    found = read_file(path, set(asked))
    identity |= {"answers": found.sha}
    if found.models:
        identity |= {"said_by": _model_of(path, found.models, identity)}
    return found.given(asked, identity)


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
    return found.given(asked, {"said_by": model or None, "model": found.sha}, extra=found.extra)


def read_given(study: Study, run: Run, benchmark: str, questions: Path) -> Given:
    """The answers to exported questions.

    Raises:
        UserError: they are not there, or lines of them are no answers to these questions.
    """
    ids = [row["id"] for row in read_jsonl(questions / "questions.jsonl")]
    sha, limited = questions_sha(questions), study.limit is not None
    return of_row(_folder(run), benchmark, ids, sha, limited=limited)


def identity_of_given(study: Study, results: Results, run: Run, benchmark: str) -> Identity:
    """What the row's answers depend on: the questions, and which answer each has. The place, name
    and format of the file do not count.

    Raises:
        UserError: as :func:`read_given`.
    """
    questions = results.questions(benchmark)
    known = given_identity({"base": ANSWERS_PREFIX}, benchmark, questions)
    if known["questions"] is None:
        return known
    identity = {**known, **read_given(study, run, benchmark, questions).identity}
    path = results.answers(run.label, run.seed, run.last, benchmark) / "identity.json"
    stored = read_json(path) if is_stored(path) else {}
    # Earlier versions kept the folder's place, too; their results stay valid.
    placed = str(stored.get("base")).startswith(ANSWERS_PREFIX)
    return stored if placed and {**stored, "base": ANSWERS_PREFIX} == identity else identity


def _folder(run: Run) -> Path:
    assert run.answers is not None  # asked of such rows alone
    return run.answers


def look_at_given(run: Run, benchmark: Benchmark, *, limited: bool) -> str:
    """A sentence about what is odd about the row's answers, before any work; empty: nothing.

    Raises:
        UserError: as :func:`read_given`.
    """
    name = benchmark.name
    ids = [question.id for question in without_images(benchmark)]
    counts = of_row(_folder(run), name, ids, None, limited=limited).counts
    parts = []
    if counts["missing"]:
        parts.append(
            f"{counts['missing']:,} of {counts['questions']:,} answers to {name} are missing, which"
            " count as unscored"
        )
    if counts["extra"]:
        parts.append(f"{counts['extra']:,} answers to {name} are beyond --limit and unused")
    return f"Row {run.label}: {'; '.join(parts)}." if parts else ""


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

    @property
    def sha(self) -> str:
        """SHA-256 of the answers."""
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()

    def given(self, asked: Sequence[str], identity: Mapping[str, Any], **more: int) -> Given:
        """The answers to the questions ``asked``; ``more``: further counts."""
        texts = self.rows.values()
        counts = {
            "questions": len(asked),
            "missing": len(asked) - len(self.rows),
            "empty": sum(not text.strip() for text in texts),
            "control_characters": sum(any(map(_is_control, text)) for text in texts),
        }
        rows = [{"id": id, "answer": self.rows[id]} for id in asked if id in self.rows]
        return Given(rows=rows, identity=identity, counts=counts | more)


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
    rows, lines, models = dict[str, str](), dict[str, int](), dict[str, int]()
    unanswered, wrong, extra = set[str](), list[str](), 0
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
