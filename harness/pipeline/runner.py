"""Run a study: find what is missing and let an executor do it. Plan a study: say what is missing,
with an estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path

from transformers.utils import logging as transformers_logging

from harness.artifacts.results_folder import Results, lock, write_json
from harness.errors import UserError
from harness.models.base_cards import find_base
from harness.pipeline import matched_baselines
from harness.pipeline.context import Context
from harness.pipeline.estimate import Estimate
from harness.pipeline.executors import in_process
from harness.pipeline.loaded_model import set_threads
from harness.pipeline.progress import Display, span
from harness.pipeline.study_progress import StudyProgress
from harness.pipeline.tasks import FROM_QUESTIONS, Task, export_tasks, run_tasks
from harness.study.study import Study
from harness.training.placement import AS_FITS, Placement
from harness.training.ranks import ranks

Execute = Callable[[Context, Sequence[Task], StudyProgress], list[str]]
"""Does tasks, as :func:`harness.pipeline.executors.in_process.execute` and
:func:`harness.pipeline.executors.pooled.execute` do."""


def run(
    study: Study,
    out: Path,
    display: Display,
    placement: Placement = AS_FITS,
    execute: Execute = in_process.execute,
) -> None:
    """Do what is missing of the study in ``out``. Everything finished is kept, whatever happens.

    Raises:
        UserError: the folder holds results of other settings (before any work), another process
            writes there, a stage has met a user's mistake, or a row made no pair to train on (when
            the other rows are done).
    """
    Results(out).check_whole("no stage can be done in it")
    set_threads([find_base(run.base) for run in study.runs])
    transformers_logging.disable_progress_bar()  # the stages show their own
    context, group = Context(study, Results(out), placement), ranks()
    with lock(out) if group.is_main else nullcontext():
        display.moving("looking at what is done")
        every_export, tasks = export_tasks(context), run_tasks(context)
        exports = [task for task in every_export if task.missing()]
        # Where questions are still to be exported, identities that depend on them are checked
        # afterwards, before any model is loaded.
        todo = [
            task
            for task in tasks
            if (not task.stage.done if exports and task.kind in FROM_QUESTIONS else task.missing())
        ]
        group.on_main(lambda: write_json(context.results.study, study_json(study)))
        for line in (f"{study.name}: {study.question}", *context.unreadable()):
            display.say(line)
        total = len(every_export) + len(tasks)
        done = total - len(exports) - len(todo)
        if done == total:
            display.say(f"All {total} stages are done; nothing left to do.")
        elif done:
            display.say(f"{done} of {total} stages were done before.")
        shown = StudyProgress(display, Estimate(out).weight, before=done)
        shown.plan([*exports, *todo])
        if exports:
            execute(context, exports, shown)
            todo = [task for task in run_tasks(context) if task.missing()]
            shown.plan(todo)
        ended = execute(context, todo, shown)
        context.models.forget()
    if ended:
        raise UserError(
            f"{' '.join(ended)} All else is done; python -m harness table --out {out} shows it."
        )


def study_json(study: Study) -> dict[str, object]:
    """The content of ``study.json``: the study with its matched baselines, and the family of each
    base."""
    content = matched_baselines.study_json(study)
    rows = [{**row, "family": find_base(row["base"]).family} for row in content["runs"]]
    return {**content, "runs": rows}


def plan(study: Study, out: Path, placement: Placement = AS_FITS) -> str:
    """What ``run`` would do: a line a missing task with an estimate from what this machine measured
    before. Writes nothing.

    Raises:
        UserError: the folder holds results of other settings, or is a packed one.
    """
    Results(out).check_whole("no stage can be done in it")
    context = Context(study, Results(out), placement)
    exports, tasks = export_tasks(context), run_tasks(context)
    todo = [task for task in exports if task.missing()]
    exporting = bool(todo)
    for task in tasks:
        # Without its questions, a task has no identity yet that could be compared.
        unknown = exporting and task.kind in FROM_QUESTIONS
        if not task.stage.done if unknown else task.missing():
            todo.append(task)
    done = len(exports) + len(tasks) - len(todo)
    return "\n".join(
        [
            f"{study.name}: {study.question}",
            f"{out}: {done} stages done, {len(todo)} missing.",
            *context.unreadable(),
            *_estimates(study, todo, Estimate(out.parent)),
        ]
    )


def _estimates(study: Study, todo: Sequence[Task], estimate: Estimate) -> list[str]:
    """A line a task that needs a model, and the sum."""
    questions = {benchmark.name: benchmark.questions for benchmark in study.benchmarks}

    @cache
    def count(benchmark: str) -> int:
        return sum(1 for _ in questions[benchmark]())

    lines, known, unknown = list[str](), 0.0, 0
    for task in (task for task in todo if task.needs_model):
        rate = estimate.rate(task)
        if rate is None:
            unknown += 1
            lines.append(f"  {task.title:<56} unknown")
        else:
            seconds = rate * (count(task.benchmark) if task.items is None else task.items)
            known += seconds
            lines.append(f"  {task.title:<56} about {span(seconds)}")
    if quick := sum(not task.needs_model for task in todo):
        lines.append(f"  and {quick} exports and gradings, without a model")
    sums = [f"about {span(known)} in all, one task after the other"] if known else []
    sums += [f"{unknown} stages of unknown time (none of their kind has run here)"] * bool(unknown)
    return [*lines, f"{', and '.join(sums).capitalize()}."] if sums else lines
