"""Cross-check: grades stored answers natively and by the installed toolkits, and shows where the
two differ, by metric and question.

A study's stored grades name the right answer of each question. So a native benchmark of yes/no
questions can be given to a toolkit as POPE, and one with a right word or phrase as GQA. The
toolkit's own code grades the stored answers, and each difference is shown with its reason. No model
is needed."""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.interface import Grade, Report
from harness.artifacts.results_folder import Results, lock, read_json, read_jsonl, write_json
from harness.artifacts.stored_files import read_bytes
from harness.errors import UserError
from harness.reporting.stored import image_file, read_parquet
from harness.reporting.study_file import read_study

METRICS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
MAX_SHOWN = 20
"""Differing questions that are printed; the file holds all."""

YES_NO = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """A stored question with its answer and its native grade. ``value`` None: unscored."""

    id: str
    text: str
    image: Path | None
    answer: str
    truth: str
    value: float | None
    read_as: str
    why: str


@dataclass(frozen=True, kw_only=True)
class GradeDifference:
    """A question that a toolkit grades differently. None: unscored."""

    id: str
    answer: str
    truth: str
    native: float | None
    native_read: str
    kit: float | None
    kit_read: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """One model's stored answers on one benchmark, graded twice. ``metrics``: (native, toolkit's)
    by name."""

    model: str
    benchmark: str
    kit: str
    version: str
    questions: int
    same: int
    left_out: int
    metrics: Mapping[str, tuple[float | None, float | None]]
    differences: tuple[GradeDifference, ...]


Kit = Callable[[Sequence[StoredAnswer], Path], tuple[str, Report]]
"""Grades answers, with a folder for its files; gives the toolkit's version, and a report whose
questions are numbered from 0."""


@dataclass(frozen=True, kw_only=True)
class StoredGrades:
    """One model's answers and grades on a benchmark whose questions have one right answer."""

    model: str
    benchmark: str
    answers: Sequence[StoredAnswer]
    values: Mapping[str, float | None]
    """By metric."""
    left_out: int = 0
    """Questions without truth or answer."""

    def compare(self, kit: str, version: str, report: Report) -> CrossCheck:
        """A toolkit's report set beside these grades."""
        theirs = {grade.question: grade for grade in report.grades}
        pairs = [(stored, theirs[str(number)]) for number, stored in enumerate(self.answers)]
        differences = tuple(
            GradeDifference(
                id=stored.id,
                answer=stored.answer,
                truth=stored.truth,
                native=stored.value,
                native_read=stored.read_as,
                kit=grade.value,
                kit_read=grade.read_as,
                reason=_reason(stored, grade),
            )
            for stored, grade in pairs
            if grade.value != stored.value
        )
        native, shared = self.values, report.values.keys() & self.values.keys()
        return CrossCheck(
            model=self.model,
            benchmark=self.benchmark,
            kit=kit,
            version=version,
            questions=len(self.answers),
            same=len(self.answers) - len(differences),
            left_out=self.left_out,
            metrics={
                name: (native[name], report.values[name]) for name in METRICS if name in shared
            },
            differences=differences,
        )


def check(out: Path, say: Callable[[str], None] = print) -> list[CrossCheck]:
    """Compare all answers stored in ``out``; prints the result and writes ``cross_check.json``.

    Raises:
        UserError: there is no study, no stored grade that can be compared, or no toolkit is
            installed.
    """
    if not (out / "study.json").exists():
        raise UserError(f"There are no results in {out}; give the folder of an earlier run.")
    with lock(out):
        every = list(_read_grades(out))
        if not every:
            raise UserError(
                f"{out} holds no grades of questions with one right answer and their answers beside"
                " them; run a study with yes/no or one-word questions first (synthetic_pope,"
                " synthetic_vqa, pope)."
            )
        checked: list[CrossCheck] = []
        refusals: Counter[str] = Counter()
        for stored, (name, kit) in product(every, KITS.items()):
            with tempfile.TemporaryDirectory(prefix="selfsight-cross-check-") as folder:
                try:
                    version, report = kit(stored.answers, Path(folder))
                except ValueError as error:
                    refusals[f"{name}: {error}"] += 1
                    continue
            checked.append(stored.compare(name, version, report))
            say("\n".join(lines(checked[-1])))
        if not checked:
            raise UserError(f"No toolkit graded anything. {' '.join(refusals)}")
        for refusal, times in refusals.items():
            say(f"Not compared ({times} times). {refusal}")
        content = {"comparisons": list(map(asdict, checked)), "refusals": dict(refusals)}
        write_json(out / "cross_check.json", content)
    return checked


