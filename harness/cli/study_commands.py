"""The commands of a study: ``plan`` and ``run``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import results_commands
from harness.cli.file_commands import Listed
from harness.errors import UserError

if TYPE_CHECKING:  # they need torch, which other commands go without
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
        "help": "equal (same images, batch and steps for all methods) or published (each paper's"
        " own recipe); default: equal, but published for the study paper",
    },
}
"""All options of studies. The parameters of a study's function decide which of them it accepts."""

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
        if function is run:
            _add_of_run(command)


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


def plan(given: argparse.Namespace) -> None:
    from harness.pipeline import runner
    from harness.study import paper

    reference = reference_of(given)
    if given.study == "paper":
        text, ready = paper.forecast(results_commands.RESULTS, **reference.options)
        print(text)
        if not ready:
            return
    study = reference.load()
    out = folder_of(given, study)
    lines = forecast(study, out, costs=given.study != "paper")
    print("\n".join([*lines, runner.plan(study, out, placement_of(given))]))


def run(given: argparse.Namespace) -> None:
    from harness.pipeline.progress import Display  # imports no torch, so the first line comes first

    is_main = os.environ.get("RANK", "0") == "0"
    display = Display(sys.stdout if is_main else io.StringIO())
    with display.alive():
        display.moving(f"{given.study}: loading PyTorch and the study", at_once=True)
        from harness.pipeline import runner
        from harness.training.ranks import leave

        reference = reference_of(given)
        study = reference.load()
        out, placement = folder_of(given, study), placement_of(given)
        for note in study.notes:
            display.say(note)
        with executor(given, reference, study, out, placement) as execute:
            runner.run(study, out, display, placement, execute)
        leave()
        if is_main:
            results_commands.write_all(out, display, exclude_leaks=given.exclude_leaks)


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
    """The training choices on the command line. All others are made by what fits in memory.

    Raises:
        UserError: the optimizer or a tracker is not installed.
    """
    from harness.training.loggers import DEFAULT, check_trackers
    from harness.training.placement import Placement, check_optimizer

    placement = Placement(
        optimizer="adamw8bit" if given.eight_bit else "adamw",
        log_to=tuple(getattr(given, "log_to", None) or (DEFAULT,)),
    )
    check_optimizer(placement.optimizer)
    check_trackers(placement.log_to)
    return placement


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
        UserError: ``--jobs`` is invalid here, or Ray or its cluster is missing.
    """
    from harness.pipeline.executors import in_process, pooled, processes, ray_cluster
    from harness.training.ranks import ranks

    size = ranks().size
    if given.jobs is not None:
        processes.check_jobs(given.jobs)
        if given.jobs > 1 and (given.on or size > 1):
            raise UserError("--jobs is for one machine; leave it out under torchrun and --on ray.")
    if given.on == "ray":
        with ray_cluster.cluster(reference, out, placement) as workers:
            yield partial(pooled.execute, workers=workers)
        return
    jobs = given.jobs or (processes.default_jobs(study) if size == 1 else 1)
    if jobs == 1:
        yield in_process.execute
        return
    with processes.LocalProcesses(reference, out, jobs, placement) as local:
        yield partial(pooled.execute, workers=local)


def forecast(study: Study, out: Path, *, costs: bool) -> list[str]:
    """What ``plan`` prints before the stages: the study's notes and, on a real base, the free disk
    and (``costs``) what the study costs."""
    from harness.models.base_cards import find_base
    from harness.study import cost_model

    lines = list(study.notes)
    if all(find_base(run.base).prompts == "synthetic" for run in study.runs):
        return lines
    if costs:
        share = cost_model.share_of(study.limit)
        lines += ["What it costs:", *cost_model.lines(study.runs, out.parent, share=share)]
    disk = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free / 2**30
    return [*lines, f"{free:,.0f} GiB are free on the disk of {out}."]
