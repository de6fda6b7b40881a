"""The commands beside studies: ``export``, ``answer`` and ``grade`` (the three file steps of one
benchmark) and ``doctor``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import user_errors

LOCAL_DATA = (
    "the folder of a benchmark's official files, such as coco=data/coco; may be repeated"
    " (benchmarks/README.md)"
)


class Listed(argparse.Action):
    """A list: words behind the option, commas between them, the option given again, or all
    three."""

    def __call__(
        self, _parser: Any, given: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        from harness.errors import UserError

        found = [name for text in values for name in names(text)]
        if not found:
            raise UserError(
                f"{option_string} is given no name; write names behind it, apart by spaces or"
                " commas."
            )
        setattr(given, self.dest, [*(getattr(given, self.dest) or ()), *found])


def names(text: str) -> Sequence[str]:
    """The parts between commas; of ``NAME=FOLDER`` texts only those commas that another ``NAME=``
    follows."""
    parts = re.split(r",(?=[^,=/]+=)" if "=" in text else ",", text)
    return [part.strip() for part in parts if part.strip()]


def add(commands: Any) -> None:
    """Add the commands to the parser's; each carries its function as ``command``."""
    one = command(
        commands,
        "export",
        export,
        "write a benchmark's questions and images to a folder; needs no model",
    )
    one.add_argument("benchmark", metavar="BENCHMARK", help="its name, such as synthetic_pope")
    one.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where questions.jsonl and images/ are written",
    )
    one.add_argument("--limit", type=int, metavar="N", help="at most N images")
    one.add_argument("--split", choices=("dev", "test"), default="test", help="default: test")
    one.add_argument(
        "--local-data", action=Listed, nargs="+", default=[], metavar="NAME=FOLDER", help=LOCAL_DATA
    )

    one = command(
        commands,
        "answer",
        answer,
        "let a model answer exported questions; needs neither the benchmark's data nor its code",
    )
    one.add_argument("questions", type=Path, metavar="FOLDER", help="an export's folder")
    one.add_argument(
        "--base",
        required=True,
        metavar="NAME",
        help="a card (see doctor), a folder, a LoRA adapter's folder or a hub id",
    )
    one.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="trained weights of that base, such as a round's train/model",
    )
    one.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where answers.jsonl is written"
    )

    one = command(
        commands,
        "grade",
        grade,
        "grade answers, ours or another model's; needs neither a model nor torch",
    )
    one.add_argument("questions", type=Path, metavar="FOLDER", help="the export's folder")
    one.add_argument(
        "answers",
        type=Path,
        metavar="ANSWERS",
        help='answer\'s folder, or a .jsonl file of {"id", "answer"} lines',
    )
    one.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where grades.parquet and report.json are written",
    )
    one.add_argument(
        "--local-data", action=Listed, nargs="+", default=[], metavar="NAME=FOLDER", help=LOCAL_DATA
    )
    one.add_argument(
        "--estimate",
        action="store_true",
        help="where a model judges: say what that would take; ask nobody",
    )

    one = command(
        commands,
        "doctor",
        doctor,
        "say what is ready here, what is lacking, and how to mend it; changes nothing",
    )
    one.add_argument(
        "--local-data", action=Listed, nargs="+", default=[], metavar="NAME=FOLDER", help=LOCAL_DATA
    )
    one.add_argument(
        "--base",
        action=Listed,
        nargs="+",
        default=[],
        metavar="NAME",
        help="look at this folder, LoRA adapter or hub id, too",
    )
    one.add_argument(
        "--online",
        action="store_true",
        help="also ask the Hugging Face hub for the pinned revisions",
    )
    one.add_argument("--json", action="store_true", help="for machines")


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], help: str
) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    one.set_defaults(command=function)
    return one


def export(given: argparse.Namespace) -> None:
    from harness.errors import UserError
    from harness.pipeline import exchange

    if given.limit is not None and given.limit < 1:
        raise UserError(f"--limit is {given.limit}; it must be at least 1.")
    benchmark = opened(given.benchmark, given.split, given.limit, given.local_data)
    print(
        exchange.export(
            benchmark, given.out, split=given.split, limit=given.limit, progress=shown("export")
        )
    )


def answer(given: argparse.Namespace) -> None:
    from harness.models.base_cards import find_base
    from harness.pipeline import exchange
    from harness.pipeline.foreign_answers import exported

    exported(given.questions)  # before a model is loaded
    print(
        exchange.answer(
            given.questions,
            find_base(given.base),
            given.weights,
            given.out,
            progress=shown("answer"),
        )
    )


def grade(given: argparse.Namespace) -> None:
    from harness.pipeline import exchange
    from harness.pipeline.foreign_answers import exported

    export = exported(given.questions)
    benchmark = opened(export["benchmark"], export["split"], export["limit"], given.local_data)
    if given.estimate:
        print(exchange.estimate(benchmark, given.questions, given.answers))
    else:
        print(exchange.grade(benchmark, given.questions, given.answers, given.out))


def doctor(given: argparse.Namespace) -> None:
    from benchmarks.catalogue import BENCHMARKS, named_folders
    from harness.cli import doctor

    with user_errors():
        folders = named_folders(given.local_data)
    lines = doctor.examine(
        BENCHMARKS, doctor.known_methods(), folders, bases=given.base, online=given.online
    )
    print(doctor.as_json(lines) if given.json else doctor.as_text(lines))


def opened(name: str, split: Any, limit: int | None, local_data: list[str]) -> Any:
    from benchmarks.catalogue import open_benchmarks

    with user_errors():
        return open_benchmarks([name], split, limit, local_data)[0]


def shown(title: str) -> Callable[[str, int, int], None]:
    """Progress on stderr, so that what is printed at the end can be read by a program."""
    from harness.pipeline.progress import Display

    return Display(sys.stderr).stage(1, 1, title)
