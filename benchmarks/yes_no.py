"""Yes/no questions: three ways to read an answer, and the counts and metrics of the readings.

- ``read_words``: exactly one of the words yes and no occurs (as VLMEvalKit's ``YOrN_Extraction``);
  otherwise the answer is unreadable.
- ``read_official``: POPE's own script (Li et al., arXiv 2305.10355). It reads every answer; an
  empty one is a yes.
- ``read_repope``: RePOPE's own script (Neuhaus and Hein, arXiv 2504.15707), by letters alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from benchmarks import files, grading
from benchmarks.grading import Item, T, percent
from benchmarks.interface import Grade, Metric

YesNo = Literal["yes", "no"]
REQUEST = "Answer the question using a single word or phrase."
"""LLaVA-1.5's own evaluation asks so; the official files hold the question alone."""
_IN_TRUTH = {"yes": "present", "no": "absent"}


def read_words(answer: str) -> YesNo | None:
    """ "Yes, there is a ball." is yes; "yes and no" and "maybe" are None. A negation without the
    word no is not read."""
    words = re.split(r"[\W_]+", answer.lower())
    yes, no = "yes" in words, "no" in words
    return None if yes == no else "yes" if yes else "no"


def read_official(answer: str) -> YesNo:
    """As POPE's script: the first sentence without commas, split at blanks. It is no if No, no or
    not is a word of it, else yes (so "I cannot see one" and "NO" are yes)."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def read_repope(answer: str) -> YesNo | None:
    """As RePOPE's script: the letters "yes" anywhere are yes, else the letters "no" are no ("I do
    not know", "nothing"); anything else is left out of its scores."""
    lowered = answer.lower()
    return "yes" if "yes" in lowered else "no" if "no" in lowered else None


def read_label(location: str, value: object, name: str) -> YesNo:
    """A truth of an official file.

    Raises:
        ValueError: it is neither yes nor no.
    """
    return "yes" if files.one_of(location, value, ("yes", "no"), name) == "yes" else "no"


def counts(
    truth: YesNo, reading: YesNo | None, *, positive: YesNo = "yes", suffix: str = ""
) -> dict[str, float]:
    """The counts of one answer, for ``metrics``. A reading of None counts as wrong whatever the
    truth."""
    predicted, actual = reading == positive, truth == positive
    tp, fp, fn = (
        float(predicted and actual),
        float(predicted and not actual),
        float(actual and not predicted),
    )
    unsuffixed = {
        "read": 1.0,
        "correct": float(reading == truth),
        "yes": float(reading == "yes"),
        positive: float(predicted),
        _IN_TRUTH[positive]: float(actual),
        "tp": tp,
        "f1_num": 2 * tp,
        "f1_den": 2 * tp + fp + fn,
    }
    return grading.suffixed_counts(unsuffixed, suffix)


def metrics(
    *, positive: YesNo = "yes", suffix: str = "", primary: bool = False
) -> dict[str, Metric]:
    """By name without suffix: accuracy, precision, recall and F1 of the positive class, and the
    share of answers that are yes. F1 is the ratio 2tp / (2tp + fp + fn)."""
    unsuffixed = (
        percent("accuracy", "correct", "read", primary=primary),
        percent("precision", "tp", positive),
        percent("recall", "tp", _IN_TRUTH[positive]),
        percent("f1", "f1_num", "f1_den"),
        percent("yes_ratio", "yes", "read", "none"),
    )
    return {metric.name: grading.suffixed(metric, suffix) for metric in unsuffixed}


UNREADABLE = percent("unreadable", "unreadable", "answered", "none")
"""The share of answers that cannot be read."""


def grade(
    item: Item[T],
    answer: str,
    truth: YesNo,
    *,
    read: Mapping[str, float],
    always: Mapping[str, float],
    why_wrong: str,
) -> Grade:
    """The grade of an answer read by ``read_words``. Counts: ``always``, and ``read`` where the
    answer is readable."""
    reading = read_words(answer)
    if reading is None:
        why = "neither yes nor no, or both" if answer.strip() else "empty answer"
        return grading.unscored(item, why, {"answered": 1.0, "unreadable": 1.0, **always}, truth)
    correct = reading == truth
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=float(correct),
        read_as=reading,
        why="" if correct else why_wrong,
        truth=truth,
        counts={"answered": 1.0, "unreadable": 0.0, **read, **always},
    )
