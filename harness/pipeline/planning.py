"""Plan a study: what is still to do, row by row, about how long it takes, and what it can show.
Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS
from benchmarks.grading import without_images
from harness.artifacts.results_folder import Results
from harness.models.base_cards import find_base
from harness.pipeline import matched_baselines, planned_power
from harness.pipeline.context import Context
from harness.pipeline.estimate import Estimate
from harness.pipeline.executors import processes
from harness.pipeline.preflight import free_disk
from harness.pipeline.preflight_options import WithoutData
from harness.pipeline.progress import span
from harness.pipeline.shipped_rates import shipped_rates
from harness.pipeline.tasks import Kind, Task, export_tasks, missing_tasks, run_tasks
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

    tasks: Sequence[Task]
    times: Mapping[str, int]

    @property
    def missing(self) -> int:
        return sum(self.times[task.key] for task in self.tasks)


def plan(context: Context, *, jobs: int | None = None, stages: bool = False) -> list[str]:
    """What ``run`` would do, in lines. ``jobs``: of the command line. ``stages``: also a line each
    missing stage.

    Raises:
        UserError: the folder holds results of other settings, or is a packed one.
    """
    study, out = context.study, context.results.out
    context.results.check_whole("no stage can be done in it")
    work = todo(context)
    every, missing = sum(work.times.values()), work.missing
    head = f"{study.name}: {study.question}"
    if not missing:
        return [head, f"{out}: all {every} stages are done; nothing is left to do."]
    lines = [head, f"{out}: {every - missing} of {every} stages are done.", *context.unreadable()]
    asked: Asked = cache(partial(_asked, study))
    estimate = Estimate(out.parent)
    trained = study.answering
    if any(find_base(run.base).prompts != "synthetic" for run in trained):
        counts = {benchmark.name: asked(benchmark.name).total() for benchmark in study.benchmarks}
        captions = {name for name, spec in BENCHMARKS.items() if spec.captions}
        captions |= {
            benchmark.name
            for benchmark in study.benchmarks
            if any(metric.name == "words" for metric in benchmark.metrics)
        }
        lines += cost_model.lines(trained, counts, captions, out.parent)
        lines.append(f"{free_disk(out):,.0f} GiB are free on the disk of {out}.")
    else:
        lines += _table(study, work, estimate, asked, jobs)
    lines += planned_power.lines(study, out.parent, lambda name: len(asked(name)))
    if stages:
        lines += ["", *_stages(work, estimate, asked)]
    return lines


def without_data(study: WithoutData, results: Path) -> list[str]:
    """What the study costs, by the known sizes of its benchmarks. ``results`` holds earlier
    records."""
    card, specs = find_base(study.runs[0].base), study.benchmarks
    if card.parameters is None:
        return [
            f"How long it takes cannot be told before {card.name} is here: the number of its"
            " parameters is not known."
        ]
    counts = {spec.name: count for spec in specs if (count := spec.question_count(study.limit))}
    known = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none is known"
    lines = [
        "Not all data are here. Assumed: the pool has what the rows need, and the benchmarks have"
        f" their known numbers of questions ({known})."
    ]
    if others := [spec.name for spec in specs if spec.name not in counts]:
        lines.append(
            f"Not counted: answers to {', '.join(others)}; the number of questions is not known."
        )
    captions = {spec.name for spec in specs if spec.captions}
    return lines + cost_model.lines(study.runs, counts, captions, results)


def todo(context: Context) -> Todo:
    """The missing stages. Seeds without a folder differ in nothing that a plan shows, so the first
    one stands for all of a row."""
    study, runs = _sampled(context.study, context.results)
    sample = replace(context, study=study)
    exports, tasks = export_tasks(sample), run_tasks(sample)
    for matched in matched_baselines.planned(study):
        runs[matched.label, matched.run.seed] = runs[matched.run.label, matched.run.seed]
    exporting, missing = missing_tasks(exports, tasks)
    times = {task.key: 1 for task in exports}
    times |= {task.key: runs[task.label, task.seed] for task in tasks}
    return Todo(tasks=[*exporting, *missing], times=times)


def _sampled(study: Study, results: Results) -> tuple[Study, dict[tuple[str, int], int]]:
    """The study with one run for all runs of a row that have no folder; and for how many runs each
    stands, by label and seed."""
    runs, times, first = list[Run](), dict[tuple[str, int], int](), dict[str, tuple[str, int]]()
    for run in study.runs:
        key = (run.label, run.seed)
        started = (results.out / "runs" / run.label / f"seed{run.seed}").exists()
        if not started and first.setdefault(run.label, key) != key:
            times[first[run.label]] += 1
            continue
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
    rows, unknown, shipped = _times(work, estimate, asked)
    shape = Counter(run.label for run in study.runs)
    images = {run.label: run.images * run.last for run in study.runs}
    width = min(LABEL, max(map(len, rows), default=3))
    lines = [f"  {'row':<{width}} {'seeds':>5} {'images':>7}" + _cells([*COLUMNS, "in all"])]
    for label, seconds in rows.items():
        times = [*seconds.values(), sum(seconds.values())]
        shown = label if len(label) <= width else label[: width - 1] + "…"
        lines.append(
            f"  {shown:<{width}} {shape[label] if images[label] else '-':>5}"
            f" {images[label] or '-':>7}"
            + _cells([_span(time, label in unknown) for time in times])
        )
    total = sum(sum(seconds.values()) for seconds in rows.values())
    if total:
        places = jobs or (processes.default_jobs(study) if ranks().size == 1 else 1)
        together = "" if places == 1 else f"; with {places} processes about {span(total / places)}"
        lines.append(f"About {span(total)} of work, one stage after the other{together}.")
        origin = shipped_rates().origin if True in shipped else "measured on this machine"
        partly = "partly " if len(shipped) == 2 else ""
        lines.append(f"Speeds: {partly}{origin}. Not counted: questions, grades, tables, figures.")
    if unknown:
        lines.append("?: the speed of some stages is not known; none of their kind has run here.")
    return lines


def _times(
    work: Todo, estimate: Estimate, asked: Asked
) -> tuple[dict[str, dict[str, float]], set[str], set[bool]]:
    """Of each row's missing stages the seconds by column; the rows with a stage whose speed is not
    known; and whose the speeds are (True: the shipped reference's)."""
    rows, unknown, shipped = dict[str, dict[str, float]](), set[str](), set[bool]()
    for task in work.tasks:
        if not task.needs_model:
            continue
        row = rows.setdefault(task.label, dict.fromkeys(COLUMNS, 0.0))
        column = next(name for name, kinds in COLUMNS.items() if task.kind in kinds)
        if (seconds := _seconds(task, estimate, asked)) is None:
            unknown.add(task.label)
            continue
        row[column] += seconds * work.times[task.key]
        shipped.add(estimate.measured(task) is None)
    return rows, unknown, shipped


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
