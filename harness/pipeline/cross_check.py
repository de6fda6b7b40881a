"""The same stored answers, graded natively and by the toolkits that are installed: where they
differ, by metric and question.

A study's stored grades say what is right for each question, so any native benchmark of yes/no
questions can be handed to a toolkit as POPE, and any with one right word or phrase as GQA: the
toolkit's own code grades the stored answers, and every difference is shown with its reason. No
model is needed and nothing is answered again."""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.interface import Report
from harness.artifacts.results_folder import Results, lock, read_json, read_jsonl, write_json
from harness.errors import UserError

METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
SHOWN = 20
YES_NO = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A stored question with the stored answer and the native grade. ``value`` is None where it is
    unscored."""

    id: str
    text: str
    image: Path | None
    answer: str
    truth: str
    value: float | None
    read_as: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A question that a toolkit grades otherwise. None: unscored there."""

    id: str
    answer: str
    truth: str
    native: float | None
    native_read: str
    kit: float | None
    kit_read: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark's stored answers of one model, graded twice. ``metrics``: name to (native,
    toolkit's)."""

    model: str
    benchmark: str
    kit: str
    version: str
    questions: int
    same: int
    left_out: int
    metrics: Mapping[str, tuple[float | None, float | None]]
    differences: tuple[Difference, ...]


Kit = Callable[[Sequence[Asked], Path], tuple[str, Report]]
"""Grades questions, using the folder for its files: its version, and a report whose questions are
numbered 0, 1, ..."""


def check(out: Path, say: Callable[[str], None] = print) -> list[Comparison]:
    """Compare everything stored in ``out``; prints it and writes ``cross_check.json``.

    Raises:
        UserError: there is no study, no stored grade that can be compared, or no toolkit is
            installed.
    """
    if not (out / "study.json").exists():
        raise UserError(f"There are no results in {out}; give the folder of an earlier run.")
    with lock(out):
        stored = list(_stored(out))
        if not stored:
            raise UserError(
                f"{out} holds no grades of questions with one right answer and their answers beside"
                " them; run a study with yes/no or one-word questions first (synthetic_pope,"
                " synthetic_vqa, pope)."
            )
        found: list[Comparison] = []
        refusals: Counter[str] = Counter()
        for model, benchmark, asked, values, left_out in stored:
            for name, kit in KITS.items():
                with tempfile.TemporaryDirectory(prefix="selfsight-cross-check-") as folder:
                    try:
                        version, report = kit(asked, Path(folder))
                    except ValueError as error:
                        refusals[f"{name}: {error}"] += 1
                        continue
                found.append(
                    compare(model, benchmark, name, version, asked, values, report, left_out)
                )
                say("\n".join(lines(found[-1])))
        if not found:
            raise UserError(f"No toolkit graded anything. {' '.join(refusals)}")
        for refusal, times in refusals.items():
            say(f"Not compared ({times} times). {refusal}")
        write_json(
            out / "cross_check.json",
            {"comparisons": [asdict(one) for one in found], "refusals": dict(refusals)},
        )
    return found


def compare(
    model: str,
    benchmark: str,
    kit: str,
    version: str,
    asked: Sequence[Asked],
    native: Mapping[str, float | None],
    report: Report,
    left_out: int = 0,
) -> Comparison:
    """Set a toolkit's report beside the stored grades."""
    theirs = {grade.question: grade for grade in report.grades}
    differences = []
    for number, one in enumerate(asked):
        grade = theirs[str(number)]
        if grade.value != one.value:
            differences.append(
                Difference(
                    id=one.id,
                    answer=one.answer,
                    truth=one.truth,
                    native=one.value,
                    native_read=one.read_as,
                    kit=grade.value,
                    kit_read=grade.read_as,
                    reason=_reason(one, grade.value, grade.read_as, grade.why),
                )
            )
    return Comparison(
        model=model,
        benchmark=benchmark,
        kit=kit,
        version=version,
        questions=len(asked),
        same=len(asked) - len(differences),
        left_out=left_out,
        metrics={
            name: (native.get(name), report.values[name])
            for name in METRICS
            if name in report.values and name in native
        },
        differences=tuple(differences),
    )


def _reason(one: Asked, value: float | None, read_as: str, why: str) -> str:
    if value is None:
        return f"natively read as {one.read_as!r}; the toolkit reads nothing: {why}"
    if one.value is None:
        return f"natively unscored ({one.why}); the toolkit reads {read_as!r}"
    return f"read natively as {one.read_as!r}, by the toolkit as {read_as!r}; {why or one.why}"


def lines(comparison: Comparison) -> Iterator[str]:
    """The comparison as text: totals, then the differing questions by reason. Answers are shown as
    Python writes them, so no character of a model reaches the terminal as it is."""
    unread = sum(one.native is None for one in comparison.differences)
    yield (
        f"{comparison.model}, {comparison.benchmark}: native against {comparison.version};"
        f" {comparison.questions} questions, {comparison.same} graded alike,"
        f" {len(comparison.differences)} not"
        + (
            f", {comparison.left_out} without truth or answer left out"
            if comparison.left_out
            else ""
        )
    )
    for name, (native, kit) in comparison.metrics.items():
        gap = (
            "the same"
            if native is not None and kit is not None and abs(native - kit) < 1e-6
            else "not the same"
        )
        yield f"  {name:<10} native {_number(native)}  {comparison.kit} {_number(kit)}  {gap}"
    if unread or any(native != kit for native, kit in comparison.metrics.values()):
        yield (
            "  natively an unreadable answer is unscored; a toolkit counts it as wrong, and for the"
            " yes-ratio as no"
        )
    for one in comparison.differences[:SHOWN]:
        yield (
            f"  {one.id}: {_short(one.answer)} (right: {_short(one.truth)})"
            f" {_short(one.reason, 200)}"
        )
    if len(comparison.differences) > SHOWN:
        yield f"  and {len(comparison.differences) - SHOWN} more, in cross_check.json"


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:6.2f}"


