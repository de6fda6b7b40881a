"""The commands on single files: ``export``, ``answer`` and ``grade`` one benchmark, and ``convert``
a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.cli.parser import LISTED, SWITCH, command
from harness.errors import UserError, user_errors

# Modules that import torch, pandas or a benchmark's code are imported inside the commands: export,
# and grade must run without torch, and --help must be fast.

LOCAL_DATA = (
    "the folder of a benchmark's official files, such as coco=data/coco; may be repeated"
    " (benchmarks/README.md)"
)


OUT: dict[str, Any] = {"type": Path, "required": True, "metavar": "FOLDER"}
DATA = {**LISTED, "default": [], "metavar": "NAME=FOLDER", "help": LOCAL_DATA}
FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    help = "write a benchmark's questions and images to a folder; needs no model"
    parser = command(commands, "export", export, help)
    parser.add_argument("benchmark", metavar="BENCHMARK", help="its name, such as synthetic_pope")
    parser.add_argument("--out", help="where questions.jsonl and images/ are written", **OUT)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="default: test")
    parser.add_argument("--local-data", **DATA)

    help = "let a model answer exported questions; needs neither the benchmark's data nor its code"
    parser = command(commands, "answer", answer, help)
    parser.add_argument("questions", help="an export's folder", **FOLDER)
    help = (
        "a card (see doctor), a folder, a LoRA adapter's folder or a hub id; with --server: the"
        " name of the model there"
    )
    parser.add_argument("--base", metavar="NAME", help=help)
    help = (
        "ask this server with OpenAI's chat interface, such as https://api.openai.com/v1 (key: the"
        " environment variable OPENAI_API_KEY), or as a JSON file of settings says"
        " (benchmarks/README.md)"
    )
    parser.add_argument("--server", metavar="URL", help=help)
    help = "trained weights of that base, such as a round's train/model or train/adapter"
    parser.add_argument("--weights", type=Path, metavar="DIR", help=help)
    parser.add_argument("--out", help="where answers.jsonl is written", **OUT)

    help = "grade answers of any model; needs neither a model nor torch"
    parser = command(commands, "grade", grade, help)
    parser.add_argument("questions", help="the export's folder", **FOLDER)
    help = 'answer\'s folder, or a .jsonl file of {"id", "answer"} lines'
    parser.add_argument("answers", type=Path, metavar="ANSWERS", help=help)
    parser.add_argument("--out", help="where grades.parquet and report.json are written", **OUT)
    parser.add_argument("--local-data", **DATA)
    help = "for a benchmark with a judge: only print what the judge will cost"
    parser.add_argument("--estimate", help=help, **SWITCH)

    help = "convert a LLaVA-1.5 (or its LoRA) from the original repository's format"
    parser = command(commands, "convert", convert, help)
    parser.add_argument("checkpoint", help="the folder as released", **FOLDER)
    parser.add_argument("--out", help="a new folder, which this harness loads", **OUT)
    help = (
        "a card, a folder or a hub id of a LLaVA-1.5, which gives tower, tokenizer and processor,"
        " or that the LoRA was trained on; default: the card of its size"
    )
    parser.add_argument("--base", metavar="NAME", help=help)


def export(args: argparse.Namespace) -> None:
    from harness.pipeline import exchange

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit is {args.limit}; it must be at least 1.")
    benchmark = _benchmark(args.benchmark, args.split, args.limit, args.local_data)
    progress = _progress("export")
    print(
        exchange.export(benchmark, args.out, split=args.split, limit=args.limit, progress=progress)
    )


def answer(args: argparse.Namespace) -> None:
    from harness.pipeline import exchange, foreign_answers

    if args.server is not None:
        from harness.pipeline.progress import Display

        if args.weights is not None:
            raise UserError("--weights is for a model on this machine; leave it out with --server.")
        settings = exchange.settings_of(args.server, args.base)
        display = Display(sys.stderr)
        with display.alive():
            progress, tell = display.stage(1, 1, "answer"), display.say
            done = exchange.answer_by_server(
                args.questions, settings, args.out, progress=progress, tell=tell
            )
        print(done)
        return
    if args.base is None:
        raise UserError("Give the model that is to answer: --base NAME, with --server or without.")
    from harness.models.base_cards import find_base

    foreign_answers.read_export(
        args.questions
    )  # a wrong folder is an error before a model is loaded
    base, progress = find_base(args.base), _progress("answer")
    print(exchange.answer(args.questions, base, args.weights, args.out, progress=progress))


def grade(args: argparse.Namespace) -> None:
    from harness.pipeline import exchange, foreign_answers

    exported = foreign_answers.read_export(args.questions)
    benchmark = _benchmark(
        exported["benchmark"], exported["split"], exported["limit"], args.local_data
    )
    if args.estimate:
        print(exchange.estimate(benchmark, args.questions, args.answers))
    else:
        print(exchange.grade(benchmark, args.questions, args.answers, args.out))


def convert(args: argparse.Namespace) -> None:
    from harness.models import convert_llava

    print(convert_llava.convert(args.checkpoint, args.out, args.base))


def _benchmark(name: str, split: Any, limit: int | None, local_data: list[str]) -> Any:
    from benchmarks.catalogue import open_benchmarks

    with user_errors():
        return open_benchmarks([name], split, limit, local_data)[0]


def _progress(title: str) -> Callable[[str, int, int], None]:
    """Progress on stderr; stdout is for the result alone."""
    from harness.pipeline.progress import Display

    return Display(sys.stderr).stage(1, 1, title)
