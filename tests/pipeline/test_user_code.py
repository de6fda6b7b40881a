"""Errors in a user's own study, method or benchmark: one sentence that names the user's file and
what was expected, and the user's own traceback below it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.artifacts.results_folder import Stage
from harness.errors import UserError
from harness.pipeline.checked_results import graded, method_report, pair_rows
from harness.study.reference import StudyReference
from methods.interface import Item, Tools
from tests.pipeline.answer_files import export
from tests.tiny_models import picture

HEAD = """
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.interface import Benchmark, Grade, Metric, Question, Report, report
from harness.study.study import Run, Study
from methods.interface import Dropped, Method, PreferencePair, Recipe
from methods.untrained import Untrained

HALF = chr(0xD800)
PAIR = PreferencePair(key="k", item="a", prompt="p", chosen="good", rejected="bad")
GRADE = Grade(question="q", cluster="c", value=1.0, read_as="yes", counts={"right": 1, "all": 1})
METRIC = Metric(name="accuracy", better="higher", unit="%", numerator="right", denominator="all")
ASKED = Question(
    id="q", images=(Image.new("RGB", (8, 8)),), text="?", max_new_tokens=2, cluster="c"
)


@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    name = "mine"
    needs = frozenset({"image"})
    setting: object = 1
    recipe: object = Recipe(lr=1e-3)

    def pairs(self, items, tools):
        PAIRS

    def report(self, records):
        REPORT


@dataclass(frozen=True, kw_only=True)
class Own(Benchmark):
    name: str = "own"
    group: str = "general"
    version: str = "1"
    metrics: tuple = (METRIC,)

    def questions(self):
        QUESTIONS

    def grade(self, answers):
        GRADES


BASE = Run(label="untrained", base="synthetic", method=Untrained())
RUN = Run(label="mine", base="synthetic", method=Mine())
STUDY = Study(name="s", question="Does it?", runs=(BASE, RUN), benchmarks=(Own(),))


def study():
    STUDY
"""
GOOD = {
    "PAIRS": "yield PAIR",
    "REPORT": "return {}",
    "QUESTIONS": "yield ASKED",
    "GRADES": "return report(self.metrics, [GRADE])",
    "STUDY": "return STUDY",
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "own_study.py"


def fill(path: Path, **changed: str) -> StudyReference:
    head, tail = HEAD.split("BASE = ")
    for name, body in {**GOOD, **changed}.items():
        head, tail = (
            head.replace(f"        {name}\n", f"        {body}\n"),
            tail.replace(f"    {name}\n", f"    {body}\n"),
        )
    path.write_text(f"{head}BASE = {tail}")
    return StudyReference(str(path))


def run_all(reference: StudyReference, folder: Path) -> None:
    """Everything that is called of a user's study, without a model."""
    study = reference.load()
    method, benchmark = study.runs[-1].method, study.benchmarks[0]
    items = [Item(id="a", image=picture(0))]
    rows = pair_rows(method, items, Tools(vlm=None))  # type: ignore[arg-type]
    method_report(method, [])
    export(Stage(folder / "q", {"stage": "export", "format": 1}), benchmark)
    report = graded(benchmark, {"q": "yes"})
    assert [list(row) for row in rows] == [["pair"]]
    assert report.values == {"accuracy": 100.0}


def test_the_file_of_these_tests_is_right(written: Path, tmp_path: Path) -> None:
    run_all(fill(written), tmp_path)


RAISES = {
    "STUDY": "return 1 / 0",
    "PAIRS": "yield 1 / 0",
    "REPORT": "return 1 / 0",
    "QUESTIONS": "yield 1 / 0",
    "GRADES": "return 1 / 0",
}