def _short(text: str, most: int = 60) -> str:
    shown = ascii(text) if most == 60 else ascii(text)[1:-1]
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def _stored(out: Path) -> Iterator[tuple[str, str, list[Asked], dict[str, float | None], int]]:
    """Every model's grades of benchmarks whose questions have one right answer, with the
    answers."""
    results = Results(out)
    names = [
        entry["name"]
        for entry in read_json(results.study)["benchmarks"]
        if not entry["name"].startswith(("vlmevalkit.", "lmms_eval."))
    ]
    for name in names:
        questions_file = results.questions(name) / "questions.jsonl"
        for done in sorted(out.glob(f"runs/*/seed*/round*/grades/{name}/DONE")):
            round = done.parents[2]
            answers_file = round / "answers" / name / "answers.jsonl"
            if not questions_file.exists() or not answers_file.exists():
                continue
            grades = pd.read_parquet(done.with_name("grades.parquet"))
            values: dict[str, float | None] = read_json(done.with_name("report.json"))["values"]
            if "truth" not in grades or "accuracy" not in values:
                continue  # captions and the like: no single right answer
            questions = {row["id"]: row for row in read_jsonl(questions_file)}
            answers = {row["id"]: row["answer"] for row in read_jsonl(answers_file)}
            asked = [
                _asked(questions[row.question], answers[row.question], row, results.questions(name))
                for row in grades.itertuples()
                if row.question in questions and row.question in answers
            ]
            known = [one for one in asked if one.truth.strip()]
            if known:
                yield "/".join(round.parts[-3:]), name, known, values, len(grades) - len(known)


def _asked(question: Mapping[str, Any], answer: str, grade: Any, folder: Path) -> Asked:
    image = folder / "images" / question["images"][0] if question["images"] else None
    return Asked(
        id=question["id"],
        text=question["text"],
        image=image,
        answer=answer,
        truth="" if pd.isna(grade.truth) else str(grade.truth),
        value=None if pd.isna(grade.value) else float(grade.value),
        read_as=str(grade.read_as),
        why=str(grade.why),
    )


def yes_no(asked: Sequence[Asked]) -> bool:
    return all(one.truth.lower() in YES_NO for one in asked)


def _vlmevalkit(asked: Sequence[Asked], folder: Path) -> tuple[str, Report]:
    from benchmarks import via_vlmevalkit
    from benchmarks.synthetic.vlmevalkit import write

    dataset = "POPE" if yes_no(asked) else "GQA_TestDev_Balanced"
    first: dict[Path | None, int] = {}
    rows = []
    for number, one in enumerate(asked):
        held = first.setdefault(one.image, number)
        row = {
            "index": number,
            "image": base64.b64encode(_content(one)).decode() if held == number else held,
            "question": one.text,
            "answer": one.truth.capitalize() if dataset == "POPE" else one.truth,
        }
        rows.append({**row, "category": "all"} if dataset == "POPE" else row)
    write(folder / f"{dataset}.tsv", rows)
    made = via_vlmevalkit.benchmark(dataset, "test", None, folder)
    return made.version, made.grade({str(number): one.answer for number, one in enumerate(asked)})


def _content(one: Asked) -> bytes:
    if one.image is None or not one.image.exists():
        raise ValueError(
            f"the image of question {one.id} is not among the exported ones; run the study again"
        )
    return one.image.read_bytes()


def _lmms_eval(asked: Sequence[Asked], folder: Path) -> tuple[str, Report]:
    from datasets import Dataset, Features, Image, Value, disable_progress_bars

    from benchmarks import via_lmms_eval

    if not yes_no(asked):
        raise ValueError(
            "one-word answers have no twin in lmms-eval here; yes/no questions are compared, as its"
            " task pope"
        )
    columns = ("id", "question_id", "question", "answer", "image_source", "category")
    rows = [
        {
            **dict.fromkeys(columns, "all"),
            "id": str(number),
            "question_id": str(number),
            "question": one.text,
            "answer": one.truth.lower(),
            "image": {"bytes": _content(one), "path": f"{number}.png"},
        }
        for number, one in enumerate(asked)
    ]
    disable_progress_bars()  # one a small file
    features = Features({**{name: Value("string") for name in columns}, "image": Image()})
    Dataset.from_list(rows, features=features).to_parquet(folder / "test.parquet")
    made = via_lmms_eval.benchmark("pope", "test", None, folder / "test.parquet")
    # Its questions are its documents' numbers, in the order of the file.
    made_of = made.grade({f"{number:06d}": one.answer for number, one in enumerate(asked)})
    grades = [replace(grade, question=str(int(grade.question))) for grade in made_of.grades]
    values = {_plain_name(name): value for name, value in made_of.values.items() if ":" not in name}
    return made.version, replace(made_of, grades=grades, values=values)


def _plain_name(name: str) -> str:
    """``pope_f1_score`` is f1. Its yes-ratio is the truth's, not the answers': it is not
    compared."""
    return name if name == "pope_yes_ratio" else name.removeprefix("pope_").removesuffix("_score")


KITS: Mapping[str, Kit] = {"vlmevalkit": _vlmevalkit, "lmms_eval": _lmms_eval}
