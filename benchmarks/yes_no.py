"""Yes/no questions: reading an answer, three ways (None: it cannot be read so), and counting what
was read.

- ``read_strict``: the answer is the one word yes or no, but for case and punctuation.
- ``read_words``: exactly one of the words yes and no occurs (VLMEvalKit's ``YOrN_Extraction``: both
or neither is unknown).
- ``read_official``: POPE's own evaluation (Li et al., arXiv 2305.10355), which reads *every*
answer, an empty one as yes."""

from __future__ import annotations

import re
from typing import Literal

from benchmarks.grading import percent
from benchmarks.interface import Metric

YesNo = Literal["yes", "no"]
IN_TRUTH = {"yes": "present", "no": "absent"}


def read_strict(answer: str) -> YesNo | None:
    """ "Yes." is yes; "yes, there is" is None."""
    word = re.sub(r"[\W_]+", " ", answer).strip().lower()
    return _either(word == "yes", word == "no")


def read_words(answer: str) -> YesNo | None:
    """ "Yes, there is a ball." is yes; "yes and no" and "maybe" are None. A negation without the
    word no is not read."""
    words = re.split(r"[\W_]+", answer.lower())
    return _either("yes" in words, "no" in words)


def read_official(answer: str) -> YesNo:
    """As POPE's released script: commas removed, first sentence only, split at blanks; No, no or
    not among the words is no, all else is yes (so "I cannot see one" and "NO" are yes)."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _either(yes: bool, no: bool) -> YesNo | None:
    return None if yes == no else "yes" if yes else "no"


def why_unread(answer: str) -> str:
    """What is wrong with an answer that ``read_words`` cannot read."""
    return "neither yes nor no, or both" if answer.strip() else "empty answer"


def counts(
    truth: YesNo, said: YesNo | None, *, positive: YesNo = "yes", suffix: str = ""
) -> dict[str, float]:
    """What one answer adds to the sums behind ``metrics``; None is an answer that is counted and
    wrong, whatever the truth."""
    hit, claimed, real = said == truth, said == positive, truth == positive
    tp, fp, fn = float(claimed and real), float(claimed and not real), float(real and not claimed)
    found = {
        "read": 1.0,
        "correct": float(hit),
        "yes": float(said == "yes"),
        positive: float(claimed),
        IN_TRUTH[positive]: float(real),
        "tp": tp,
        "f1_num": 2 * tp,
        "f1_den": 2 * tp + fp + fn,
    }
    return {f"{name}{suffix}": count for name, count in found.items()}


def metrics(
    *, positive: YesNo = "yes", suffix: str = "", primary: bool = False
) -> tuple[Metric, ...]:
    """Accuracy, precision, recall and F1 of the positive class, and the share of answers that were
    yes.

    F1 is 2 tp / (2 tp + fp + fn), so it can be recomputed on any resample.
    """
    return (
        percent(f"accuracy{suffix}", f"correct{suffix}", f"read{suffix}", primary=primary),
        percent(f"precision{suffix}", f"tp{suffix}", f"{positive}{suffix}"),
        percent(f"recall{suffix}", f"tp{suffix}", f"{IN_TRUTH[positive]}{suffix}"),
        percent(f"f1{suffix}", f"f1_num{suffix}", f"f1_den{suffix}"),
        percent(f"yes_ratio{suffix}", f"yes{suffix}", f"read{suffix}", "none"),
    )
