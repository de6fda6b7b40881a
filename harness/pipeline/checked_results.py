"""What methods and benchmarks give, checked before it is written. Each may be a user's own code: an
error names their file, and says what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.files import refused_shape
from benchmarks.interface import Benchmark, Grade, Question, Report
from harness.artifacts.fingerprint import describe
from harness.errors import UserError, user_code, user_file
from methods.controls import Control
from methods.interface import Dropped, Item, Method, PreferencePair, Tools

_END: Any = object()
_TEXTS = {
    PreferencePair: ("key", "item", "prompt", "chosen", "rejected", "kind"),
    Dropped: ("key", "item", "reason", "kind"),
    Question: ("id", "text", "cluster"),
    Grade: ("question", "cluster", "read_as", "why", "truth"),
}
"""Fields that must be text."""


@dataclass(frozen=True)
class Call:
    """A call of a method's or benchmark's function, for sentences about what it gave."""

    owner: object
    name: str
    expected: str

    def made(self) -> AbstractContextManager[None]:
        """The block in which it is called."""
        return user_code(self.owner, self.name, self.expected)

    def wrong(self, what: str, expected: str | None = None) -> UserError:
        file, expected = user_file(self.owner), expected or self.expected
        return UserError(
            f"{file}: {self.name} {what}; {expected}." if file else f"{self.name} {what}."
        )

    def described(self, value: object, name: str) -> Any:
        """The value as it is stored."""
        try:
            return describe(value, name)
        except (TypeError, ValueError) as error:
            raise self.wrong(f"gave what cannot be stored: {error}") from error

    def stored(self, value: Any) -> Any:
        """The dataclass as it is stored, its texts checked."""
        fields = self.described(value, type(value).__name__)
        self.check_texts(type(value), fields)
        return fields

    def check_texts(self, kind: type, fields: Mapping[str, Any]) -> None:
        for name in _TEXTS[kind]:
            if not isinstance(value := fields[name], str):
                raise self.wrong(
                    f"gave a {kind.__name__} whose {name} is {_type_of(value)}, no text"
                )
            self.described(value, f"{kind.__name__}.{name}")


def _of_method(method: Method, function: str, expected: str) -> Call:
    owner = method.inner if isinstance(method, Control) else method
    return Call(owner, f"{function}() of the method {owner.name!r}", expected)


def pair_rows(method: Method, items: Sequence[Item], tools: Tools) -> list[dict[str, Any]]:
    """The rows of a shard: ``{"pair": ...}`` or ``{"dropped": ...}`` for each outcome.

    Raises:
        UserError: the method's own code raised, or yielded something else.
    """
    expected = "it must yield PreferencePair and Dropped objects (methods/interface.py)"
    call = _of_method(method, "pairs", expected)
    with call.made():
        outcomes = list(method.pairs(items, tools))
    ids, rows = {item.id for item in items}, list[dict[str, Any]]()
    for outcome in outcomes:
        if not isinstance(outcome, PreferencePair | Dropped):
            raise call.wrong(f"yielded {_type_of(outcome)}")
        if outcome.item not in ids:
            raise call.wrong(f"yielded the item {outcome.item!r:.60}, which it was not given")
        is_pair = isinstance(outcome, PreferencePair)
        if isinstance(outcome, PreferencePair) and not isinstance(outcome.aligned, bool):
            raise call.wrong(f"yielded aligned={outcome.aligned!r:.60}")
        rows.append({"pair" if is_pair else "dropped": call.stored(outcome)})
    return rows


def method_report(method: Method, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, Any]:
    """What the method reports on a round.

    Raises:
        UserError: the method's own code raised, or returned something that cannot be stored.
    """
    call = _of_method(method, "report", "it must return a dictionary")
    with call.made():
        report = method.report(records)
    if not isinstance(report, Mapping):
        raise call.wrong(f"returned {_type_of(report)}")
    return dict(call.described(report, "the report"))


def questions_of(benchmark: Benchmark) -> Iterator[Question]:
    """The benchmark's questions.

    Raises:
        UserError: its data are missing or broken, its own code raised, or a question cannot be
            stored or asked.
    """
    expected = "it must yield Question objects (benchmarks/interface.py)"
    call = Call(benchmark, f"questions() of the benchmark {benchmark.name!r}", expected)
    try:
        with call.made():
            questions = iter(benchmark.questions())
        while True:
            with call.made():
                question = next(questions, _END)
            if question is _END:
                return
            yield _checked_question(call, question)
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be exported: {error}") from error


def _checked_question(call: Call, question: Any) -> Question:
    if not isinstance(question, Question):
        raise call.wrong(f"yielded {_type_of(question)}")
    call.check_texts(Question, {name: getattr(question, name) for name in _TEXTS[Question]})
    named = f"the question {question.id!r:.60}"
    if type(question.max_new_tokens) is not int:
        actual = _type_of(question.max_new_tokens)
        raise call.wrong(f"max_new_tokens of {named} is {actual}, no whole number")
    if not isinstance(question.images, tuple | list):
        raise call.wrong(f"images of {named} is {_type_of(question.images)}")
    for image in question.images:
        if not isinstance(image, Image.Image):
            raise call.wrong(f"an image of {named} is {_type_of(image)}")
        with user_code(call.owner, f"the image of {named}", "it must be a whole image"):
            image.load()
        if why := refused_shape(image.size):
            cure = "cut or pad the image, or leave the question out"
            raise call.wrong(f"the image of {named} {why}", cure)
    return question


def graded(benchmark: Benchmark, answers: Mapping[str, str]) -> Report:
    """The grades of the answers.

    Raises:
        UserError: the answers are to other questions, a judge cannot be asked, the benchmark's own
            code raised, or a grade cannot be counted.
    """
    expected = "it must return a Report with one Grade for each question (benchmarks/interface.py)"
    call = Call(benchmark, f"grade() of the benchmark {benchmark.name!r}", expected)
    try:
        with call.made():
            report = benchmark.grade(answers)
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be graded: {error}") from error
    if not isinstance(report, Report):
        raise call.wrong(f"returned {_type_of(report)}")
    seen: set[str] = set()
    for grade in report.grades:
        if not isinstance(grade, Grade):
            raise call.wrong(f"returned {_type_of(grade)} as a grade")
        call.stored(grade)
        named = f"the question {grade.question!r:.60}"
        if grade.question in seen:
            raise call.wrong(f"returned two grades for {named}")
        seen.add(grade.question)
        value: dict[str, Any] = {"value": 0.0 if grade.value is None else grade.value}
        for name, number in (value | dict(grade.counts)).items():
            if not isinstance(number, int | float) or abs(number) > 1e300:
                raise call.wrong(f"{name} of {named} is {_type_of(number)}, no number")
    if missing := [id for id in answers if id not in seen]:
        raise call.wrong(
            f"returned no grade for the question {missing[0]!r:.60}, which has an answer"
        )
    call.described(report.values, "values")
    for metric in benchmark.metrics:
        if metric.name not in report.values:
            raise call.wrong(f"returned no value of the metric {metric.name!r}")
    return report


def _type_of(value: object) -> str:
    """A value for a sentence: None, or its type."""
    return "None" if value is None else f"a {type(value).__name__}"
