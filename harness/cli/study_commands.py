"""The commands of a study: ``plan`` and ``run``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import results_commands
from harness.cli.check_command import check_command
from harness.cli.parser import LISTED, SWITCH, Parser, command
from harness.errors import plain
from harness.pipeline.progress import Display, busy

if TYPE_CHECKING:  # they need torch, which other commands go without
    from harness.pipeline.runner import Execute
    from harness.study.reference import StudyReference
    from harness.study.study import Study
    from harness.training.placement import Placement

NUMBER: dict[str, Any] = {"type": int, "metavar": "N"}
NAME: dict[str, Any] = {"metavar": "NAME"}
ASKED: dict[str, Any] = {**SWITCH, "default": None}

OPTIONS: dict[str, tuple[Mapping[str, Any], str]] = {
    "--only": (LISTED | {"metavar": "ROW"}, "compare only these rows with the untrained model"),
    "--seeds": (NUMBER, "number of training seeds per row (0 to N-1)"),
    "--rounds": (NUMBER, "number of rounds of self-improvement, each on new images"),
    "--images": (NUMBER, "number of pool images per round"),
    "--limit": (NUMBER, "for a trial: at most N test images, and at most N pool images per round"),
    "--base": (
        NAME,
        "the base model: the name of a card (see doctor), a folder with a model or a LoRA adapter,"
        " or a hub id",
    ),
    "--row": (
        LISTED | {"dest": "rows", "metavar": "LABEL=CHECKPOINT"},
        "add trained models, which are only evaluated: a folder with a model or a LoRA adapter, or"
        " a hub id; LABEL=answers:FOLDER: another program's answers, which are only graded",
    ),
    "--pool": (
        {"metavar": "POOL"},
        "the training images: synthetic, a folder of images, a .jsonl manifest, llava:...,"
        " coco:..., hub:... or mix:... (GPUS.md)",
    ),
    "--benchmarks": (
        LISTED | NAME,
        "use only these benchmarks, separated by spaces or commas (names: see doctor)",
    ),
    "--local-data": (
        LISTED | {"metavar": "NAME=FOLDER"},
        "the folders of the benchmarks' official files, such as coco=data/coco mme=data/mme"
        " (benchmarks/README.md)",
    ),
    "--vary": (
        LISTED | {"metavar": "ROW.SETTING=VALUES"},
        "for ablate: the values of a setting to compare, such as sena.noise_step=200,400,600;"
        " + joins the entries of one value",
    ),
    "--controls": (ASKED, "add reference rows, and each method with one part removed"),
    "--profile": (
        NAME,
        "equal (same images, batch and steps for all methods), published (each paper's own recipe,"
        " as its scripts execute it) or released (the authors' code throughout, with its defects);"
        " default: equal, but published for the study paper",
    ),
    "--released": (
        ASKED,
        "add a row per method that does all that the authors' released code does",
    ),
    "--lora": (
        ASKED,
        "train all rows with LoRA (real bases: r 128); default for a real base in the profile"
        " equal: full training where it fits the GPUs, else LoRA, and the run says which",
    ),
    "--full": (ASKED, "train all rows in full"),
}
"""All options of studies. The parameters of a study's function decide which of them it accepts."""

ENDED_EARLY = 3
"""The exit code where a row ended early and all else is done."""

OF_COMMAND: dict[str, tuple[Mapping[str, Any], str]] = {
    "--out": (
        {"type": Path, "metavar": "FOLDER"},
        "the results folder (default: a folder in results/, named after the study, base, pool and"
        " limit)",
    ),
    "--eight-bit": (
        SWITCH,
        "train with 8-bit AdamW (saves memory, gives other weights; needs a CUDA GPU)",
    ),
    "--trainer": (
        {"choices": ["own", "trl"], "default": "own"},
        "who trains: own (default), this harness's loop; or trl, the DPOTrainer of trl on the same"
        " pairs in the same order, which is slower and checks that loop",
    ),
    "--jobs": (
        NUMBER,
        "number of parallel processes on this machine, one thread each (default: as many as cores"
        " and memory allow for the synthetic base; 1 for other bases)",
    ),
    "--log-to": (
        LISTED | NAME,
        "where to log training: tensorboard (default), trackio, wandb or none",
    ),
    "--on": (
        {"choices": ["ray"]},
        "run the stages on a running Ray cluster with a shared file system",
    ),
    "--exclude-leaks": (SWITCH, results_commands.LEAKS),
    "--stop-on-mismatch": (
        SWITCH,
        "stop before any training if the untrained base does not have its published values"
        " (default: say so and go on)",
    ),
}
"""The options that are not the study's own."""


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    studies = "compare, ablate, paper, audit, smoke, tune, or a .py file with study(**options)"
    for function, help in (
        (plan, "show what a study still has to do and how long it takes; writes nothing"),
        (run, "run a study and print its table; if interrupted, run it again to continue"),
    ):
        parser = command(commands, function.__name__, function, help)
        parser.add_argument("study", help=studies)
        actions = [
            parser.add_argument(option, help=text, **settings)
            for option, (settings, text) in (OPTIONS | OF_COMMAND).items()
        ]
        parser.set_defaults(options=[action.dest for action in actions[: len(OPTIONS)]])
        if function is plan:
            help = "show every missing stage, not only rows"
            parser.add_argument("--stages", help=help, **SWITCH)


