"""Visual questions with one exact answer: accuracy overall and by kind, by exact match after
normalisation.

Case, punctuation, blanks and the articles a, an, the are normalised (the part of VQA's
normalisation, Antol et al., arXiv 1505.00468, that keeps the words). A longer answer that contains
the right word is wrong: the prompt asks for a single word or phrase."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks import grading
from benchmarks.grading import Item, ItemBenchmark, by_kind, percent
from benchmarks.interface import Grade

VISUAL_QUESTIONS_VERSION = "1"
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The truth of one question: its kind and its exact answer."""

    kind: str
    answer: str


def question_benchmark(
    *, name: str, source: str, items: Callable[[], Iterator[Item[Expected]]], kinds: tuple[str, ...]
) -> ItemBenchmark[Expected]:
    """Questions of the given ``kinds`` over any source."""
    accuracy = percent("accuracy", "correct", "answered")
    return ItemBenchmark(
        name=name,
        group="general",
        source=source,
        grader=f"visual-questions-{VISUAL_QUESTIONS_VERSION}",
        items=items,
        metrics=(replace(accuracy, primary=True), *by_kind(accuracy, kinds)),
        grade_one=_grade,
        max_new_tokens=8,
    )


def normalised(answer: str) -> str:
    """Lower case without punctuation and articles: "The Top  Left." becomes "top left"."""
    words = re.split(r"[\W_]+", answer.lower())
    return " ".join(word for word in words if word and word not in _ARTICLES)


def _grade(item: Item[Expected], answer: str) -> Grade:
    truth = item.truth
    if not answer.strip():
        return grading.unscored(item, "empty answer", truth=truth.answer)
    reading = normalised(answer)
    correct = float(reading == normalised(truth.answer))
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=correct,
        read_as=reading,
        why="" if correct else f"the answer is {truth.answer}",
        truth=truth.answer,
        counts={
            "answered": 1.0,
            "correct": correct,
            f"answered_{truth.kind}": 1.0,
            f"correct_{truth.kind}": correct,
        },
    )
