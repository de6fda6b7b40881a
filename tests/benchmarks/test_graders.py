"""The generic graders on data so small that every number can be checked by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from PIL import Image

from benchmarks.chair import chair_benchmark
from benchmarks.grading import Item, ItemBenchmark
from benchmarks.interface import Report
from benchmarks.objects import ObjectTable
from benchmarks.pope import Probe, pope_benchmark
from benchmarks.visual_questions import Expected, question_benchmark

TABLE = ObjectTable(
    {"cat": ("cat", "cats", "kitten"), "dog": ("dog", "dogs"), "box": ("box", "boxes")}
)


def no_image() -> Image.Image:
    raise AssertionError("grading must not open images")


def chair(truth: Mapping[str, frozenset[str]]) -> ItemBenchmark[frozenset[str]]:
    def items() -> Iterator[Item[frozenset[str]]]:
        for id, objects in truth.items():
            yield Item(id=id, cluster=id, text="describe .", truth=objects, load_image=no_image)

    return chair_benchmark(
        name="hand", source="hand-1", items=items, reader=TABLE, max_new_tokens=8, primary=True
    )


def counts(report: Report, name: str) -> list[float | None]:
    return [grade.counts.get(name) for grade in report.grades]


def test_chair_counts_every_mention_after_synonyms() -> None:
    benchmark = chair(
        {
            "a": frozenset(
                {"cat", "box"}
            ),  # "kitten" and "cats" are two mentions of one true object
            "b": frozenset(
                {"cat"}
            ),  # "dog" twice: two hallucinated mentions, one hallucinated caption
            "c": frozenset({"dog", "box"}),  # mentions nothing: scored, nothing hallucinated
            "d": frozenset({"dog"}),  # empty: unscored
        }
    )
    report = benchmark.grade(
        {"a": "A kitten, two cats.", "b": "a cat, a dog and dogs", "c": "it is dark", "d": " \n"}
    )
    assert counts(report, "mentions") == [2, 3, 0, None]
    assert counts(report, "hallucinated") == [0, 2, 0, None]
    assert counts(report, "found") == [1, 1, 0, None]
    assert counts(report, "truth") == [2, 1, 2, None]
    assert counts(report, "objects") == [1, 2, 0, None]
    assert counts(report, "words") == [4, 6, 3, None]
    assert [grade.value for grade in report.grades] == [1.0, 0.0, 1.0, None]
    assert report.unscored == 1
    assert report.grades[1].read_as == "cat dog dog"
    assert report.grades[1].why == "not there: dog"
    assert report.grades[0].truth == "box, cat"
    assert [["a cat, a dog and dogs"[start:end] for start, end in report.grades[1].wrong]] == [
        ["dog", "dogs"]
    ]
    assert report.grades[0].wrong == ()
    assert report.grades[3].why == "empty caption"
    assert report.values == pytest.approx(
        {
            "chair_s": 100 / 3,
            "chair_i": 100 * 2 / 5,
            "recall": 100 * 2 / 5,
            "words": 13 / 3,
            "objects": 1.0,
        }
    )


def test_chair_without_any_mention_says_nothing_about_mentions() -> None:
    report = chair({"a": frozenset({"cat"})}).grade({"a": "it is dark"})
    assert report.values["chair_i"] is None
    assert report.values["chair_s"] == 0.0


def pope(*probes: tuple[str, str, bool]) -> ItemBenchmark[Probe]:
    def items() -> Iterator[Item[Probe]]:
        for id, setting, present in probes:
            truth = Probe(present=present, setting=setting)
            yield Item(id=id, cluster=id[0], text="is it there ?", truth=truth, load_image=no_image)

    return pope_benchmark(name="hand", source="hand-1", items=items)


def test_pope_by_hand() -> None:
    benchmark = pope(
        ("a1", "random", True),
        ("a2", "random", False),
        ("a3", "popular", True),
        ("a4", "popular", False),
        ("a5", "adversarial", True),
        ("a6", "adversarial", False),
        ("a7", "adversarial", False),
    )
    answers = {
        "a1": "Yes.",
        "a2": "no",
        "a3": "no",
        "a4": "yes , it is",
        "a5": "yes",
        "a6": "well",
        "a7": "",
    }
    report = benchmark.grade(answers)
    # tp a1 a5, tn a2, fp a4, fn a3; a6 and a7 cannot be read
    assert report.values == pytest.approx(
        {
            "accuracy": 60.0,
            "precision": 200 / 3,
            "recall": 200 / 3,
            "f1": 200 / 3,
            "yes_ratio": 60.0,
            "unreadable": 200 / 7,
            "accuracy_random": 100.0,
            "accuracy_popular": 0.0,
            "accuracy_adversarial": 100.0,
        }
    )
    assert report.unscored == 2
    assert [grade.why for grade in report.grades[3:]] == [
        "it is not there",
        "",
        "neither yes nor no, or both",
        "empty answer",
    ]


def test_a_question_without_an_answer_is_unscored_and_in_no_metric() -> None:
    report = pope(("a1", "random", True), ("a2", "random", False)).grade({"a1": "yes"})
    assert report.unscored == 1
    assert report.grades[1].value is None
    assert report.grades[1].why == "no answer"
    assert not report.grades[1].counts
    assert report.values["accuracy"] == 100.0
    assert report.values["unreadable"] == 0.0


def test_no_answers_give_no_values() -> None:
    report = pope(("a1", "random", True)).grade({})
    assert set(report.values.values()) == {None}


def test_an_answer_to_an_unknown_question_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'z9'"):
        pope(("a1", "random", True)).grade({"a1": "yes", "z9": "no", "z1": "no"})


def test_visual_questions_by_hand() -> None:
    truth = {
        "q1": ("colour", "red"),
        "q2": ("colour", "blue"),
        "q3": ("place", "top left"),
        "q4": ("place", "top right"),
    }

    def items() -> Iterator[Item[Expected]]:
        for id, (kind, answer) in truth.items():
            yield Item(
                id=id,
                cluster="p",
                text="?",
                truth=Expected(kind=kind, answer=answer),
                load_image=no_image,
            )

    benchmark = question_benchmark(
        name="hand", source="hand-1", items=items, kinds=("colour", "place", "count")
    )
    report = benchmark.grade({"q1": "Red.", "q2": "it is blue", "q3": "the top left", "q4": ""})
    assert [grade.value for grade in report.grades] == [1.0, 0.0, 1.0, None]
    assert report.unscored == 1
    assert report.values == pytest.approx(
        {
            "accuracy": 200 / 3,
            "accuracy_colour": 50.0,
            "accuracy_place": 100.0,
            "accuracy_count": None,
        }
    )
