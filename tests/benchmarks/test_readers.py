"""Reading answers: yes and no, object mentions, exact words."""

from __future__ import annotations

import pytest

from benchmarks.objects import ObjectTable
from benchmarks.synthetic.words import SYNONYMS
from benchmarks.visual_questions import normalised
from benchmarks.yes_no import read_official, read_words

# answer: words, official
READINGS = {
    "yes": ("yes", "yes"),
    "No.": ("no", "no"),
    " *YES!* ": ("yes", "yes"),
    "no , there is no ball": ("no", "no"),
    "Yes, there is a ball.": ("yes", "yes"),
    "Yes. There is no doubt.": (None, "yes"),
    "yes or no": (None, "no"),
    "there is not": (None, "no"),
    "i cannot see it": (None, "yes"),
    "NO": ("no", "yes"),
    "maybe": (None, "yes"),
    "": (None, "yes"),
    "nothing known": (None, "yes"),
    "eyes": (None, "yes"),
}


@pytest.mark.parametrize("answer", READINGS)
def test_the_two_readings_of_yes_and_no(answer: str) -> None:
    assert (read_words(answer), read_official(answer)) == READINGS[answer]


def test_official_reading_equals_the_steps_of_the_released_script() -> None:
    # Written out from its description: first sentence, commas away, words between blanks.
    for answer in (*READINGS, "no,it is", "Not here", "yes, it is not red. no", "a.no", "No\nyes"):
        sentence = answer[: answer.find(".")] if "." in answer else answer
        words = "".join(letter for letter in sentence if letter != ",").split(" ")
        expected = "no" if any(word in words for word in ("No", "not", "no")) else "yes"
        assert read_official(answer) == expected, answer


TABLE = ObjectTable(
    {
        "dog": ("dog", "dogs", "puppy", "puppies"),
        "hot dog": ("hot dog", "hot dogs"),
        "kennel": ("kennel", "dog house", "dog houses"),
        "bus": ("bus", "buses"),
    }
)


@pytest.mark.parametrize(
    ("caption", "mentions"),
    [
        ("A dog and two puppies.", ["dog", "dog"]),
        ("Hot dogs, a hot  dog; a dog", ["hot dog", "hot dog", "dog"]),
        ("hotdog dogma busy buses dog-house", ["bus", "dog"]),
        ("a hot\ndog", ["hot dog"]),
        ("a dog in its dog house", ["dog", "kennel"]),
        ("DOG's bus", ["dog", "bus"]),
        ("", []),
        ("nothing", []),
    ],
)
def test_mentions_are_longest_first_and_whole_words(caption: str, mentions: list[str]) -> None:
    assert TABLE.mentions(caption) == mentions


def test_every_form_of_the_world_is_read_as_its_category() -> None:
    table = ObjectTable(SYNONYMS)
    for category, forms in SYNONYMS.items():
        assert table.mentions(" , ".join(forms)) == [category] * len(forms)
    assert table.mentions("an orange ball , two boxes") == ["ball", "box"]  # the colour is no thing


def test_a_table_without_forms_reads_nothing() -> None:
    assert ObjectTable({}).mentions("a dog") == []


@pytest.mark.parametrize(
    ("synonyms", "said"),
    [
        ({"a": ("x",), "b": ("x",)}, "names both 'a' and 'b'"),
        ({"a": ("X",)}, "lower-case"),
        ({"a": ("",)}, "lower-case"),
    ],
)
def test_an_unclear_table_is_refused(synonyms: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ObjectTable(synonyms)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Top  Left.", "top left"),
        ("an apple", "apple"),
        (" Two!", "two"),
        ("", ""),
        ("a", ""),
        ("theme", "theme"),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalised(answer) == expected