@pytest.mark.parametrize("place", RAISES)
def test_code_that_raises_keeps_its_traceback_below_one_sentence(
    place: str, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        run_all(fill(written, **{place: RAISES[place]}), tmp_path)
    sentence, *below = str(raised.value).split("\n")
    assert sentence.startswith(f"{written}: ")
    assert "raised ZeroDivisionError: division by zero; " in sentence
    assert "must" in sentence
    assert below[0] == "Traceback (most recent call last):"
    assert below[1].startswith(f'  File "{written}", line ')  # not the harness's way to it
    assert any("1 / 0" in line for line in below)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("def study(:\n", "SyntaxError"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("x = 1 / 0\n", "ZeroDivisionError"),
        ("def study(a):\n    return a\n", "TypeError: study() missing 1 required"),
        ("def study():\n    return int('x')\n", "ValueError: invalid literal"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: str, what: str, written: Path) -> None:
    written.write_text(content)
    with pytest.raises(UserError) as raised:
        StudyReference(str(written)).load()
    sentence, *below = str(raised.value).split("\n")
    assert sentence.startswith(f"{written}: ")
    assert what in sentence
    assert "study(**options) must return a harness.study.study.Study" in sentence
    assert below
    assert not any("importlib" in line or "reference.py" in line for line in below)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"STUDY": "return None"}, "returned a NoneType"),
        ({"STUDY": "return replace(STUDY, runs=None)"}, "runs of the study 's' is None"),
        ({"STUDY": "return replace(STUDY, runs=(BASE, None))"}, "a tuple of Run entries"),
        ({"STUDY": "return replace(STUDY, benchmarks=(None,))"}, "The benchmark None becomes"),
        ({"STUDY": "return replace(STUDY, question=None)"}, "asks no question"),
        ({"STUDY": "return replace(STUDY, notes='one')"}, "notes of the study 's' is 'one'"),
        ({"STUDY": "replace(RUN, pool=Path('x'))"}, "pool of 'mine' is PosixPath('x')"),
        ({"STUDY": "replace(RUN, base=None)"}, "base of 'mine' is None"),
        ({"STUDY": "replace(RUN, images=True)"}, "images of 'mine' is True"),
        ({"STUDY": "replace(RUN, steps=2.5)"}, "steps of 'mine' is 2.5"),
        ({"STUDY": "replace(RUN, method=Mine(recipe={}))"}, "recipe of the method of 'mine'"),
        ({"STUDY": "replace(RUN, method=Mine(setting=Path('x')))"}, ".setting is a PosixPath"),
        ({"STUDY": "replace(RUN, method=Mine(setting=torch.ones(1)))"}, ".setting is a Tensor"),
        ({"STUDY": "replace(RUN, method=Mine(setting=math.nan))"}, ".setting is nan"),
        ({"STUDY": "replace(RUN, method=Mine(setting=HALF))"}, "half of a character"),
        ({"STUDY": "replace(STUDY, benchmarks=(Own(version=None),))"}, "version of the benchmark"),
        ({"STUDY": "replace(STUDY, benchmarks=(Own(version=HALF),))"}, "half of a character"),
        ({"STUDY": "replace(STUDY, benchmarks=(Own(group='all'),))"}, "group of the benchmark"),
        ({"STUDY": "replace(STUDY, benchmarks=(Own(metrics=None),))"}, "metrics of the benchmark"),
        ({"STUDY": "replace(STUDY, benchmarks=(Own(metrics=(None,)),))"}, "interface.Metric"),
    ],
)
def test_a_study_of_wrong_parts_is_one_sentence(
    changed: dict[str, str], words: str, written: Path
) -> None:
    with pytest.raises(UserError) as raised:
        fill(written, **changed).load()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"PAIRS": "return None"}, "must yield PreferencePair"),
        ({"PAIRS": "yield None"}, "pairs() of the method 'mine' yielded None"),
        ({"PAIRS": "yield 'good'"}, "yielded a str"),
        ({"PAIRS": "yield replace(PAIR, chosen=None)"}, "whose chosen is None, no text"),
        (
            {"PAIRS": "yield replace(PAIR, chosen=Path('x'))"},
            "PreferencePair.chosen is a PosixPath",
        ),
        ({"PAIRS": "yield replace(PAIR, key=1)"}, "whose key is a int, no text"),
        ({"PAIRS": "yield replace(PAIR, item='z')"}, "the item 'z', which it was not given"),
        ({"PAIRS": "yield replace(PAIR, rejected=HALF)"}, "rejected holds half of a character"),
        ({"PAIRS": "yield replace(PAIR, trace={'p': [Path('x')]})"}, "trace.p[0] is a PosixPath"),
        ({"PAIRS": "yield replace(PAIR, trace={'s': torch.ones(1)})"}, "trace.s is a Tensor"),
        ({"PAIRS": "yield replace(PAIR, trace={'s': math.nan})"}, "trace.s is nan"),
        ({"PAIRS": "yield replace(PAIR, trace={HALF: 1})"}, "half of a character"),
        ({"PAIRS": "yield Dropped(key='k', item='a', reason=None)"}, "whose reason is None"),
        ({"REPORT": "return None"}, "report() of the method 'mine' returned None"),
        ({"REPORT": "return {'x': math.inf}"}, "the report.x is inf"),
        ({"QUESTIONS": "return None"}, "must yield Question"),
        ({"QUESTIONS": "yield None"}, "questions() of the benchmark 'own' yielded None"),
        ({"QUESTIONS": "yield replace(ASKED, id=1)"}, "whose id is a int, no text"),
        ({"QUESTIONS": "yield replace(ASKED, text=HALF)"}, "half of a character"),
        ({"QUESTIONS": "yield replace(ASKED, cluster=Path('x'))"}, "whose cluster is a PosixPath"),
        ({"QUESTIONS": "yield replace(ASKED, images=None)"}, "images of the question 'q' is None"),
        ({"QUESTIONS": "yield replace(ASKED, images=('a.png',))"}, "the question 'q' is a str"),
        ({"QUESTIONS": "yield replace(ASKED, max_new_tokens=2.0)"}, "no whole number"),
        (
            {"QUESTIONS": "yield replace(ASKED, images=(Image.new('RGB', (300, 1)),))"},
            "the image of the question 'q' has 300 x 1 pixels",
        ),
        ({"GRADES": "return None"}, "grade() of the benchmark 'own' returned None"),
        ({"GRADES": "return 0.5"}, "returned a float"),
        ({"GRADES": "return Report(values={}, grades=[None], unscored=0)"}, "None as a grade"),
        ({"GRADES": "return Report(values={}, grades=[GRADE], unscored=0)"}, "no value of the"),
        ({"GRADES": "return report(self.metrics, [])"}, "no grade for the question 'q'"),
        ({"GRADES": "return report(self.metrics, [GRADE, GRADE])"}, "two grades for"),
        (
            {"GRADES": "return report(self.metrics, [replace(GRADE, value=torch.ones(1))])"},
            "Grade.value is a Tensor",
        ),
        (
            {"GRADES": "return report(self.metrics, [replace(GRADE, value=math.nan)])"},
            "Grade.value is nan",
        ),
        (
            {"GRADES": "return report(self.metrics, [replace(GRADE, counts={'all': 10**400})])"},
            "OverflowError",
        ),
        (
            {"GRADES": "return report(self.metrics, [replace(GRADE, read_as=Path('x'))])"},
            "Grade.read_as is a PosixPath",
        ),
        (
            {"GRADES": "return report(self.metrics, [replace(GRADE, why=HALF)])"},
            "Grade.why holds half of a character",
        ),
    ],
)
def test_a_wrong_value_names_the_file_and_what_was_expected(
    changed: dict[str, str], words: str, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        run_all(fill(written, **changed), tmp_path)
    sentence = str(raised.value).split("\n")[0]
    assert sentence.startswith(f"{written}: ")
    assert words in sentence
    assert "must" in sentence or "cut or pad" in sentence


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Each test reads its own file."""
    sys.modules.pop("user_study_own_study", None)
