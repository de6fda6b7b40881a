"""Visual questions with one exact answer: accuracy overall and by kind, read by exact match after
normalisation.

Normalised are case, punctuation, blanks and the articles a, an, the (the part of VQA's
normalisation, Antol et al., arXiv 1505.00468, that keeps the words themselves). A longer answer
that merely holds the right word is wrong: the prompt asks for a single word or phrase."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import grading
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade

VISUAL_QUESTIONS_VERSION = "1"
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The truth of one question: its kind and exact answer."""

    kind: str
    answer: str


def question_benchmark(
    *,
    name: str,
    source: str,
    items: Callable[[], Iterator[Item[Expected]]],
    kinds: tuple[str, ...],
    max_new_tokens: int = 8,
) -> Graded[Expected]:
    """Questions of the given ``kinds`` over any source."""
    apart = (percent(f"accuracy_{kind}", f"correct_{kind}", f"answered_{kind}") for kind in kinds)
    return Graded(
        name=name,
        group="general",
        source=source,
        grader=f"visual-questions-{VISUAL_QUESTIONS_VERSION}",
        items=items,
        metrics=(percent("accuracy", "correct", "answered", primary=True), *apart),
        judge=_judge,
        max_new_tokens=max_new_tokens,
    )


def guess_rates(benchmark: Graded[Expected]) -> dict[str, float]:
    """By kind, the share (%) of questions that the kind's most frequent answer gets right: what
    guessing blindly gives."""
    asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in benchmark.items():
        asked[item.truth.kind][item.truth.answer] += 1
    return {kind: 100 * max(answers.values()) / answers.total() for kind, answers in asked.items()}


def normalised(answer: str) -> str:
    """Lower case, punctuation and articles taken out, single blanks: "The Top  Left." becomes "top
    left"."""
    return " ".join(
        word for word in re.split(r"[\W_]+", answer.lower()) if word and word not in _ARTICLES
    )


def _judge(item: Item[Expected], answer: str) -> Grade:
    if not answer.strip():
        return grading.unscored(item, "empty answer", truth=item.truth.answer)
    said, kind = normalised(answer), item.truth.kind
    correct = float(said == normalised(item.truth.answer))
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=correct,
        read_as=said,
        why="" if correct else f"the answer is {item.truth.answer}",
        truth=item.truth.answer,
        counts={
            "answered": 1.0,
            "correct": correct,
            f"answered_{kind}": 1.0,
            f"correct_{kind}": correct,
        },
    )
