"""The commands of a study: ``plan`` and ``run``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import results_commands
from harness.cli.file_commands import Listed
from harness.errors import UserError, plain

if TYPE_CHECKING:  # they need torch, which other commands go without
    from harness.pipeline.context import Context
    from harness.pipeline.preflight import Finding
    from harness.pipeline.runner import Execute
    from harness.study.reference import StudyReference
    from harness.study.study import Study
    from harness.training.placement import Placement

OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {
        "action": Listed,
        "nargs": "+",
        "metavar": "ROW",
        "help": "compare only these rows with the untrained model",
    },
    "--seeds": {"type": int, "metavar": "N", "help": "number of training seeds per row (0 to N-1)"},
    "--rounds": {
        "type": int,
        "metavar": "N",
        "help": "number of rounds of self-improvement, each on new images",
    },
    "--images": {"type": int, "metavar": "N", "help": "number of pool images per round"},
    "--limit": {
        "type": int,
        "metavar": "N",
        "help": "for a trial: at most N test images, and at most N pool images per round",
    },
    "--base": {
        "metavar": "NAME",
        "help": "the base model: the name of a card (see doctor), a folder with a model or a LoRA"
        " adapter, or a hub id",
    },
    "--row": {
        "action": Listed,
        "nargs": "+",
        "dest": "rows",
        "metavar": "LABEL=CHECKPOINT",
        "help": "add trained models, which are only evaluated: a folder with a model or a LoRA"
        " adapter, or a hub id",
    },
    "--pool": {
        "metavar": "POOL",
        "help": "the training images: synthetic, a folder of images, a .jsonl manifest, llava:...,"
        " coco:..., hub:... or mix:... (GPUS.md)",
    },
    "--benchmarks": {
        "action": Listed,
        "nargs": "+",
        "metavar": "NAME",
        "help": "use only these benchmarks, separated by spaces or commas (names: see doctor)",
    },
    "--local-data": {
        "action": Listed,
        "nargs": "+",
        "metavar": "NAME=FOLDER",
        "help": "the folders of the benchmarks' official files, such as coco=data/coco mme=data/mme"
        " (benchmarks/README.md)",
    },
    "--vary": {
        "action": Listed,
        "nargs": "+",
        "metavar": "ROW.SETTING=VALUES",
        "help": "for ablate: the values of a setting to compare, such as"
        " sena.noise_step=200,400,600; + joins the entries of one value",
    },
    "--controls": {
        "action": "store_true",
        "default": None,
        "help": "add reference rows, and each method with one part removed",
    },
    "--profile": {
        "metavar": "NAME",
        "help": "equal (same images, batch and steps for all methods), published (each paper's own"
        " recipe, as its scripts execute it) or released (the authors' code throughout, with its"
        " defects); default: equal, but published for the study paper",
    },
    "--released": {
        "action": "store_true",
        "default": None,
        "help": "add a row per method that does all that the authors' released code does",
    },
}
"""All options of studies. The parameters of a study's function decide which of them it accepts."""

ENDED_EARLY = 3
"""The exit code where a row ended early and all else is done."""

HELP = {
    "plan": "show what a study still has to do and how long it takes; writes nothing",
    "run": "run a study and print its table; if interrupted, run it again to continue",
}


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    for function in (plan, run):
        name, help = function.__name__, HELP[function.__name__]
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument(
            "study", help="compare, ablate, paper, smoke, tune, or a .py file with study(**options)"
        )
        options = [command.add_argument(option, **more).dest for option, more in OPTIONS.items()]
        command.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help="the results folder (default: a folder in results/, named after the study, base,"
            " pool and limit)",
        )
        command.add_argument(
            "--eight-bit",
            action="store_true",
            help="train with 8-bit AdamW (saves memory, gives other weights; needs a CUDA GPU)",
        )
        command.set_defaults(command=function, options=options)
        _add_of_run(command)
        if function is plan:
            command.add_argument(
                "--stages", action="store_true", help="show every missing stage, not only rows"
            )


