"""Run a study: find what is missing and let an executor do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from transformers.utils import logging as transformers_logging

from harness.artifacts.results_folder import ANSWERS_PREFIX, lock, write_json
from harness.errors import UserError
from harness.models.base_cards import find_base
from harness.pipeline import matched_baselines
from harness.pipeline.context import Context, set_threads
from harness.pipeline.estimate import Estimate
from harness.pipeline.executors import in_process
from harness.pipeline.progress import Display, StudyProgress
from harness.pipeline.tasks import Task, export_tasks, missing_tasks, run_tasks
from harness.reporting import literature, published_values
from harness.reporting.results import load_results
from harness.reporting.study_file import with_sha
from harness.study.study import Study
from harness.training.placement import Placement
from harness.training.ranks import ranks

Execute = Callable[[Context, Sequence[Task], StudyProgress], list[str]]
"""Does tasks, as :func:`harness.pipeline.executors.in_process.execute` and
:func:`harness.pipeline.executors.pooled.execute` do."""


def run(
    context: Context,
    display: Display,
    execute: Execute = in_process.execute,
    draw: Callable[[], None] = lambda: None,
    *,
    stop_on_mismatch: bool = False,
) -> list[str]:
    """Do what is missing of the context's study in its folder. Everything finished is kept,
    whatever happens. ``draw`` is called at the end on every rank, while the folder is reserved.

    Where papers print values of the baseline, it is answered and compared with them first.
    ``stop_on_mismatch`` ends the run where it does not have them.

    Returns:
        A sentence for each row that ended early, because a round could not be trained.

    Raises:
        UserError: the folder holds results of other settings (before any work), another process
            writes there, a stage has met a user's mistake, or ``stop_on_mismatch``.
    """
    study, out = context.study, context.results.out
    context.results.check_whole("no stage can be done in it")
    set_threads([find_base(run.base) for run in study.answering])
    transformers_logging.disable_progress_bar()  # the stages show their own
    group = ranks()
    with lock(out) if group.is_main else nullcontext():
        display.update("looking at what is done")
        every_export, tasks = export_tasks(context), run_tasks(context)
        # What cannot be compared yet is compared after the exports, before any model is loaded.
        exports, todo = missing_tasks(every_export, tasks)
        group.on_main(
            lambda: write_json(
                context.results.study, with_sha(study_json(study, context.placement))
            )
        )
        for line in (f"{study.name}: {study.question}", *context.unreadable()):
            display.say(line)
        total = len(every_export) + len(tasks)
        done = total - len(exports) - len(todo)
        if done == total:
            display.say(f"All {total} stages are done; nothing left to do.")
        elif done:
            display.say(f"{done} of {total} stages were done before.")
        progress = StudyProgress(display, Estimate(out).weight, before=done)
        progress.plan([*exports, *todo])
        if exports:
            execute(context, exports, progress)
            todo = [task for task in run_tasks(context) if task.missing()]
            progress.plan(todo)
        if has_published_values(study):
            first = [
                task
                for task in todo
                if task.label == study.baseline and task.kind in ("answer", "grade")
            ]
            execute(context, first, progress)
            todo = [task for task in todo if task not in first]
            sentences, differs = group.on_main(lambda: _base_values(out))
            for line in sentences:
                display.say(line)
            if differs and stop_on_mismatch:
                raise UserError(
                    "Stopped before any training, because the untrained base does not have its"
                    " published values (named above); what is done is kept. Mend the cause and take"
                    " a new --out, or run again without --stop-on-mismatch to go on."
                )
        ended = execute(context, todo, progress)
        context.models.unload()
        draw()
    return ended


def has_published_values(study: Study) -> bool:
    """Whether papers print values of the study's baseline on one of its benchmarks, or of the same
    weights with another input."""
    base = next(run.base for run in study.runs if run.label == study.baseline)
    metrics = [
        (benchmark.name, metric.name)
        for benchmark in study.benchmarks
        for metric in benchmark.metrics
    ]
    return any(
        number.base in (base, base.removesuffix("-hf"))
        and number.row == "untrained"
        and any(literature.is_of_metric(number, *metric) for metric in metrics)
        for number in literature.published()
    )


def _base_values(out: Path) -> tuple[list[str], bool]:
    """Sentences about the baseline in the results folder, and whether some value of it agrees with
    no paper."""
    study = load_results(out)
    values = published_values.values(study)
    return published_values.base_sentences(study, values), published_values.differing(study, values)


def study_json(study: Study, placement: Placement) -> dict[str, object]:
    """The content of ``study.json``: the study with its matched baselines, the family of each base,
    and who trained the rows if it was not our own loop."""
    content, trainer = matched_baselines.study_json(study), placement.trainer
    rows = [
        row
        if row["base"].startswith(ANSWERS_PREFIX)
        else {**row, "family": find_base(row["base"]).family}
        for row in content["runs"]
    ]
    if trainer != "own":
        rows = [{**row, "trainer": trainer} if row["rounds"] else row for row in rows]
    return {**content, "runs": rows}
