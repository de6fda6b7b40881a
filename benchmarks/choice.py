"""Multiple choice: reading a letter, and circular evaluation (Liu et al., "MMBench", arXiv
2307.06281, section 4.1).

Each question is asked once for every rotation of its options. It counts as right (``circular``) if
every rotation is right. An unreadable answer is unscored; its question then counts only if another
rotation is wrong. ``circular_unread_wrong`` counts an unreadable answer as wrong. ``vanilla`` is
the accuracy of the first rotation alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import grading
from benchmarks.grading import Item, ItemBenchmark, by_kind, percent
from benchmarks.interface import Grade
from benchmarks.yes_no import UNREADABLE

CHOICE_VERSION = "2"
LETTERS = "ABCDEFGH"
REQUEST = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's own evaluation asks so."""
REFUSED = "Z"
"""Read where an answer says that no option fits."""
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))

Options = Sequence[tuple[str, str]]
"""(letter, text) of each option."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One rotation of a question."""

    question: str
    """The same for all rotations of a question."""
    category: str
    options: tuple[tuple[str, str], ...]
    answer: str
    """The letter of the right option."""
    rotation: int
    """0: the order as given."""


def choice_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[Choice]]],
    categories: tuple[str, ...],
) -> ItemBenchmark[Choice]:
    """Circular evaluation over any source, overall and by category."""
    return ItemBenchmark(
        name=name,
        group="general",
        source=source,
        grader=f"choice-{CHOICE_VERSION}",
        items=items,
        metrics=(
            percent("circular", "right", "known", primary=True),
            percent("circular_unread_wrong", "right", "questions"),
            percent("vanilla", "first_right", "first_read"),
            UNREADABLE,
            *by_kind(percent("circular", "right", "known"), categories),
        ),
        grade_one=_grade,
        max_new_tokens=32,
        group_of=lambda item: item.truth.question,
        group_counts=_count_rotations,
    )


def prompt(question: str, options: Options) -> str:
    """The question, one option a line after its letter, and the request for a letter."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options), REQUEST])


def rotated(
    options: Sequence[str], answer: int, shift: int
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The options moved up by ``shift`` places, with letters, and the letter that is then right."""
    rotated_options = [options[(index + shift) % len(options)] for index in range(len(options))]
    return tuple(zip(LETTERS, rotated_options, strict=False)), LETTERS[
        (answer - shift) % len(options)
    ]


def read_choice(answer: str, options: Options) -> str | None:
    """The letter that is meant, as VLMEvalKit's exact matching reads it (``can_infer``, commit
    e8e78f05); None: unreadable; ``REFUSED``: the answer names no option, which is wrong.

    Readable are one option's letter as a word of its own among the last four words, and one
    option's text within the answer. A small letter is no letter. The text does not count if the
    answer is more than twice as long as all options together."""
    if any(refusal in answer for refusal in _REFUSALS):
        return REFUSED
    words = answer.translate(_BLANKS).split()
    letters_named = [letter for letter, _ in options if letter in words]
    if len(letters_named) == 1 and words.index(letters_named[0]) >= len(words) - 4:
        return letters_named[0]
    if not letters_named and REFUSED in words:
        return REFUSED
    if len(answer) > 2 * sum(len(text) for _, text in options):
        return None
    letters_meant = [letter for letter, text in options if text.lower() in answer.lower()]
    return letters_meant[0] if len(letters_meant) == 1 else None


def _grade(item: Item[Choice], answer: str) -> Grade:
    truth = item.truth
    letter = read_choice(answer, truth.options)
    if letter is None:
        why = "no option can be read" if answer.strip() else "empty answer"
        return grading.unscored(item, why, {"answered": 1.0, "unreadable": 1.0}, truth.answer)
    correct = float(letter == truth.answer)
    first_counts = {"first_read": 1.0, "first_right": correct} if truth.rotation == 0 else {}
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=correct,
        read_as=letter,
        why="" if correct else f"the answer is {truth.answer}",
        truth=truth.answer,
        counts={"answered": 1.0, "unreadable": 0.0, **first_counts},
    )


def _count_rotations(last_item: Item[Choice], grades: Sequence[Grade]) -> dict[str, float]:
    """The counts of a question. A question with an unanswered rotation is not counted."""
    if any("answered" not in grade.counts for grade in grades):
        return {}
    values, category = [grade.value for grade in grades], last_item.truth.category
    right, known = float(all(values)), float(None not in values or 0.0 in values)
    return {
        "questions": 1.0,
        "right": right,
        "known": known,
        f"right_{category}": right,
        f"known_{category}": known,
    }
