"""Sentences, repetition, symbols and leads, each at its boundary."""

from __future__ import annotations

import pytest

from methods.text import after_lead, most_repeated, repeats_sentence, sentences, symbol_share


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("  \n ", []),
        ("one red ball", ["one red ball"]),
        ("A ball. Is it red?  Yes!", ["A ball.", "Is it red?", "Yes!"]),
        ("how many ? two", ["how many ?", "two"]),
        ("It costs 3.50 at noon.\nWhy?", ["It costs 3.50 at noon.", "Why?"]),
        ("really?! no", ["really?!", "no"]),
    ],
)
def test_sentences_end_at_marks_that_white_space_follows(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_a_sentence_repeats_only_letter_for_letter() -> None:
    assert repeats_sentence("a red ball. a cup. a red ball.")
    assert not repeats_sentence("a red ball. A red ball.")
    assert not repeats_sentence("")


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("ball", 1), ("a b a, a", 3), (". . .", 3), ("!!!!", 4), ("aa a", 1)],
)
def test_most_repeated_counts_words_and_marks(text: str, count: int) -> None:
    assert most_repeated(text) == count


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 1.0), ("ab", 0.0), ("a.", 0.5), ("a .", 2 / 3), ("é1", 0.5), ("球a", 0.5)],
)
def test_symbols_are_all_but_ascii_letters_and_digits(text: str, share: float) -> None:
    assert symbol_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "lead", "rest"),
    [
        ("precise answer : two things", "precise answer :", "two things"),
        ("Precise  answer: two things ", "precise answer :", "two things"),
        ("  PRECISE\nANSWER : two", "precise answer:", "two"),
        ("precise answer :", "precise answer :", ""),
        ("preciseanswer : two", "precise answer :", None),
        ("a precise answer : two", "precise answer :", None),
        ("precise answer two", "precise answer :", None),
        ("keeper", "keep", None),
        ("keep it", "keep", "it"),
        ("keep", "keep :", None),
        ("[x] (a.b) yes", "[x] (a.b)", "yes"),
    ],
)
def test_a_lead_is_found_at_the_start_whatever_its_spaces_and_case(
    text: str, lead: str, rest: str | None
) -> None:
    assert after_lead(text, lead) == rest
