"""The untrained base against its published values, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.pipeline.tasks import Task
from harness.reporting import literature, published_values
from harness.reporting.results import load_results
from harness.study.study import Study


def are_published(study: Study) -> bool:
    """Whether papers print values of the study's baseline on one of its benchmarks, or of the same
    weights with another input."""
    base = next(run.base for run in study.runs if run.label == study.baseline)
    return any(
        number.base in (base, base.removesuffix("-hf"))
        and number.row == "untrained"
        and any(
            literature.belongs(number, benchmark.name, metric.name)
            for benchmark in study.benchmarks
            for metric in benchmark.metrics
        )
        for number in literature.published()
    )


def first(study: Study, tasks: Sequence[Task]) -> list[Task]:
    """The baseline's answers and grades, of these tasks."""
    return [
        task for task in tasks if task.label == study.baseline and task.kind in ("answer", "grade")
    ]


def told(out: Path) -> tuple[list[str], bool]:
    """Sentences about the baseline in the results folder, and whether some value of it agrees with
    no paper."""
    study = load_results(out)
    found = published_values.values(study)
    return published_values.base_sentences(study, found), published_values.differing(study, found)


def stopped() -> UserError:
    return UserError(
        "Stopped before any training, because the untrained base does not have its published values"
        " (named above); what is done is kept. Mend the cause and take a new --out, or run again"
        " without --stop-on-mismatch to go on."
    )
