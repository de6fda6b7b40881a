"""Turns lmms-eval's result for each answer into counts, from which the kit's totals follow.

If a metric has the kit's own name, the ratio of its counts over all questions equals the kit's
total; every grading checks this (:func:`check`). If a total is not a ratio of sums, our metric has
another name, and the kit's total is only in the report:

- MME: the kit sums the mean acc and acc+ of each category. We give accuracy and acc+ of each half
  (perception, cognition), over all its questions and images.
- MMStar, and any task with an unknown aggregation: we give ``<metric>_mean``, the mean score of the
  questions.

A missing answer adds to no count. An answer that the kit cannot read is unscored: its value is None
and it adds to ``unreadable``. In the kit's own metrics it counts as in the kit, mostly as wrong;
``accuracy`` leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.grading import ratio
from benchmarks.interface import Direction, Metric, metric_value, summed

Result = Mapping[str, Any]
"""The kit's result for one answer, by metric: the return value of the task's
``process_results``."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The grade of one answer, taken from the kit's result; the fields are those of a Grade."""

    value: float | None
    counts: Mapping[str, float]
    read_as: str = ""
    why: str = ""
    truth: str = ""
    judge_failure: str = ""
    """Why the judge gave no judgement; if set, nothing is graded."""


Readings = list[Reading]
Choices = Mapping[str, Any]
"""The choices read for MMBench, from ``via_lmms_eval_child.GradingRecorder.choices``."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How the results of a task are counted."""

    metrics: tuple[Metric, ...]
    read: Callable[[Result], Reading]
    scale: float = 1.0
    """The kit's total / our value, for the metrics that have the kit's name."""
    add_group_counts: Callable[[Sequence[Result], Readings, Choices], Readings] = (
        lambda _results, readings, _choices: readings
    )
    """Adds counts that belong to a group of questions, not to a single one."""
    totals: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda _sums: {}
    """Computes the kit's totals that are not ratios from the sums of counts."""
    tolerance: float = 1e-6
    """The tolerance of ``check``: relative for totals above 1, absolute below."""


def means(metrics: Sequence[Mapping[str, Any]]) -> Counting:
    """The counting for any task: the mean score of the questions. It has the kit's name if the
    task's YAML says ``aggregation: mean``."""
    columns: dict[str, str] = {}
    our_metrics: list[Metric] = []
    for entry in metrics:
        name = str(entry["metric"])
        if "submission" in name:  # a file for a server that scores
            continue
        is_mean = entry.get("aggregation", "mean") == "mean"
        column = columns[name] = column_name(name) if is_mean else f"{column_name(name)}_mean"
        better: Direction = "higher" if entry.get("higher_is_better", True) else "lower"
        is_first = not our_metrics
        our_metrics.append(
            ratio(column, f"sum_{column}", f"n_{column}", better, unit="", primary=is_first)
        )

    def read(result: Result) -> Reading:
        scores = {name: score(result.get(name)) for name in columns}
        given_scores = {name: value for name, value in scores.items() if value is not None}
        counts: dict[str, float] = {}
        for name, value in given_scores.items():
            counts |= {f"sum_{columns[name]}": value, f"n_{columns[name]}": 1.0}
        main_score = given_scores.get("average", next(iter(given_scores.values()), None))
        why = "" if main_score is not None else "the task gives no score of one answer"
        return Reading(value=main_score, counts=counts, why=why)

    return Counting(metrics=tuple(our_metrics), read=read)


def score(result: Any) -> float | None:
    """The score of one question: a number, or the field ``score`` of the mapping that the kit keeps
    to compute its total."""
    if isinstance(result, Mapping):
        result = result.get("score")
    return float(result) if isinstance(result, bool | int | float) else None


def check(
    counting: Counting, counts: Sequence[Mapping[str, float]], totals: Mapping[str, float]
) -> None:
    """Check that our counts give the kit's totals.

    Raises:
        ValueError: the counts over all rows do not give one of the kit's totals (the kit has
            changed, or our counting is wrong).
    """
    sums = summed(counts)
    our_values = {metric.name: metric_value(metric, sums) for metric in counting.metrics}
    other_totals = counting.totals(sums)
    for name, total in totals.items():
        ratio_of_sums = our_values.get(column_name(name))
        value = other_totals.get(name) if ratio_of_sums is None else ratio_of_sums * counting.scale
        if value is not None and abs(value - total) > counting.tolerance * max(1.0, abs(total)):
            raise ValueError(
                f"lmms-eval's {name} is {total:.6g}, but our counts give {value:.6g}: this version"
                " of the kit counts differently from via_lmms_eval_counts.py. Nothing was graded;"
                " the answers are kept."
            )


def column_name(name: str) -> str:
    """The metric's name as a column name; MMStar's names contain spaces."""
    return name.replace(" ", "_").replace("&", "and")