def _add_of_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of parallel processes on this machine, one thread each (default: as many as"
        " cores and memory allow for the synthetic base; 1 for other bases)",
    )
    command.add_argument(
        "--log-to",
        action=Listed,
        nargs="+",
        metavar="NAME",
        help="where to log training: tensorboard (default), trackio, wandb or none",
    )
    command.add_argument(
        "--on",
        choices=["ray"],
        help="run the stages on a running Ray cluster with a shared file system",
    )
    command.add_argument("--exclude-leaks", action="store_true", help=results_commands.LEAKS)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A command that was looked at before it does anything."""

    reference: StudyReference
    context: Context | None
    """None: the study cannot be built as asked."""
    findings: list[Finding]
    """What is lacking."""

    @property
    def problem(self) -> UserError:
        from harness.pipeline import preflight

        return preflight.problem(self.findings)


def look(given: argparse.Namespace) -> Looked:
    """What the study of a command lacks here: its options, files, models, memory and disk."""
    from transformers.utils import logging as transformers_logging

    from harness.artifacts.results_folder import Results
    from harness.pipeline import preflight, preflight_options
    from harness.pipeline.context import Context
    from harness.study import paper

    transformers_logging.disable_progress_bar()  # of small files; the findings are the output
    reference, placement = reference_of(given), placement_of(given)
    study, wrong = preflight_options.open_study(reference)
    findings = [*wrong, *_of_command(given, placement)]
    if study is None:
        if given.study == "paper":
            runs, missing = paper.needs(**reference.options)
            files = [preflight.Finding("file", f"{line}.") for line in missing]
            out = given.out or results_commands.RESULTS
            findings = [*files, *preflight.of_runs(runs, out, placement)] or findings
        return Looked(reference=reference, context=None, findings=findings)
    context = Context(study, Results(folder_of(given, study)), placement, download=False)
    findings += preflight.of_study(context)
    # With a wrong option the study is of the other options alone: enough to look, not to plan.
    return Looked(reference=reference, context=None if wrong else context, findings=findings)


def _of_command(given: argparse.Namespace, placement: Placement) -> list[Finding]:
    """What the options of the command itself lack."""
    from harness.pipeline.executors import processes, ray_cluster
    from harness.pipeline.preflight import attempt
    from harness.training.loggers import check_trackers
    from harness.training.placement import check_optimizer
    from harness.training.ranks import ranks

    checks: list[tuple[str, Callable[[], object]]] = [
        ("--eight-bit", partial(check_optimizer, placement.optimizer)),
        ("--log-to", partial(check_trackers, placement.log_to)),
        ("--jobs", partial(processes.check_jobs, given.jobs, given.on, ranks().size)),
    ]
    if given.on == "ray":
        checks.append(("--on", ray_cluster.check_installed))
    return [finding for about, check in checks for finding in attempt(about, check)]


def plan(given: argparse.Namespace) -> None:
    from harness.pipeline import planning, preflight

    looked = look(given)
    if looked.context is None:
        raise looked.problem
    lines = [*looked.context.study.notes]
    lines += planning.plan(looked.context, jobs=given.jobs, stages=given.stages)
    if looked.findings:
        lines += ["", f"Lacking ({len(looked.findings)}); run will not start without:"]
        lines += preflight.listed(looked.findings)
    print(plain("\n".join(_wrapped(lines))))


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Long sentences in lines of the terminal's width, at most 100; tables as they are."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    for line in lines:
        table = not line or line.startswith(" ")
        yield line if table else textwrap.fill(line, width, break_on_hyphens=False)


def run(given: argparse.Namespace) -> int:
    """0, or 3 where a row ended early."""
    from harness.pipeline.progress import Display  # imports no torch, so the first line comes first

    is_main = os.environ.get("RANK", "0") == "0"
    display = Display(sys.stdout if is_main else io.StringIO())
    with display.alive():
        display.moving(f"{given.study}: loading PyTorch and the study", at_once=True)
        from harness.pipeline import runner
        from harness.training.ranks import leave

        looked = look(given)
        if looked.context is None or looked.findings:
            raise looked.problem
        context = looked.context
        context.download = True
        study, out = context.study, context.results.out
        for note in study.notes:
            display.say(note)

        def draw() -> None:
            leave()  # the other ranks need not wait
            if is_main:
                results_commands.write_all(out, display, exclude_leaks=given.exclude_leaks)

        with executor(given, looked.reference, study, out, context.placement) as execute:
            ended = runner.run(context, display, execute, draw)
    if is_main:
        for number, why in enumerate(ended):
            if not number:
                print("\nNot in the table, or not with all seeds and rounds:")
            print(plain(textwrap.fill(why, 100)))
    return ENDED_EARLY if ended else 0


def run_study(study: str, *, out: Path | None, jobs: int = 1, **options: Any) -> Path:
    """``run`` for Python: the study's folder after its table, figures and page are written.

    Raises:
        UserError: as the command's one sentence.
    """
    given = argparse.Namespace(
        study=study, out=out, jobs=jobs, on=None, log_to=None, eight_bit=False, exclude_leaks=False
    )
    given.options = list(options)
    for name, value in options.items():
        setattr(given, name, value)
    run(given)
    return folder_of(given, reference_of(given).load())


def reference_of(given: argparse.Namespace) -> StudyReference:
    """A reference to the study, with the options given on the command line."""
    from harness.study.reference import StudyReference

    values = {name: getattr(given, name) for name in given.options}
    return StudyReference(
        given.study, {name: value for name, value in values.items() if value is not None}
    )


def folder_of(given: argparse.Namespace, study: Study) -> Path:
    out: Path | None = given.out
    return out or results_commands.RESULTS / study.name


def placement_of(given: argparse.Namespace) -> Placement:
    """The training choices on the command line. All others are made by what fits in memory."""
    from harness.training.loggers import DEFAULT
    from harness.training.placement import Placement

    return Placement(
        optimizer="adamw8bit" if given.eight_bit else "adamw",
        log_to=tuple(given.log_to or (DEFAULT,)),
    )


@contextmanager
def executor(
    given: argparse.Namespace,
    reference: StudyReference,
    study: Study,
    out: Path,
    placement: Placement,
) -> Iterator[Execute]:
    """The function that runs the tasks: in this process (alone or as a rank of torchrun), in
    several local processes, or on a Ray cluster.

    Raises:
        UserError: Ray's cluster is missing.
    """
    from harness.pipeline.executors import in_process, pooled, processes, ray_cluster
    from harness.training.ranks import ranks

    if given.on == "ray":
        with ray_cluster.cluster(reference, out, placement) as workers:
            yield partial(pooled.execute, workers=workers)
        return
    jobs = given.jobs or (processes.default_jobs(study) if ranks().size == 1 else 1)
    if jobs == 1:
        yield in_process.execute
        return
    with processes.LocalProcesses(reference, out, jobs, placement) as local:
        yield partial(pooled.execute, workers=local)