def _reason(stored: StoredAnswer, grade: Grade) -> str:
    if grade.value is None:
        return f"natively read as {stored.read_as!r}; the toolkit reads nothing: {grade.why}"
    if stored.value is None:
        return f"natively unscored ({stored.why}); the toolkit reads {grade.read_as!r}"
    reason = grade.why or stored.why
    return f"read natively as {stored.read_as!r}, by the toolkit as {grade.read_as!r}; {reason}"


def lines(comparison: CrossCheck) -> Iterator[str]:
    """The comparison as text: totals, then the differing questions by reason. Answers are shown as
    Python literals, so that no control character of a model reaches the terminal."""
    unread = sum(difference.native is None for difference in comparison.differences)
    left_out = comparison.left_out
    yield (
        f"{comparison.model}, {comparison.benchmark}: native against {comparison.version};"
        f" {comparison.questions} questions, {comparison.same} graded alike,"
        f" {len(comparison.differences)} not"
        + (f", {left_out} without truth or answer left out" if left_out else "")
    )
    for name, (native, kit) in comparison.metrics.items():
        equal = native is not None and kit is not None and abs(native - kit) < 1e-6
        gap = "the same" if equal else "not the same"
        yield f"  {name:<10} native {_number(native)}  {comparison.kit} {_number(kit)}  {gap}"
    if unread or any(native != kit for native, kit in comparison.metrics.values()):
        yield (
            "  natively an unreadable answer is unscored; a toolkit counts it as wrong, and for the"
            " yes-ratio as no"
        )
    for difference in comparison.differences[:MAX_SHOWN]:
        yield (
            f"  {difference.id}: {_short(difference.answer)} (right: {_short(difference.truth)})"
            f" {_short(difference.reason, 200)}"
        )
    if len(comparison.differences) > MAX_SHOWN:
        yield f"  and {len(comparison.differences) - MAX_SHOWN} more, in cross_check.json"


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:6.2f}"


def _short(text: str, limit: int = 60) -> str:
    literal = ascii(text) if limit == 60 else ascii(text)[1:-1]
    return literal if len(literal) <= limit else literal[: limit - 3] + "..."


def _read_grades(out: Path) -> Iterator[StoredGrades]:
    """Every model's answers and grades on benchmarks whose questions have one right answer."""
    results = Results(out)
    for entry in read_study(results)["benchmarks"]:
        name, folder = entry["name"], results.questions(entry["name"])
        if name.startswith(("vlmevalkit.", "lmms_eval.")):
            continue
        for done in sorted(out.glob(f"runs/*/seed*/round*/grades/{name}/DONE")):
            round = done.parents[2]
            files = (folder / "questions.jsonl", round / "answers" / name / "answers.jsonl")
            if not all(file.exists() for file in files):
                continue
            grades = read_parquet(done.with_name("grades.parquet"))
            values = read_json(done.with_name("report.json"))["values"]
            if "truth" not in grades or "accuracy" not in values:
                continue  # captions and the like: no single right answer
            questions, answers = ({row["id"]: row for row in read_jsonl(file)} for file in files)
            answered = [
                _stored_answer(
                    questions[row.question], answers[row.question]["answer"], row, folder
                )
                for row in grades.itertuples()
                if row.question in questions and row.question in answers
            ]
            if with_truth := [stored for stored in answered if stored.truth.strip()]:
                yield StoredGrades(
                    model="/".join(round.parts[-3:]),
                    benchmark=name,
                    answers=with_truth,
                    values=values,
                    left_out=len(grades) - len(with_truth),
                )


