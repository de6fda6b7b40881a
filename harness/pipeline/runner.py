"""What of a study is missing, in order, with an estimate and progress: finds the stages and does
them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from statistics import median

import torch
from transformers.utils import logging as transformers_logging

from harness.artifacts.environment import cores, hardware
from harness.artifacts.results_folder import Results, lock, records, write_json
from harness.errors import NoPairs, UserError
from harness.models.base_cards import find_base
from harness.pipeline import matched_baselines
from harness.pipeline.progress import Display, span
from harness.pipeline.stages import Progress
from harness.pipeline.steps import FROM_QUESTIONS, NO_MODEL, Step, without
from harness.pipeline.workshop import Models, Workshop
from harness.study.study import Study
from harness.training.placement import AS_FITS, Placement
from harness.training.ranks import Enough, team

Do = Callable[[Sequence[Step], int, int, Display, Results], list[str]]
"""Does missing steps in order: (steps, how many were before them, of how many, where to say it, the
study's folder); gives what ended a row before its end."""


def run(
    study: Study,
    out: Path,
    display: Display,
    models: Models | None = None,
    placement: Placement = AS_FITS,
    do: Do | None = None,
) -> None:
    """Do what is missing of the study in ``out``; everything finished is kept, whatever happens.
    The processes of a team share each stage's shards and trainings; the first of them does the
    rest. ``do``: who does the steps behind the exports.

    Raises:
        UserError: the folder holds results of other settings (before any work), another process
            writes there, a stage has met a user's mistake, or a row made no pair to train on (when
            the other rows are done).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    transformers_logging.disable_progress_bar()  # the stages show their own
    crew = team()
    Results(out).check_whole("no stage can be done in it")
    shop = Workshop(study, Results(out), models or Models(), placement)
    with lock(out) if crew.first else nullcontext():
        exports = [step for step in shop.exports() if step.missing()]
        after = shop.runs()
        for step in after:
            if exports and step.kind in FROM_QUESTIONS:
                # their identity is known once the questions are there; checked below, before any
                # model is loaded
                continue
            step.missing()
        said = matched_baselines.study_json(study)
        said["runs"] = [{**one, "family": find_base(one["base"]).family} for one in said["runs"]]
        crew.once(lambda: write_json(shop.results.study, said))
        total = len(exports) + sum(step.kind in NO_MODEL or not step.stage.done for step in after)
        for told in (f"{study.name}: {study.question}", *shop.left_out()):
            display.say(told)
        _do(exports, 0, total, display, shop.results)
        todo = (
            [step for step in shop.runs() if step.missing()]
            if exports
            else [step for step in after if step.missing()]
        )
        ended = (do or _do)(todo, len(exports), len(exports) + len(todo), display, shop.results)
        shop.models.forget()
    if ended:
        raise UserError(
            f"{' '.join(ended)} All else is done; python -m harness table --out {out} shows it."
        )


def _do(
    steps: Sequence[Step], before: int, total: int, display: Display, results: Results
) -> list[str]:
    todo, ended = list(steps), list[str]()
    while todo:
        step, number, began = todo[0], before + len(steps) - len(todo) + 1, time.monotonic()
        try:
            do_step(step, results, display.stage(number, total, step.title))
        except NoPairs as error:  # on every process of a team alike: all of them read the same file
            todo = without(todo, step)
            ended.append(str(error))
            display.say(str(error))
        else:
            todo = todo[1:]
            display.done(number, total, step.title, time.monotonic() - began)
    return ended


def do_step(step: Step, results: Results, progress: Progress) -> None:
    """One stage: taken over from a twin, done by the first process alone, or shared by the team."""
    crew = team()
    # Gathered, so that every process decides alike and none begins before all have looked.
    twin = crew.gather(
        results.finished_stage(step.stage.identity) if step.kind not in NO_MODEL else None
    )[0]
    if twin is not None:
        crew.once(lambda: step.stage.reuse(twin, results.out))
    elif step.kind in NO_MODEL:
        crew.once(lambda: step.do(progress))
    else:
        with suppress(Enough):
            step.do(progress)
        crew.barrier()


def plan(study: Study, out: Path, placement: Placement = AS_FITS) -> str:
    """What ``run`` would do: a line a missing stage with an estimate from what this machine
    measured before. Writes nothing.

    Raises:
        UserError: the folder holds results of other settings, or is a packed one.
    """
    Results(out).check_whole("no stage can be done in it")
    shop = Workshop(study, Results(out), placement=placement)
    exports = shop.exports()
    todo = [step for step in exports if step.missing()]
    exporting = bool(todo)
    steps = shop.runs()
    for step in steps:
        if exporting and step.kind in FROM_QUESTIONS:
            todo += (
                [] if step.stage.done else [step]
            )  # its questions are not written yet, so there is nothing to compare with
        elif step.missing():
            todo.append(step)
    estimate = Estimate(out.parent)
    questions = {benchmark.name: benchmark.questions for benchmark in study.benchmarks}

    @cache
    def count(benchmark: str) -> int:
        return sum(1 for _ in questions[benchmark]())

    lines = [
        f"{study.name}: {study.question}",
        f"{out}: {len(exports) + len(steps) - len(todo)} stages done, {len(todo)} missing.",
        *shop.left_out(),
    ]
    known, unknown = 0.0, 0
    for step in todo:
        if step.kind not in NO_MODEL:
            rate = estimate.rate(step)
            seconds = (
                None
                if rate is None
                else rate * (count(step.name) if step.items is None else step.items)
            )
            known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
            lines.append(
                f"  {step.title:<56} {'unknown' if seconds is None else 'about ' + span(seconds)}"
            )
    quick = sum(step.kind in NO_MODEL for step in todo)
    lines += [f"  and {quick} exports and gradings, without a model"] if quick else []
    told = [f"about {span(known)} in all"] if known else []
    told += (
        [f"{unknown} stages of unknown time (none of their kind has run here)"] if unknown else []
    )
    lines += [f"{', and '.join(told).capitalize()}."] if told else []
    return "\n".join(lines)


class Estimate:
    """The speed of a step from the records of the same kind of stage on the same base and hardware:
    their median."""

    def __init__(self, root: Path) -> None:
        mine = hardware()
        self._records = [
            record
            for record in records(root)
            if record.get("hardware") == mine and record.get("items")
        ]

    def rate(self, step: Step) -> float | None:
        """Seconds an item; None where nothing like it has been measured."""
        alike = [
            record
            for record in self._records
            if (record.get("stage"), record.get("base")) == (step.kind, step.base)
        ]
        same = [record for record in alike if record.get("name") == step.name]
        rates = [record["seconds"] / record["items"] for record in same or alike]
        return median(rates) if rates else None
