"""The command line: ``python -m harness COMMAND`` in the repository, or ``selfsight COMMAND`` where
it is installed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.artifacts.results_folder import explain_disk_errors
from harness.cli import doctor_command, file_commands, results_commands, study_commands
from harness.cli.parser import Parser
from harness.errors import UserError, plain, process_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("harness", "methods", "benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a broken results folder (``verify``), 2 a
    user's mistake (one sentence on stderr), 3 done but for a row that ended early, 130
    interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        check_resolution()
        if arguments[:1] == ["synthetic"]:  # has its own options
            from harness.synthetic.rebuild import main as train_synthetic  # needs torch

            train_synthetic(arguments[1:])
            return 0
        args = parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int | None] = args.command
        with explain_disk_errors(Path(getattr(args, "out", None) or ".")):
            return command(args) or 0
    except UserError as problem:
        print(f"{process_name()}: {plain(str(problem))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if name in PACKAGES:
            raise
        print(f"{process_name()}: {plain(missing_package(name))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the output was closed, as by ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            "\nharness: interrupted; everything finished is kept; run the same command"
            " again to continue.",
            file=sys.stderr,
        )
        return 130


def parser() -> Parser:
    """The parser; each command carries its function as ``command``."""
    top = Parser(
        prog="python -m harness",
        description="Start with these commands: doctor, then plan compare, then run compare.",
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    study_commands.add(commands)
    results_commands.add(commands)
    file_commands.add(commands)
    doctor_command.add(commands)
    commands.add_parser(
        "synthetic",
        help="train the synthetic models (its options: python -m harness synthetic --help)",
    )
    return top


def missing_package(name: str) -> str:
    """The sentence for a Python without the packages that the project needs."""
    return (
        f"{sys.executable} lacks the package {name}; install all that is needed with `python -m pip"
        f" install .` in {ROOT}, or use a Python that has it: .nox/compare/bin/python, after"
        " `python -m nox -s compare`."
    )


def check_resolution() -> None:
    """Check that the packages are those of this repository. Their names are generic, so other
    installed packages may have the same names.

    Raises:
        UserError: a package is imported from elsewhere.
    """
    import benchmarks
    import harness
    import methods

    for package in (harness, methods, benchmarks):
        where = Path(package.__file__ or ".").resolve()
        if ROOT not in where.parents:
            raise UserError(
                f"The package {package.__name__} is imported from {where}, not from {ROOT};"
                " uninstall or rename the other package."
            )


if __name__ == "__main__":
    sys.exit(main())
