"""Multiple choice: reading a letter, and circular evaluation (Liu et al., "MMBench", arXiv
2307.06281, section 4.1).

Each question is asked once for every rotation of its options, and counts as right (``circular``) if
every rotation is. An answer that cannot be read is unscored, and its question counts only if
another rotation is wrong anyway; ``circular_unread_wrong`` counts it as wrong. ``vanilla`` is the
accuracy of the first order alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import grading
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade

CHOICE_VERSION = "1"
LETTERS = "ABCDEFGH"
REQUEST = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's own evaluation asks so."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One rotation of a question: ``options`` by letter in their order, the letter of the right
    one, and its place (0: as given).
    ``question`` is shared by the rotations."""

    question: str
    category: str
    options: tuple[tuple[str, str], ...]
    answer: str
    rotation: int


def choice_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[Choice]]],
    categories: tuple[str, ...],
) -> Graded[Choice]:
    """Circular evaluation over any source, overall and by category."""
    apart = (
        percent(f"circular_{category}", f"right_{category}", f"known_{category}")
        for category in categories
    )
    return Graded(
        name=name,
        group="general",
        source=source,
        grader=f"choice-{CHOICE_VERSION}",
        items=items,
        metrics=(
            percent("circular", "right", "known", primary=True),
            percent("circular_unread_wrong", "right", "questions"),
            percent("vanilla", "first_right", "first_read"),
            percent("unreadable", "unreadable", "answered", "none"),
            *apart,
        ),
        judge=_judge,
        max_new_tokens=32,
        together=_rotations,
    )


def prompt(question: str, options: Sequence[tuple[str, str]]) -> str:
    """The question, an option a line behind its letter, and the request for a letter."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options), REQUEST])


def rotated(
    options: Sequence[str], answer: int, by: int
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The options moved up by ``by`` places, with letters, and the letter that is right then."""
    moved = [options[(place + by) % len(options)] for place in range(len(options))]
    return tuple(zip(LETTERS, moved, strict=False)), LETTERS[(answer - by) % len(options)]


def read_choice(answer: str, options: Sequence[tuple[str, str]]) -> str | None:
    """The letter meant: a letter alone ("B", "(b)."), a letter with a mark in front of anything
    that is not another option ("B. a cat"), or exactly one option's text; None: unreadable."""
    texts = [(letter, _plain(text)) for letter, text in options]
    said = answer.strip()
    if found := re.fullmatch(r"\W*([A-Za-z])\W*", said):
        return _only(found[1].upper(), texts)
    if found := re.match(r"\(?([A-Z])(?:\)[.:,]?|[.:,])\s*(.+)", said, flags=re.DOTALL):
        named = [letter for letter, text in texts if _plain(found[2]) in (text, letter.lower())]
        return _only(found[1], texts) if not named or found[1] in named else None
    meant = [letter for letter, text in texts if text and text == _plain(said)]
    return meant[0] if len(meant) == 1 else None


def _only(letter: str, texts: Sequence[tuple[str, str]]) -> str | None:
    return letter if letter in dict(texts) else None


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\W_]+", text.lower())).strip()


def _judge(item: Item[Choice], answer: str) -> Grade:
    said, truth = read_choice(answer, item.truth.options), item.truth
    if said is None:
        why = "no option can be read" if answer.strip() else "empty answer"
        return grading.unscored(item, why, {"answered": 1.0, "unreadable": 1.0}, truth.answer)
    correct = float(said == truth.answer)
    first = {"first_read": 1.0, "first_right": correct} if truth.rotation == 0 else {}
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=correct,
        read_as=said,
        why="" if correct else f"the answer is {truth.answer}",
        truth=truth.answer,
        counts={"answered": 1.0, "unreadable": 0.0, **first},
    )


def _rotations(items: Sequence[Item[Choice]], grades: list[Grade]) -> list[Grade]:
    """What a question's rotations are worth together is counted on the last; a question with an
    unanswered one is not counted."""
    questions: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        questions[item.truth.question].append(place)
    found = list(grades)
    for places in questions.values():
        values = [grades[place].value for place in places]
        if any("answered" not in grades[place].counts for place in places):
            continue
        right, known = float(all(values)), float(None not in values or 0.0 in values)
        category, last = items[places[0]].truth.category, grades[places[-1]]
        more: Mapping[str, float] = {"questions": 1.0, "right": right, "known": known}
        more = {**more, f"right_{category}": right, f"known_{category}": known}
        found[places[-1]] = replace(last, counts={**last.counts, **more})
    return found
