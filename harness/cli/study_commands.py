"""The commands of a study: ``plan`` and ``run``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import results_commands
from harness.cli.file_commands import Listed
from harness.cli.looked import look
from harness.errors import plain
from harness.pipeline.progress import Display, busy

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
        " adapter, or a hub id; LABEL=answers:FOLDER: another program's answers, which are only"
        " graded",
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
    "--lora": {
        "action": "store_true",
        "default": None,
        "help": "train all rows with LoRA (real bases: r 128); default for a real base in the"
        " profile equal: full training where it fits the GPUs, else LoRA, and the run says which",
    },
    "--full": {
        "action": "store_true",
        "default": None,
        "help": "train all rows in full",
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
            "study",
            help="compare, ablate, paper, audit, smoke, tune, or a .py file with study(**options)",
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
        command.add_argument(
            "--trainer",
            choices=["own", "trl"],
            default="own",
            help="who trains: own (default), this harness's loop; or trl, the DPOTrainer of trl on"
            " the same pairs in the same order, which is slower and checks that loop",
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
    command.add_argument(
        "--stop-on-mismatch",
        action="store_true",
        help="stop before any training if the untrained base does not have its published values"
        " (default: say so and go on)",
    )


def plan(given: argparse.Namespace) -> None:
    with busy(f"{given.study}: loading PyTorch and the study"):
        from harness.pipeline import planning, preflight
        from harness.study import audit

        looked = look(given)
        # The audit is planned whole, also what is not there yet.
        lines = audit.lines(**looked.reference.options) if given.study == "audit" else []
        if looked.context is None and not lines:
            raise looked.problem
        if looked.context is not None:
            lines += ["", *looked.notes] if lines else looked.notes
            lines += planning.plan(looked.context, jobs=given.jobs, stages=given.stages)
        if looked.findings:
            left_out = given.study == "audit" and looked.context is None
            needs = "leaves these out, but needs" if left_out else "will not start without"
            what = " the base and one benchmark" if left_out else ""
            lines += ["", f"Lacking ({len(looked.findings)}); run {needs}{what}:"]
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
    code, _ = _run(given)
    return code


def _run(given: argparse.Namespace) -> tuple[int, Path]:
    """The exit code and the results folder."""
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
        for note in looked.notes:
            display.say(note)

        def draw() -> None:
            leave()  # the other ranks need not wait
            if is_main:
                results_commands.write_all(out, display, exclude_leaks=given.exclude_leaks)

        with executor(given, looked.reference, study, out, context.placement) as execute:
            ended = runner.run(
                context, display, execute, draw, stop_on_mismatch=given.stop_on_mismatch
            )
    if is_main:
        for number, why in enumerate(ended):
            if not number:
                print("\nNot in the table, or not with all seeds and rounds:")
            print(plain(textwrap.fill(why, 100)))
    return ENDED_EARLY if ended else 0, out


def run_study(study: str, *, out: Path | None, jobs: int = 1, **options: Any) -> Path:
    """``run`` for Python: the study's folder after its table, figures and page are written.

    Raises:
        UserError: as the command's one sentence.
    """
    given = argparse.Namespace(
        study=study, out=out, jobs=jobs, on=None, log_to=None, eight_bit=False, exclude_leaks=False
    )
    given.stop_on_mismatch, given.trainer = False, "own"
    given.options = list(options)
    for name, value in options.items():
        setattr(given, name, value)
    _, folder = _run(given)
    return folder


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
