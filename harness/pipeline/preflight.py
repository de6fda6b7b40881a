"""Checks what a study lacks on this machine, before its first stage. Each check returns
findings, so that everything is listed at once. No weights are loaded, and nothing is written.

What is finished already needs nothing: a run is looked at only while answers of it are missing."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import judgements
from benchmarks.catalogue import find
from benchmarks.judge import Judge, open_judge
from benchmarks.judge_settings import JUDGE_VARIABLE
from harness.engine.clip_scorer import find_scorer, stored_scorer
from harness.errors import UserError, user_errors
from harness.models import hub_snapshots
from harness.models.base_cards import find_base
from harness.models.checkpoints import check_files
from harness.models.load_base import check_machine, default_device
from harness.pipeline import foreign_answers
from harness.pipeline.context import Context
from harness.study import cost_model
from harness.study.study import Run
from harness.training.memory import GIB
from harness.training.placement import Placement
from harness.training.ranks import ranks

CHECKPOINTS_GIB = 2.0
"""Disk that a study needs beside the weights that it writes: images, answers, tables."""


@dataclass(frozen=True)
class Finding:
    """One thing that is lacking."""

    about: str
    """What it concerns, in a word or two: ``base``, ``row theirs``, ``disk``."""
    says: str
    """A sentence: what is lacking, and how to mend it."""


def problem(findings: Sequence[Finding]) -> UserError:
    """The findings as one error: a sentence for one, a numbered list for several."""
    if len(findings) == 1:
        return UserError(findings[0].says)
    head = f"{len(findings)} things are lacking, and nothing was computed:"
    return UserError("\n".join([head, *listed(findings)]))


def listed(findings: Sequence[Finding]) -> list[str]:
    """The findings as a list, in lines of the terminal's width."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    lines = []
    for number, finding in enumerate(findings, start=1):
        head = f"  {number}. {finding.about}: "
        lines += textwrap.wrap(
            head + finding.says,
            width,
            subsequent_indent="     ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def attempt(about: str, check: Callable[[], object]) -> list[Finding]:
    """The user's mistake that ``check`` raises, as a finding."""
    try:
        check()
    except UserError as error:
        return [Finding(about, str(error))]
    return []


def of_study(context: Context) -> list[Finding]:
    """What the unfinished runs and benchmarks of a study lack on this machine."""
    study, results = context.study, context.results
    unfinished = [run for run in study.runs if not _is_answered(context, run)]
    runs = [run for run in unfinished if run.answers is None]
    ungraded = [
        benchmark.name
        for benchmark in study.benchmarks
        if not all(
            _is_done(results.grades(run.label, run.seed, run.last, benchmark.name))
            for run in study.runs
        )
    ]
    return [
        *of_pools(context, runs),
        *of_runs(runs, results.out, context.placement, partial(_untrained_rounds, context)),
        *of_judge(ungraded),
        *of_answers(context, [run for run in unfinished if run.answers is not None])[0],
    ]


def of_answers(context: Context, runs: Sequence[Run]) -> tuple[list[Finding], list[str]]:
    """Answers of other programs that are not there or do not belong to the questions; and sentences
    about those that are missing or left out."""
    findings, notes = list[Finding](), list[str]()
    for run in runs:
        for benchmark in context.study.benchmarks:
            try:
                limited = context.study.limit is not None
                notes.append(foreign_answers.oddities_of_given(run, benchmark, limited=limited))
            except UserError as error:
                findings.append(Finding(f"row {run.label}", str(error)))
    return findings, [note for note in notes if note]


def _untrained_rounds(context: Context, run: Run) -> int:
    """The rounds whose training is still to be done."""
    rounds = range(1, run.last + 1)
    return sum(
        not _is_done(context.results.train(run.label, run.seed, number)) for number in rounds
    )


def _is_answered(context: Context, run: Run) -> bool:
    """Whether the model's part of a run is done: every benchmark is answered after the last
    round."""
    return all(
        _is_done(context.results.answers(run.label, run.seed, run.last, benchmark.name))
        for benchmark in context.study.benchmarks
    )


def _is_done(stage: Path) -> bool:
    return (stage / "DONE").exists()


def of_pools(context: Context, runs: Sequence[Run]) -> list[Finding]:
    """Pools that cannot be opened, lack a field, or are too small for the rounds."""
    first: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.last:
            first.setdefault((run.pool, run.images, run.last, run.label), run)
    findings = [
        finding
        for run in first.values()
        for finding in attempt(f"pool {run.pool}", partial(_check_pool, context, run))
    ]
    return list(dict.fromkeys(findings))


def _check_pool(context: Context, run: Run) -> None:
    pool = context.pool(run.pool)
    pool.check(run.method.needs, run.method.name)
    pool.check_size(run.images, run.seed, 1 if run.same_images else run.last)


def of_runs(
    runs: Sequence[Run],
    out: Path,
    placement: Placement,
    rounds: Callable[[Run], int] = lambda run: run.last,
) -> list[Finding]:
    """What the models of these runs lack: their files, memory, and disk. ``rounds``: how many of a
    run are to be trained."""
    return [
        *of_models(runs),
        *of_scorers(runs),
        *of_training(runs, placement),
        *of_disk([(run, rounds(run)) for run in runs], out),
    ]


def of_models(runs: Sequence[Run]) -> list[Finding]:
    """Bases that are too large for this machine, or whose weights are neither here nor to be
    downloaded."""
    device, findings = default_device(), list[Finding]()
    for name, labels in _labels_by(runs, lambda run: run.base).items():
        card, about = find_base(name), _name_rows(labels)
        folder = hub_snapshots.cached_folder(card.source, card.revision)
        broken = [] if folder is None else attempt(about, partial(check_files, folder))
        stored = None if broken or folder is None else check_files(folder)
        if stored is None and isinstance(card.source, str):  # a download that was cut goes on
            findings += _download(about, "Base", card)
        findings += [] if isinstance(card.source, str) else broken
        check = partial(check_machine, card.name, device, stored, card.parameters, card.dtype)
        findings += attempt(about, check)
    return findings


def of_scorers(runs: Sequence[Run]) -> list[Finding]:
    """Image-text models that are neither here nor to be downloaded."""
    findings = list[Finding]()
    scored_runs = [run for run in runs if "scorer" in run.method.needs]
    for (name, base), labels in _labels_by(
        scored_runs, lambda run: (run.method.scorer, run.base)
    ).items():
        lookup_findings = attempt(_name_rows(labels), partial(find_scorer, name, find_base(base)))
        findings += lookup_findings
        if lookup_findings:
            continue
        card = find_scorer(name, find_base(base))
        if stored_scorer(card) is not None:
            continue
        if isinstance(card.source, str):
            findings += _download(_name_rows(labels), "Scorer", card)
        else:
            says = (
                f"Scorer {card.name!r} is not at {card.source}; build it with: python -m nox -s"
                " synthetic"
            )
            findings.append(Finding(_name_rows(labels), says))
    return findings


def _download(about: str, kind: str, card: Any) -> list[Finding]:
    """A hub model that is not here: nothing is lacking while the hub can be reached."""
    if hub_snapshots.reachable():
        return []
    revision = f" --revision {card.revision}" if card.revision else ""
    says = (
        f"{kind} {card.name!r} is not in the local cache, and the hub cannot be reached; go online,"
        f" or bring it from another machine: hf download {card.source}{revision}"
    )
    return [Finding(about, says)]


def of_training(
    runs: Sequence[Run], placement: Placement, memory: int | None = None
) -> list[Finding]:
    """Trainings that do not fit on the GPU, one pair at a time and sharded over the processes.
    ``memory``: the GPU's, in bytes."""
    if memory is None:
        if not torch.cuda.is_available():
            return []
        memory = torch.cuda.get_device_properties(0).total_memory
    findings, processes = list[Finding](), ranks().size
    eight_bit = placement.optimizer == "adamw8bit"
    for (base, recipe), labels in _labels_by(
        runs, lambda run: (run.base, run.method.recipe)
    ).items():
        card = find_base(base)
        if recipe is None or card.prompts == "synthetic":
            continue
        needed = cost_model.training_memory(
            card, recipe, rows=1, processes=processes, eight_bit=eight_bit
        )
        if needed > memory / GIB:
            cures = "more GPUs (torchrun --nproc_per_node N)"
            cures = cures if recipe.lora else f"LoRA (--lora), {cures}, --eight-bit"
            says = (
                f"Training needs about {needed:.0f} GiB on each GPU, one pair at a time, and the"
                f" GPU has {memory / GIB:.0f}; take {cures} or a smaller base."
            )
            findings.append(Finding(_name_rows(labels), says))
    return findings


def of_disk(rounds: Sequence[tuple[Run, int]], out: Path) -> list[Finding]:
    """A disk that is too small for the weights that the runs still write; ``rounds``: how many
    rounds of each are to be trained. A base of unknown size does not count: a guess stops no
    run."""
    written = sum(
        count * cost_model.round_disk(run)
        for run, count in rounds
        if find_base(run.base).parameters is not None
    )
    needed, free = CHECKPOINTS_GIB + written, free_disk(out)
    if not written or needed <= free:
        return []
    says = (
        f"The study writes about {needed:,.0f} GiB, and {free:,.0f} GiB are free on the disk of"
        f" {out}; free some, or give --out on another disk."
    )
    return [Finding("disk", says)]


def free_disk(out: Path) -> float:
    """GiB that are free where ``out`` is, or will be."""
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free / GIB


def of_judge(names: Sequence[str]) -> list[Finding]:
    """A judge that benchmarks need and that cannot be asked."""
    judged = [name for name in names if _needs_judge(name)]
    if not judged:
        return []
    about = f"judge of {' and '.join(judged)}"
    try:
        judge = open_judge()
    except ValueError as error:
        return [Finding(about, str(error))]
    if judge is None:
        says = (
            f"No judge is set; write its settings and set {JUDGE_VARIABLE} to the file"
            " (benchmarks/README.md), or leave the benchmark out."
        )
        return [Finding(about, says)]
    variable = judge.settings.key_variable
    if variable and not os.environ.get(variable, "").strip() and not _has_judgements(judge):
        says = f"The judge needs a key in the environment variable {variable}; set it."
        return [Finding(about, says)]
    return []


def _has_judgements(judge: Judge) -> bool:
    """Whether there are judgements, which need no key to be used again."""
    with user_errors():
        return bool(judgements.read(judge.recording))


def _needs_judge(name: str) -> bool:
    try:
        return bool(find(name).judge)
    except KeyError:  # a benchmark of the user's own study
        return False


def _labels_by(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[str]]:
    """The rows' labels by a key of their runs, in order."""
    labels: dict[Any, dict[str, None]] = {}
    for run in runs:
        labels.setdefault(key(run), {})[run.label] = None
    return {value: list(names) for value, names in labels.items()}


def _name_rows(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return f"row {labels[0]}"
    return f"rows {', '.join(labels[:4])}" + (", ..." if len(labels) > 4 else "")
