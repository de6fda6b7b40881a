"""What methods and benchmarks give, checked before it is written. Each may be a user's own code: an
error names their file, and says what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from benchmarks.files import refused_shape
from benchmarks.interface import Benchmark, Grade, Question, Report
from harness.artifacts.fingerprint import describe
from harness.errors import UserError, user_code, user_file
from methods.controls import Control
from methods.interface import Dropped, Item, Method, PreferencePair, Tools

PAIRS = "it must yield PreferencePair and Dropped objects (methods/interface.py)"
QUESTIONS = "it must yield Question objects (benchmarks/interface.py)"
_END: Any = object()
GRADES = "it must return a Report with one Grade for each question (benchmarks/interface.py)"
_TEXTS = {
    PreferencePair: ("key", "item", "prompt", "chosen", "rejected", "kind"),
    Dropped: ("key", "item", "reason", "kind"),
    Question: ("id", "text", "cluster"),
    Grade: ("question", "cluster", "read_as", "why", "truth"),
}
"""Fields that must be text."""


def pair_rows(method: Method, items: Sequence[Item], tools: Tools) -> list[dict[str, Any]]:
    """The rows of a shard: ``{"pair": ...}`` or ``{"dropped": ...}`` for each outcome.

    Raises:
        UserError: the method's own code raised, or yielded something else.
    """
    owner = method.inner if isinstance(method, Control) else method
    call = f"pairs() of the method {owner.name!r}"
    with user_code(owner, call, PAIRS):
        outcomes = list(method.pairs(items, tools))
    ids, rows = {item.id for item in items}, list[dict[str, Any]]()
    for outcome in outcomes:
        if not isinstance(outcome, PreferencePair | Dropped):
            raise _wrong(owner, call, f"yielded {_a(outcome)}", PAIRS)
        if outcome.item not in ids:
            raise _wrong(
                owner, call, f"yielded the item {outcome.item!r:.60}, which it was not given", PAIRS
            )
        if not isinstance(outcome, Dropped) and not isinstance(outcome.aligned, bool):
            raise _wrong(owner, call, f"yielded aligned={outcome.aligned!r:.60}", PAIRS)
        fields = _stored(owner, call, outcome, PAIRS)
        rows.append({"pair" if isinstance(outcome, PreferencePair) else "dropped": fields})
    return rows


def method_report(method: Method, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, Any]:
    """What the method reports on a round.

    Raises:
        UserError: the method's own code raised, or returned something that cannot be stored.
    """
    owner = method.inner if isinstance(method, Control) else method
    call, expected = f"report() of the method {owner.name!r}", "it must return a dictionary"
    with user_code(owner, call, expected):
        report = method.report(records)
    if not isinstance(report, Mapping):
        raise _wrong(owner, call, f"returned {_a(report)}", expected)
    return dict(_described(owner, call, report, "the report", expected))


def questions_of(benchmark: Benchmark) -> Iterator[Question]:
    """The benchmark's questions.

    Raises:
        UserError: its data are missing or broken, its own code raised, or a question cannot be
            stored or asked.
    """
    call = f"questions() of the benchmark {benchmark.name!r}"
    try:
        with user_code(benchmark, call, QUESTIONS):
            questions = iter(benchmark.questions())
        while True:
            with user_code(benchmark, call, QUESTIONS):
                question = next(questions, _END)
            if question is _END:
                return
            yield _checked_question(benchmark, call, question)
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be exported: {error}") from error


def _checked_question(benchmark: Benchmark, call: str, question: Any) -> Question:
    if not isinstance(question, Question):
        raise _wrong(benchmark, call, f"yielded {_a(question)}", QUESTIONS)
    texts = {name: getattr(question, name) for name in _TEXTS[Question]}
    _check_texts(benchmark, call, Question, texts, QUESTIONS)
    named = f"the question {question.id!r:.60}"
    if type(question.max_new_tokens) is not int:
        why = f"max_new_tokens of {named} is {_a(question.max_new_tokens)}, no whole number"
        raise _wrong(benchmark, call, why, QUESTIONS)
    if not isinstance(question.images, tuple | list):
        raise _wrong(benchmark, call, f"images of {named} is {_a(question.images)}", QUESTIONS)
    for image in question.images:
        if not isinstance(image, Image.Image):
            raise _wrong(benchmark, call, f"an image of {named} is {_a(image)}", QUESTIONS)
        with user_code(benchmark, f"the image of {named}", "it must be a whole image"):
            image.load()
        if why := refused_shape(image.size):
            cure = "cut or pad the image, or leave the question out"
            raise _wrong(benchmark, call, f"the image of {named} {why}", cure)
    return question


def graded(benchmark: Benchmark, answers: Mapping[str, str]) -> Report:
    """The grades of the answers.

    Raises:
        UserError: the answers are to other questions, a judge cannot be asked, the benchmark's own
            code raised, or a grade cannot be counted.
    """
    call = f"grade() of the benchmark {benchmark.name!r}"
    try:
        with user_code(benchmark, call, GRADES):
            report = benchmark.grade(answers)
    except ValueError as error:
        raise UserError(f"{benchmark.name} cannot be graded: {error}") from error
    if not isinstance(report, Report):
        raise _wrong(benchmark, call, f"returned {_a(report)}", GRADES)
    seen: set[str] = set()
    for grade in report.grades:
        if not isinstance(grade, Grade):
            raise _wrong(benchmark, call, f"returned {_a(grade)} as a grade", GRADES)
        _stored(benchmark, call, grade, GRADES)
        if grade.question in seen:
            why = f"returned two grades for the question {grade.question!r:.60}"
            raise _wrong(benchmark, call, why, GRADES)
        seen.add(grade.question)
        numbers: dict[str, Any] = {
            "value": 0.0 if grade.value is None else grade.value,
            **grade.counts,
        }
        for name, number in numbers.items():
            if not isinstance(number, int | float) or abs(number) > 1e300:
                why = f"{name} of the question {grade.question!r:.60} is {_a(number)}, no number"
                raise _wrong(benchmark, call, why, GRADES)
    if missing := [id for id in answers if id not in seen]:
        why = f"returned no grade for the question {missing[0]!r:.60}, which has an answer"
        raise _wrong(benchmark, call, why, GRADES)
    _described(benchmark, call, report.values, "values", GRADES)
    if lacking := [name for name in _names(benchmark) if name not in report.values]:
        raise _wrong(benchmark, call, f"returned no value of the metric {lacking[0]!r}", GRADES)
    return report


def _names(benchmark: Benchmark) -> list[str]:
    return [metric.name for metric in benchmark.metrics]


def _stored(owner: object, call: str, value: Any, expected: str) -> Any:
    """The dataclass as it is stored, its texts checked."""
    fields = _described(owner, call, value, type(value).__name__, expected)
    _check_texts(owner, call, type(value), fields, expected)
    return fields


def _described(owner: object, call: str, value: object, name: str, expected: str) -> Any:
    try:
        return describe(value, name)
    except (TypeError, ValueError) as error:
        raise _wrong(owner, call, f"gave what cannot be stored: {error}", expected) from error


def _check_texts(
    owner: object, call: str, kind: type, fields: Mapping[str, Any], expected: str
) -> None:
    for name in _TEXTS[kind]:
        value = fields[name]
        if not isinstance(value, str):
            why = f"gave a {kind.__name__} whose {name} is {_a(value)}, no text"
            raise _wrong(owner, call, why, expected)
        _described(owner, call, value, f"{kind.__name__}.{name}", expected)


def _wrong(owner: object, call: str, what: str, expected: str) -> UserError:
    file = user_file(owner)
    return UserError(f"{file}: {call} {what}; {expected}." if file else f"{call} {what}.")


def _a(value: object) -> str:
    """A value for a sentence: None, or its type."""
    return "None" if value is None else f"a {type(value).__name__}"
