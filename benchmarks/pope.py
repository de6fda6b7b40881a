"""POPE, polling-based object probing (Li et al., "Evaluating Object Hallucination in Large Vision-Language Models",
arXiv 2305.10355, section 5): as many questions about present objects as about absent ones, the absent ones drawn at random,
from the most popular categories, or from what usually stands beside a present one (adversarial).

"Yes" is the positive class. F1 is 2 tp / (2 tp + fp + fn), so it can be recomputed on any resample. Answers are read at word
level (``yes_no.read_words``); an answer that cannot be read is unscored and counted, where POPE's own script would call it yes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks import grading
from benchmarks.grading import Item
from benchmarks.interface import Grade, Metric, Question, Report, report
from benchmarks.yes_no import read_words

POPE_VERSION = "1"
SETTINGS: tuple[str, ...] = ("random", "popular", "adversarial")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The truth of one question: whether the object is there, and the setting it was asked in."""

    present: bool
    setting: str


@dataclass(frozen=True, kw_only=True)
class Pope:
    """POPE over any source of pictures with known objects. ``source`` names the data and its version."""

    name: str
    source: str
    items: Callable[[], Iterator[Item[Probe]]]
    max_new_tokens: int = 8

    group: Literal["hallucination"] = "hallucination"

    @property
    def version(self) -> str:
        return f"{self.source} pope-{POPE_VERSION}"

    @property
    def choices(self) -> tuple[str, str]:
        return "yes", "no"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric(name="accuracy", better="higher", unit="%", numerator="correct", denominator="read", primary=True),
            Metric(name="precision", better="higher", unit="%", numerator="tp", denominator="yes"),
            Metric(name="recall", better="higher", unit="%", numerator="tp", denominator="present"),
            Metric(name="f1", better="higher", unit="%", numerator="f1_num", denominator="f1_den"),
            Metric(name="yes_ratio", better="none", unit="%", numerator="yes", denominator="read"),
            Metric(name="unreadable", better="none", unit="%", numerator="unreadable", denominator="answered"),
            *(
                Metric(
                    name=f"accuracy_{setting}",
                    better="higher",
                    unit="%",
                    numerator=f"correct_{setting}",
                    denominator=f"read_{setting}",
                )
                for setting in SETTINGS
            ),
        )

    def questions(self) -> Iterator[Question]:
        return grading.questions(self.items(), self.max_new_tokens)

    def grade(self, answers: Mapping[str, str]) -> Report:
        """
        Raises:
            ValueError: an answer belongs to no question.
        """
        return report(self.metrics, grading.grades(self.items(), answers, _judge))


def _judge(item: Item[Probe], answer: str) -> Grade:
    said = read_words(answer)
    if said is None:
        why = "neither yes nor no, or both" if answer.strip() else "empty answer"
        return grading.unscored(item, why, {"answered": 1.0, "unreadable": 1.0})
    yes, present, setting = said == "yes", item.truth.present, item.truth.setting
    correct = float(yes == present)
    tp, fp, fn = float(yes and present), float(yes and not present), float(present and not yes)
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=correct,
        read_as=said,
        why="" if correct else f"it is {'there' if present else 'not there'}",
        truth="yes" if present else "no",
        counts={
            "answered": 1.0,
            "unreadable": 0.0,
            "read": 1.0,
            "correct": correct,
            "yes": float(yes),
            "present": float(present),
            "tp": tp,
            "f1_num": 2 * tp,
            "f1_den": 2 * tp + fp + fn,
            f"read_{setting}": 1.0,
            f"correct_{setting}": correct,
        },
    )
