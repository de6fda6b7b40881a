"""Estimates how long tasks take: from earlier records of this machine, else from the shipped
reference, else a rough guess."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from harness.pipeline.shipped_rates import shipped_rates
from harness.pipeline.tasks import Kind, Task
from harness.study.cost_model import measured_here, measured_rate

GUESS: Mapping[Kind, float] = {"pairs": 0.04, "train": 0.01, "answer": 0.006, "choices": 0.005}
"""Seconds an image or question, as on the synthetic base with one thread: they only weigh tasks
against each other in the time left."""

WITHOUT_MODEL = 0.3
"""Seconds of a task without a model."""


class Estimate:
    """The speed of a task from the records of the same kind of stage on the same base and hardware:
    their median. ``root``: the folder that holds results folders."""

    def __init__(self, root: Path) -> None:
        self._records = measured_here(root)

    def rate(self, task: Task) -> float | None:
        """Seconds an item: measured here, else by the shipped reference; None where nothing like it
        is known."""
        measured = self.measured(task)
        return self.shipped(task) if measured is None else measured

    def measured(self, task: Task) -> float | None:
        """Seconds an item on this hardware."""
        return measured_rate(self._records, task.kind, _base(task), task.name, or_any=True)

    def shipped(self, task: Task) -> float | None:
        """Seconds an item on the shipped reference's hardware."""
        rates = {
            name: rate
            for (stage, base, name), rate in shipped_rates().rates.items()
            if (stage, base) == (task.kind, _base(task))
        }
        return rates.get(task.name) or (median(rates.values()) if rates else None)

    def weight(self, task: Task) -> float:
        """About how many seconds a task takes; a guess where nothing is known."""
        if not task.needs_model:
            return WITHOUT_MODEL
        rate = self.rate(task)
        return (GUESS[task.kind] if rate is None else rate) * (task.items or 100)


def _base(task: Task) -> str | None:
    return None if task.checkpoint is None else task.checkpoint.card.name