def plan(args: argparse.Namespace) -> None:
    with busy(f"{args.study}: loading PyTorch and the study"):
        from harness.pipeline import planning, preflight
        from harness.study import audit

        checked = check_command(args)
        # The audit is planned whole, also what is not there yet.
        lines = audit.lines(**checked.reference.options) if args.study == "audit" else []
        if checked.costed is not None:
            results = results_commands.RESULTS if args.out is None else args.out.parent
            lines += [*checked.notes, *planning.without_data(checked.costed, results)]
        if checked.context is None and not lines:
            raise checked.problem
        if checked.context is not None:
            lines += ["", *checked.notes] if lines else checked.notes
            lines += planning.plan(checked.context, jobs=args.jobs, stages=args.stages)
        if checked.findings:
            left_out = args.study == "audit" and checked.context is None
            needs = "leaves these out, but needs" if left_out else "will not start without"
            what = " the base and one benchmark" if left_out else ""
            lines += ["", f"Lacking ({len(checked.findings)}); run {needs}{what}:"]
            lines += preflight.listed(checked.findings)
    print(plain("\n".join(_wrapped(lines))))


def _fill(text: str, width: int) -> str:
    """The text in lines; paths and options are never broken, so that they can be copied."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Long sentences in lines of the terminal's width, at most 100; tables as they are."""
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    for line in lines:
        table = not line or line.startswith(" ")
        yield line if table else _fill(line, width)


def run(args: argparse.Namespace) -> int:
    """0, or 3 where a row ended early."""
    code, _ = _run(args)
    return code


def _run(args: argparse.Namespace) -> tuple[int, Path]:
    """The exit code and the results folder."""
    is_main = os.environ.get("RANK", "0") == "0"
    display = Display(sys.stdout if is_main else io.StringIO())
    with display.alive():
        display.update(f"{args.study}: loading PyTorch and the study", at_once=True)
        from harness.pipeline import runner
        from harness.training.ranks import leave

        checked = check_command(args)
        if checked.context is None or checked.findings:
            raise checked.problem
        context = checked.context
        context.download = True
        study, out = context.study, context.results.out
        for note in checked.notes:
            display.say(note)

        def draw() -> None:
            leave()  # the other ranks need not wait
            if is_main:
                results_commands.write_all(out, display, exclude_leaks=args.exclude_leaks)

        with executor(args, checked.reference, study, out, context.placement) as execute:
            ended = runner.run(
                context, display, execute, draw, stop_on_mismatch=args.stop_on_mismatch
            )
    if is_main:
        if ended:
            print("\nNot in the table, or not with all seeds and rounds:")
        for why in ended:
            print(plain(_fill(why, 100)))
    return ENDED_EARLY if ended else 0, out


def run_study(study: str, *, out: Path | None, jobs: int = 1, **options: Any) -> Path:
    """``run`` for Python: the study's folder after its table, figures and page are written.

    Raises:
        UserError: as the command's one sentence.
    """
    words, own_options = ["run", study], dict[str, Any]()
    for name, value in {"out": out, "jobs": jobs, **options}.items():
        option = "--row" if name == "rows" else f"--{name.replace('_', '-')}"
        if option not in OPTIONS | OF_COMMAND:  # of the user's own study function
            own_options[name] = value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [option, *map(str, value)]
        elif value is not None and value is not False:
            words.append(option if value is True else f"{option}={value}")
    parser = Parser(prog="selfsight")
    add(parser.add_subparsers())
    args = parser.parse_args(words)
    vars(args).update(own_options, options=[*args.options, *own_options])
    _, folder = _run(args)
    return folder


@contextmanager
def executor(
    args: argparse.Namespace,
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

    if args.on == "ray":
        with ray_cluster.cluster(reference, out, placement) as workers:
            yield partial(pooled.execute, workers=workers)
        return
    jobs = args.jobs or (processes.default_jobs(study) if ranks().size == 1 else 1)
    if jobs == 1:
        yield in_process.execute
        return
    with processes.LocalProcesses(reference, out, jobs, placement) as local:
        yield partial(pooled.execute, workers=local)
