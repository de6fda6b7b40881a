"""Plan a study: what is still to do, row by row, about how long it takes, and what it can show.
Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from benchmarks.grading import without_images
from harness.artifacts.results_folder import Results
from harness.models.base_cards import find_base
from harness.pipeline import given_answers, matched_baselines, planned_power
from harness.pipeline.context import Context
from harness.pipeline.estimate import Estimate
from harness.pipeline.executors import processes
from harness.pipeline.preflight import free_disk
from harness.pipeline.progress import span
from harness.pipeline.shipped_rates import shipped_rates
from harness.pipeline.tasks import FROM_QUESTIONS, Kind, Task, export_tasks, run_tasks
from harness.study import cost_model
from harness.study.study import Run, Study
from harness.training.ranks import ranks

COLUMNS: Mapping[str, tuple[Kind, ...]] = {
    "pairs": ("pairs",),
    "train": ("train",),
    "answers": ("answer", "choices"),
}
"""A row's columns, and the kinds of stages in each."""

Asked = Callable[[str], Counter[str]]
"""The number of questions about each image, by a benchmark's name; each benchmark is read once."""

LABEL = 30
"""Characters of a label that the table shows."""


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is missing of a study. ``times``: for how many equal runs a task stands, by its key."""

    done: int
    tasks: Sequence[Task]
    times: Mapping[str, int]

    @property
    def missing(self) -> int:
        return sum(self.times[task.key] for task in self.tasks)


@dataclass
class RowTime:
    """Seconds by column, and whether some stage's speed is not known."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0.0))
    unknown: bool = False

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def plan(context: Context, *, jobs: int | None = None, stages: bool = False) -> list[str]:
    """What ``run`` would do, in lines. ``jobs``: of the command line. ``stages``: also a line each
    missing stage.

    Raises:
        UserError: the folder holds results of other settings, or is a packed one.
    """
    study, out = context.study, context.results.out
    context.results.check_whole("no stage can be done in it")
    work = todo(context)
    every = work.done + work.missing
    head = [f"{study.name}: {study.question}"]
    if not work.missing:
        return [*head, f"{out}: all {every} stages are done; nothing is left to do."]
    head.append(f"{out}: {work.done} of {every} stages are done.")
    asked: Asked = cache(partial(_asked, study))
    estimate = Estimate(out.parent)
    lines = [*head, *context.unreadable()]
    trained = given_answers.asked(study)
    if any(find_base(run.base).prompts != "synthetic" for run in trained):
        counts = {benchmark.name: asked(benchmark.name).total() for benchmark in study.benchmarks}
        lines += cost_model.lines(trained, study.benchmarks, counts, out.parent)
        lines.append(f"{free_disk(out):,.0f} GiB are free on the disk of {out}.")
    else:
        lines += _table(study, work, estimate, asked, jobs)
    lines += planned_power.lines(study, out.parent, lambda name: len(asked(name)))
    if stages:
        lines += ["", *_stages(work, estimate, asked)]
    return lines


def todo(context: Context) -> Todo:
    """The missing stages. Seeds without a folder differ in nothing that a plan shows, so the first
    one stands for all of a row."""
    study, times = _sampled(context.study, context.results)
    sample = replace(context, study=study)
    exports, tasks = export_tasks(sample), run_tasks(sample)
    owners = {
        (matched.label, matched.run.seed): (matched.run.label, matched.run.seed)
        for matched in matched_baselines.planned(study)
    }
    by_key = {task.key: 1 for task in exports}
    for task in tasks:
        owner = (task.label, task.seed)
        by_key[task.key] = times[owners.get(owner, owner)]
    missing = [task for task in exports if task.missing()]
    exporting = bool(missing)
    for task in tasks:
        # Without its questions, a task has no identity yet that could be compared.
        unknown = exporting and task.kind in FROM_QUESTIONS
        if not task.stage.done if unknown else task.missing():
            missing.append(task)
    left = sum(by_key[task.key] for task in missing)
    return Todo(done=sum(by_key.values()) - left, tasks=missing, times=by_key)


