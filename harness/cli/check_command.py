"""A study command before it does anything: its study, results folder and placement, and what they
lack here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import results_commands
from harness.errors import UserError

if TYPE_CHECKING:  # they need torch, which other commands go without
    from harness.pipeline.context import Context
    from harness.pipeline.preflight import Finding
    from harness.pipeline.preflight_options import WithoutData
    from harness.study.reference import StudyReference
    from harness.study.study import Study
    from harness.training.placement import Placement


@dataclass(frozen=True, kw_only=True)
class CheckedCommand:
    """What a study command was found to ask for and to lack, before it does anything."""

    reference: StudyReference
    context: Context | None
    """None: the study cannot be built as asked."""
    findings: list[Finding]
    """What is lacking."""
    chosen: str = ""
    """Which training was chosen, and why; empty: the options say it."""
    costed: WithoutData | None = None
    """What can be costed although the study cannot be built, for want of data alone."""
    answers: Sequence[str] = ()
    """Sentences about other programs' answers that are missing or unused."""

    @property
    def notes(self) -> list[str]:
        """What the user is told first."""
        study = () if self.context is None else self.context.study.notes
        return [*filter(None, [self.chosen]), *study, *self.answers]

    @property
    def problem(self) -> UserError:
        from harness.pipeline import preflight

        return preflight.problem(self.findings)


def check_command(args: argparse.Namespace) -> CheckedCommand:
    """What the study of a command lacks here: its options, files, models, memory and disk."""
    from transformers.utils import logging as transformers_logging

    from harness.artifacts.results_folder import Results
    from harness.pipeline import choose_training, preflight, preflight_options
    from harness.pipeline.context import Context

    transformers_logging.disable_progress_bar()  # of small files; the findings are the output
    placement = placement_of(args)
    reference, chosen = choose_training.by_memory(reference_of(args), placement)
    study, wrong = preflight_options.open_study(reference)
    if study is not None and chosen and not wrong:
        root = results_commands.RESULTS
        reference, kept = choose_training.as_begun(reference, study, args.out, root)
        if kept:
            chosen, study = kept, reference.load()
    findings = [*wrong, *_of_command(args, placement)]
    if study is None:
        costed = None
        if args.study in preflight_options.DATA_STUDIES:
            out = args.out or results_commands.RESULTS
            options = reference.options
            lacking, costed = preflight_options.of_data(args.study, options, out, placement)
            findings = lacking or findings
        return CheckedCommand(
            reference=reference, context=None, findings=findings, chosen=chosen, costed=costed
        )
    costed = preflight_options.without_data(study, reference.options, wrong) if wrong else None
    context = Context(study, Results(folder_of(args, study)), placement, download=False)
    findings += preflight.of_study(context)
    # With a wrong option the study is of the other options alone: enough to look, not to plan.
    return CheckedCommand(
        reference=reference,
        context=None if wrong else context,
        findings=findings,
        chosen=chosen,
        costed=costed,
        answers=preflight.of_answers(context, [run for run in study.runs if run.answers])[1],
    )


def _of_command(args: argparse.Namespace, placement: Placement) -> list[Finding]:
    """What the options of the command itself lack."""
    from harness.pipeline.executors import processes, ray_cluster
    from harness.pipeline.preflight import attempt
    from harness.training.loggers import check_trackers
    from harness.training.placement import check_optimizer, check_trainer
    from harness.training.ranks import ranks

    checks: list[tuple[str, Callable[[], object]]] = [
        ("--eight-bit", partial(check_optimizer, placement.optimizer)),
        ("--trainer", partial(check_trainer, placement, ranks().size, args.on)),
        ("--log-to", partial(check_trackers, placement.log_to)),
        ("--jobs", partial(processes.check_jobs, args.jobs, args.on, ranks().size)),
    ]
    if args.on == "ray":
        checks.append(("--on", ray_cluster.check_installed))
    return [finding for about, check in checks for finding in attempt(about, check)]


def reference_of(args: argparse.Namespace) -> StudyReference:
    """A reference to the study, with the options given on the command line."""
    from harness.study.reference import StudyReference

    values = {name: getattr(args, name) for name in args.options}
    options = {name: value for name, value in values.items() if value is not None}
    return StudyReference(args.study, options)


def folder_of(args: argparse.Namespace, study: Study) -> Path:
    out: Path | None = args.out
    return out or results_commands.RESULTS / study.name


def placement_of(args: argparse.Namespace) -> Placement:
    """The training choices on the command line. All others are made by what fits in memory."""
    from harness.training.loggers import DEFAULT
    from harness.training.placement import Placement

    return Placement(
        optimizer="adamw8bit" if args.eight_bit else "adamw",
        trainer=args.trainer,
        log_to=tuple(args.log_to or (DEFAULT,)),
    )
