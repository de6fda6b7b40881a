"""SENA's filters: each reason alone and at its boundary."""

from __future__ import annotations

import pytest

from methods.sena import filters
from methods.sena.filters import Case, NameFilter, asks_for_name, drop_reason

GOOD = "a red ball on the grass"


def reason(
    chosen: str, rejected: str, *, keep_yes_no: bool = False, case: Case = "ignored"
) -> str | None:
    return drop_reason(chosen, rejected, keep_yes_no=keep_yes_no, case=case)


def repeated(times: int) -> str:
    """A text with one token this many times, without sentence ends and with few symbols."""
    return " ".join(["ball"] * times)


def symbols(letters: int, marks: int) -> str:
    """A text of distinct letters and distinct marks, no token of which is frequent."""
    return "abcdefghij"[:letters] + "#$%&*+-/=@"[:marks]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (repeated(30), None),
        (repeated(31), filters.TOKEN),
        (symbols(5, 5), None),
        (symbols(5, 6), filters.SYMBOLS),
        ("two cups. one box.", None),
        ("two cups. two cups.", filters.SENTENCE),
        ("", filters.EMPTY),
        ("Yes", filters.YES_NO),
        ("no", filters.YES_NO),
        ("Yes.", None),
        ("yes, there is", None),
        ("none", None),
    ],
)
def test_a_bad_side_drops_the_pair(bad: str, expected: str | None) -> None:
    assert reason(GOOD, bad) == expected
    assert reason(bad, GOOD) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (GOOD, GOOD, filters.EQUAL),
        (GOOD, "red ball", filters.CONTAINED),
        (GOOD, "RED ball", filters.CONTAINED),
        ("A Red Ball", "red ball", filters.CONTAINED),
        ("red ball", GOOD, None),  # only y- within y+, not the other way round
    ],
)
def test_equal_and_contained_answers(chosen: str, rejected: str, expected: str | None) -> None:
    assert reason(chosen, rejected) == expected


def test_released_case_lowers_the_rejected_side_alone() -> None:
    assert reason("A Red Ball", "Red Ball", case="released") is None
    assert reason("a red ball", "Red Ball", case="released") == filters.CONTAINED
    assert reason(GOOD, "yes", case="released") is None
    assert reason(GOOD, "Yes", case="released") == filters.YES_NO


def test_kept_yes_and_no_still_must_differ() -> None:
    assert reason("Yes", "No", keep_yes_no=True) is None
    assert reason("Yes", "Yes", keep_yes_no=True) == filters.EQUAL
    assert reason("yes", "Yes", keep_yes_no=True) == filters.CONTAINED


@pytest.mark.parametrize(
    ("question", "whole_word", "released"),
    [
        ("what is the name of the dog?", True, True),
        ("What is the dog's Name?", True, False),
        ("what is the dog named?", True, True),
        ("is this a tournament?", False, True),
        ("what colour is the ball?", False, False),
    ],
)
def test_questions_for_a_name(question: str, whole_word: bool, released: bool) -> None:
    expected: dict[NameFilter, bool] = {"whole_word": whole_word, "substring_drops_image": released}
    assert {name: asks_for_name(question, name) for name in expected} == expected