def _sampled(study: Study, results: Results) -> tuple[Study, dict[tuple[str, int], int]]:
    """The study with one run for all runs of a row that have no folder; and for how many runs each
    stands, by label and seed."""
    runs, times, first = list[Run](), dict[tuple[str, int], int](), dict[str, tuple[str, int]]()
    for run in study.runs:
        key = (run.label, run.seed)
        started = (results.out / "runs" / run.label / f"seed{run.seed}").exists()
        if not started and run.label in first:
            times[first[run.label]] += 1
            continue
        if not started:
            first[run.label] = key
        runs.append(run)
        times[key] = 1
    return replace(study, runs=tuple(runs)), times


def _asked(study: Study, name: str) -> Counter[str]:
    """The number of questions about each image of a benchmark."""
    benchmark = next(benchmark for benchmark in study.benchmarks if benchmark.name == name)
    return Counter(question.cluster for question in without_images(benchmark))


def _table(
    study: Study, work: Todo, estimate: Estimate, asked: Asked, jobs: int | None
) -> list[str]:
    """A line a row with missing stages, and the sum."""
    rows, shipped = _times(work, estimate, asked)
    shape = Counter(run.label for run in study.runs)
    images = {run.label: run.images * run.last for run in study.runs}
    width = min(LABEL, max(map(len, rows), default=3))
    lines = [f"  {'row':<{width}} {'seeds':>5} {'images':>7}" + _cells([*COLUMNS, "in all"])]
    for label, time in rows.items():
        cells = [_span(time.seconds[column], time.unknown) for column in COLUMNS]
        shown = label if len(label) <= width else label[: width - 1] + "…"
        lines.append(
            f"  {shown:<{width}} {shape[label] if images[label] else '-':>5}"
            f" {images[label] or '-':>7}" + _cells([*cells, _span(time.total, time.unknown)])
        )
    total = sum(time.total for time in rows.values())
    if total:
        places = jobs or (processes.default_jobs(study) if ranks().size == 1 else 1)
        together = "" if places == 1 else f"; with {places} processes about {span(total / places)}"
        lines.append(f"About {span(total)} of work, one stage after the other{together}.")
        partly = "partly " if shipped == {True, False} else ""
        origin = partly + (
            shipped_rates().origin if True in shipped else "measured on this machine"
        )
        lines.append(f"Speeds: {origin}. Not counted: questions, grades, tables, figures.")
    if any(time.unknown for time in rows.values()):
        lines.append("?: the speed of some stages is not known; none of their kind has run here.")
    return lines


def _times(work: Todo, estimate: Estimate, asked: Asked) -> tuple[dict[str, RowTime], set[bool]]:
    """The time of each row's missing stages, and whose the speeds are (True: the shipped
    reference's)."""
    rows: dict[str, RowTime] = {}
    shipped = set[bool]()
    for task in work.tasks:
        if not task.needs_model:
            continue
        row = rows.setdefault(task.label, RowTime())
        column = next(name for name, kinds in COLUMNS.items() if task.kind in kinds)
        seconds = _seconds(task, estimate, asked)
        if seconds is None:
            row.unknown = True
            continue
        row.seconds[column] += seconds * work.times[task.key]
        shipped.add(estimate.measured(task) is None)
    return rows, shipped


def _seconds(task: Task, estimate: Estimate, asked: Asked) -> float | None:
    """A task's seconds; None where nothing of its kind was measured."""
    rate = estimate.rate(task)
    if rate is None:
        return None
    return rate * (asked(task.benchmark).total() if task.items is None else task.items)


def _stages(work: Todo, estimate: Estimate, asked: Asked) -> list[str]:
    """A line a missing stage that needs a model, and the number of the others."""
    lines, quick = list[str](), 0
    for task in work.tasks:
        if not task.needs_model:
            quick += work.times[task.key]
            continue
        seconds, times = _seconds(task, estimate, asked), work.times[task.key]
        time = "unknown" if seconds is None else f"about {span(seconds)}"
        more = f" (each of {times} seeds)" if times > 1 else ""
        lines.append(f"  {task.title:<56} {time}{more}")
    return [*lines, f"  and {quick} exports and gradings, without a model"] if quick else lines


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"{text:>13}" for text in texts)


def _span(seconds: float, unknown: bool) -> str:
    if not seconds:
        return "?" if unknown else "-"
    return span(seconds) + (" + ?" if unknown else "")
