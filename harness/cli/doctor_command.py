"""The command ``doctor``: what is ready on this machine, or what one command lacks."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli import doctor_report, study_commands
from harness.cli.check_command import check_command
from harness.cli.file_commands import DATA
from harness.cli.parser import LISTED, SWITCH, Parser, command
from harness.errors import plain, unknown, user_errors
from harness.pipeline.progress import busy

HELP = "list what is ready on this machine, what is missing and how to get it; changes nothing"
CHECKED = ("run", "plan")


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = command(commands, "doctor", doctor, HELP)
    parser.add_argument(
        "asked",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help="check this command only, such as: doctor run compare --base llava-1.5-7b",
    )
    parser.add_argument("--local-data", **DATA)
    help = "also check this folder, LoRA adapter or hub id"
    parser.add_argument("--base", default=[], metavar="NAME", help=help, **LISTED)
    help = "also check that the pinned revisions exist on the Hugging Face hub"
    parser.add_argument("--online", help=help, **SWITCH)
    parser.add_argument("--json", help="print JSON", **SWITCH)


def doctor(args: argparse.Namespace) -> None:
    if args.asked:
        one_command(args.asked)
        return
    with busy("looking at this machine"):
        from benchmarks.catalogue import BENCHMARKS, named_folders
        from harness.cli import doctor  # needs torch, where it is there

        with user_errors():
            folders = named_folders(args.local_data)
        checks = doctor.examine(
            BENCHMARKS, doctor.known_methods(), folders, bases=args.base, online=args.online
        )
    print(doctor_report.as_json(checks) if args.json else doctor_report.as_text(checks))


def one_command(words: list[str]) -> None:
    """The check with which ``run`` begins.

    Raises:
        UserError: something is lacking, or the command has no such check.
    """
    if words[0] not in CHECKED:
        raise unknown("command that doctor checks", words[0], CHECKED)
    top = Parser(prog="python -m harness")
    study_commands.add(top.add_subparsers(required=True, metavar="COMMAND"))
    command_args = top.parse_args(words)
    with busy(f"{' '.join(words)}: loading PyTorch and the study"):
        ready = check_command(command_args)
    if ready.findings:
        raise ready.problem
    print(f"Nothing is lacking for: {' '.join(words)}")
    for note in ready.notes:
        print(plain(note))