def _stored_answer(
    question: Mapping[str, Any], answer: str, grade: Any, folder: Path
) -> StoredAnswer:
    images = question["images"]
    image = image_file(folder / "images", images[0]) if images else None
    return StoredAnswer(
        id=question["id"],
        text=question["text"],
        image=image,
        answer=answer,
        truth="" if pd.isna(grade.truth) else str(grade.truth),
        value=None if pd.isna(grade.value) else float(grade.value),
        read_as=str(grade.read_as),
        why=str(grade.why),
    )


def yes_no(answers: Sequence[StoredAnswer]) -> bool:
    return all(stored.truth.lower() in YES_NO for stored in answers)


def _vlmevalkit(answers: Sequence[StoredAnswer], folder: Path) -> tuple[str, Report]:
    from benchmarks import via_vlmevalkit
    from benchmarks.synthetic.vlmevalkit import write

    dataset = "POPE" if yes_no(answers) else "GQA_TestDev_Balanced"
    first: dict[Path | None, int] = {}
    rows = []
    for number, stored in enumerate(answers):
        first_index = first.setdefault(stored.image, number)
        row = {
            "index": number,
            "image": base64.b64encode(_image_bytes(stored)).decode()
            if first_index == number
            else first_index,
            "question": stored.text,
            "answer": stored.truth.capitalize() if dataset == "POPE" else stored.truth,
        }
        rows.append({**row, "category": "all"} if dataset == "POPE" else row)
    write(folder / f"{dataset}.tsv", rows)
    benchmark = via_vlmevalkit.benchmark(dataset, "test", None, folder)
    return benchmark.version, benchmark.grade(
        {str(number): stored.answer for number, stored in enumerate(answers)}
    )


def _image_bytes(stored: StoredAnswer) -> bytes:
    if stored.image is None or not stored.image.exists():
        raise ValueError(
            f"the image of question {stored.id} is not among the exported ones; run the study again"
        )
    return read_bytes(stored.image)


def _lmms_eval(answers: Sequence[StoredAnswer], folder: Path) -> tuple[str, Report]:
    from datasets import Dataset, Features, Image, Value, disable_progress_bars

    from benchmarks import via_lmms_eval

    if not yes_no(answers):
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
            "question": stored.text,
            "answer": stored.truth.lower(),
            "image": {"bytes": _image_bytes(stored), "path": f"{number}.png"},
        }
        for number, stored in enumerate(answers)
    ]
    disable_progress_bars()  # one a small file
    features = Features({**{name: Value("string") for name in columns}, "image": Image()})
    Dataset.from_list(rows, features=features).to_parquet(folder / "test.parquet")
    benchmark = via_lmms_eval.benchmark("pope", "test", None, folder / "test.parquet")
    # Its questions are its documents' numbers, in the order of the file.
    report = benchmark.grade(
        {f"{number:06d}": stored.answer for number, stored in enumerate(answers)}
    )
    grades = [replace(grade, question=str(int(grade.question))) for grade in report.grades]
    values = {_native_name(name): value for name, value in report.values.items() if ":" not in name}
    return benchmark.version, replace(report, grades=grades, values=values)


def _native_name(name: str) -> str:
    """``pope_f1_score`` is f1. Its yes-ratio is the truth's, not the answers': it is not
    compared."""
    return name if name == "pope_yes_ratio" else name.removeprefix("pope_").removesuffix("_score")


KITS: Mapping[str, Kit] = {"vlmevalkit": _vlmevalkit, "lmms_eval": _lmms_eval}
