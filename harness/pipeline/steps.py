"""One stage of a study as a step of a run: what it is called, where it is written, what it
takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.results_folder import Stage
from harness.pipeline.stages import Progress

NO_MODEL = ("export", "grade", "derive")
"""Stages that take seconds and no model. A newer version of the benchmark does them again; answers
are kept."""
FROM_QUESTIONS = ("answer", "grade", "choices", "derive")
"""Stages whose identity is known once the questions are exported."""


class Later:
    """A model that is loaded when it is first asked for something: a stage whose shards are all
    there needs none."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of a study. ``items`` is what its time is proportional to (images, questions),
    None where unknown yet;
    ``inputs`` are the folders of the stages that it builds on."""

    title: str
    kind: str
    name: str
    base: str | None
    items: float | None
    stage: Stage
    work: Callable[[Progress], None]
    inputs: tuple[Path, ...] = ()

    def missing(self) -> bool:
        """Whether there is work to do.

        Raises:
            UserError: the folder holds results of other settings.
        """
        if self.kind in NO_MODEL and self.stage.differs_only_in("version"):
            return True
        self.stage.check()
        return not self.stage.done

    def do(self, progress: Progress) -> None:
        if self.kind in NO_MODEL and self.stage.differs_only_in("version"):
            self.stage.clear()
        self.work(progress)


def without(steps: Sequence[Step], ended: Step) -> list[Step]:
    """The steps, in their order, that need neither ``ended`` nor anything that is made from it."""
    lost, kept = {ended.stage.folder}, []
    for step in steps:
        if step is ended or not lost.isdisjoint(step.inputs):
            lost.add(step.stage.folder)
        else:
            kept.append(step)
    return kept
