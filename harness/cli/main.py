"""The command line, ``python -m harness COMMAND``, from the root: studies planned, run and read,
and single steps."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.cli import file_commands
from harness.cli.file_commands import Listed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results")
LEAKS = "leave images out of every row that are in the training pool too (leaks.csv lists them)"
OPTIONS = (
    "only",
    "seeds",
    "limit",
    "rounds",
    "images",
    "base",
    "pool",
    "benchmarks",
    "controls",
    "profile",
    "rows",
    "local_data",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 a user's mistake (one sentence on stderr), 130
    interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from harness.errors import UserError, speaker

    try:
        check_resolution()
        if arguments[:1] == ["synthetic"]:  # its own options: the trainings of the synthetic models
            from harness.synthetic.train import main as world

            world(arguments[1:])
            return 0
        given = parser().parse_args(arguments, argparse.Namespace(arguments=arguments))
        command: Callable[[argparse.Namespace], None] = given.command
        command(given)
    except UserError as problem:
        print(f"{speaker()}: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader went away, as with ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(
            "\nharness: interrupted; everything finished is kept, the same command continues.",
            file=sys.stderr,
        )
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser; each command carries its function as ``command``."""
    top = argparse.ArgumentParser(
        prog="python -m harness",
        description=(
            "Run from the repository's root. To begin: doctor, then plan compare, then run compare."
        ),
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, function, help in (
        ("plan", plan, "say what a study would still do, with an estimate; write nothing"),
        (
            "run",
            run,
            "do what is missing of a study, then print its table; cut at any moment, it continues",
        ),
    ):
        one = commands.add_parser(name, help=help, description=help)
        one.add_argument(
            "study", help="compare, ablate, paper, smoke, tune, or a .py file with study(**options)"
        )
        one.add_argument(
            "--only",
            action=Listed,
            nargs="+",
            metavar="ROW",
            help="these rows beside the untrained one",
        )
        one.add_argument("--seeds", type=int, metavar="N", help="training seeds a row (0 to N-1)")
        one.add_argument(
            "--rounds",
            type=int,
            metavar="N",
            help="rounds of self-improvement, each on fresh images",
        )
        one.add_argument("--images", type=int, metavar="N", help="pool images a round")
        one.add_argument(
            "--limit",
            type=int,
            metavar="N",
            help="a trial: at most N test images and at most N pool images a round",
        )
        one.add_argument(
            "--base",
            metavar="NAME",
            help=(
                "the base model: a card (see doctor), a folder of a model or a LoRA adapter, or a"
                " hub id"
            ),
        )
        one.add_argument(
            "--row",
            action=Listed,
            nargs="+",
            dest="rows",
            metavar="LABEL=CHECKPOINT",
            help=(
                "ready-made models, each a folder, a LoRA adapter's folder or a hub id: answered,"
                " not trained"
            ),
        )
        one.add_argument(
            "--pool",
            metavar="POOL",
            help="synthetic, a folder of images, a .jsonl manifest, llava:, coco:, hub: or mix:",
        )
        one.add_argument(
            "--benchmarks",
            action=Listed,
            nargs="+",
            metavar="NAME",
            help="these benchmarks only, apart by spaces or commas (names: see doctor)",
        )
        one.add_argument(
            "--local-data",
            action=Listed,
            nargs="+",
            metavar="NAME=FOLDER",
            help=(
                "the folders of the benchmarks' official files, such as coco=data/coco mme=data/mme"
                " (benchmarks/README.md)"
            ),
        )
        one.add_argument(
            "--controls",
            action="store_true",
            default=None,
            help="add the upper bounds and the controls",
        )
        one.add_argument(
            "--profile",
            metavar="NAME",
            help="equal (default) or published: each paper's own recipe",
        )
        one.add_argument(
            "--out",
            type=Path,
            metavar="FOLDER",
            help=(
                "the results folder (default: its own, below results/, named by study, base and"
                " limit)"
            ),
        )
        one.add_argument(
            "--eight-bit",
            action="store_true",
            help="train with AdamW in 8 bits (other weights; needs a CUDA GPU)",
        )
        if function is run:
            one.add_argument(
                "--log-to",
                action=Listed,
                nargs="+",
                metavar="NAME",
                help="tensorboard (default), trackio, wandb or none",
            )
            one.add_argument(
                "--on",
                choices=["ray"],
                help="do the stages on a running Ray cluster (file system shared)",
            )
            one.add_argument("--exclude-leaks", action="store_true", help=LEAKS)
        one.set_defaults(command=function)
    for name, function, help in (
        ("table", table, "print a results folder's table again, from its stored grades"),
        ("figures", figures, "draw a results folder's figures again, from its stored grades"),
        (
            "page",
            page,
            (
                "write a results folder's page.html: the table, and the pairs and drops with their"
                " images"
            ),
        ),
    ):
        one = commands.add_parser(name, help=help, description=help)
        one.add_argument("study", nargs="?", help="the study's name: its folder below results/")
        one.add_argument("--out", type=Path, metavar="FOLDER", help="the results folder itself")
        one.add_argument("--exclude-leaks", action="store_true", help=LEAKS)
        one.set_defaults(command=function)
    help = (
        "write a light copy of a results folder for git: its table, three figures, and the numbers"
        " behind them"
    )
    one = commands.add_parser("pack", help=help, description=help)
    one.add_argument(
        "folder", type=Path, metavar="FOLDER", help="the results folder; it is only read"
    )
    one.add_argument(
        "--out", type=Path, metavar="PACKED", help="the packed folder (default: FOLDER-packed)"
    )
    one.set_defaults(command=pack)
    help = "compare two results folders: settings, versions and numbers that differ, as Markdown"
    one = commands.add_parser("compare", help=help, description=help)
    one.add_argument("a", type=Path, metavar="A", help="a results folder")
    one.add_argument("b", type=Path, metavar="B", help="another")
    one.set_defaults(command=compare)
    file_commands.add(commands)
    crossed = commands.add_parser(
        "cross-check", help="grade a results folder's stored answers by the installed toolkits too"
    )
    crossed.add_argument("folder", type=Path, metavar="FOLDER", help="the results folder")
    crossed.set_defaults(command=cross_check)
    commands.add_parser(
        "synthetic",
        help="train the synthetic world's models (its options: python -m harness synthetic --help)",
    )
    return top


def plan(given: argparse.Namespace) -> None:
    from harness.cli import launch
    from harness.pipeline import runner

    if given.study == "paper":
        from harness.study import paper

        text, ready = paper.told(RESULTS, **options_of(given))
        print(text)
        if not ready:
            return
    study = load(given)
    out = given.out or RESULTS / study.name
    told = launch.forecast(study, out, told=given.study == "paper")
    print("\n".join([*told, runner.plan(study, out, launch.placement(given))]))


def run(given: argparse.Namespace) -> None:
    from harness.cli import launch
    from harness.reporting import model_card_results
    from harness.reporting.figures import draw as figures
    from harness.reporting.page import write as page
    from harness.reporting.tables import build as tables

    study = load(given)
    out = given.out or RESULTS / study.name
    if not launch.run(study, out, given, given.arguments):
        return  # another process of the team says what came out
    comparison = tables.load(out, exclude_leaks=given.exclude_leaks)
    print("\n" + tables.write(out, comparison=comparison))
    model_card_results.write_results(out, comparison.study, comparison.cells)
    for path in [
        *figures.write(out, comparison=comparison),
        page.write(out, comparison=comparison),
    ]:
        print(path)


def table(given: argparse.Namespace) -> None:
    from harness.reporting import model_card_results
    from harness.reporting.tables import build as tables

    out = folder(given)
    comparison = tables.load(out, exclude_leaks=given.exclude_leaks)
    print(tables.write(out, comparison=comparison))
    model_card_results.write_results(out, comparison.study, comparison.cells)


def figures(given: argparse.Namespace) -> None:
    from harness.artifacts.results_folder import Results
    from harness.reporting.figures import draw as figures

    out = folder(given)
    for path in figures.write(out, exclude_leaks=given.exclude_leaks):
        print(path)
    if Results(out).packed.exists():
        print(
            f"{out} is packed: it holds no answers and no images, so examples-* and noise are not"
            " drawn."
        )


def page(given: argparse.Namespace) -> None:
    from harness.reporting.page import write as page

    print(page.write(folder(given), exclude_leaks=given.exclude_leaks))


def pack(given: argparse.Namespace) -> None:
    from harness.reporting.pack import pack

    print("\n".join(pack(given.folder, given.out)))


def compare(given: argparse.Namespace) -> None:
    from harness.reporting import difference

    print(difference.between(given.a, given.b))


def cross_check(given: argparse.Namespace) -> None:
    from harness.pipeline import cross_check

    cross_check.check(given.folder)


def folder(given: argparse.Namespace) -> Path:
    """The results folder that is meant: ``--out``, or the study's below results/.

    Raises:
        UserError: neither or both are given, or there is no study in it.
    """
    from harness.errors import UserError, unknown

    if (given.out is None) == (given.study is None):
        raise UserError(
            "Give either the study's name (its folder below results/) or --out with the folder"
            " itself."
        )
    out: Path = given.out or RESULTS / given.study
    if not (out / "study.json").exists():
        if given.out is not None:
            raise UserError(f"There are no results in {out}; give the --out of an earlier run.")
        raise unknown(
            "results folder",
            given.study,
            sorted(path.parent.name for path in RESULTS.glob("*/study.json")),
        )
    return out


def options_of(given: argparse.Namespace) -> dict[str, Any]:
    """The study's options that were given."""
    return {name: getattr(given, name) for name in OPTIONS if getattr(given, name) is not None}


def flag(name: str) -> str:
    """An option as it is written: ``local_data`` is ``--local-data``."""
    return "--row" if name == "rows" else f"--{name.replace('_', '-')}"


def load(given: argparse.Namespace) -> Any:
    """The study that is asked for, with the options that were given.

    Raises:
        UserError: there is no such study or file, or the study takes no such option.
    """
    from harness.errors import UserError, unknown
    from harness.study import ablate, compare, paper, smoke, tune
    from harness.study.study import Study

    own: dict[str, Callable[..., Study]] = {
        "compare": compare.study,
        "ablate": ablate.study,
        "tune": tune.study,
        "smoke": smoke.study,
        "paper": paper.study,
    }
    if given.study.endswith(".py"):
        build = from_file(Path(given.study))
    elif given.study in own:
        build = own[given.study]
    else:
        raise unknown("study", given.study, [*own, "or a path to a .py file"])
    options = options_of(given)
    takes = inspect.signature(build).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for name in options:
            if name not in takes:
                raise unknown(
                    f"option of the study {given.study}",
                    flag(name),
                    [flag(known) for known in takes],
                )
    try:
        study = build(**options)
    except (
        ValueError
    ) as error:  # a setting that a method or a benchmark does not allow, in a sentence of its own
        raise UserError(f"The study {given.study} cannot be built: {error}") from error
    if not isinstance(study, Study):
        raise UserError(
            f"study() of {given.study} returned a {type(study).__name__}; it must return a"
            " harness.study.study.Study."
        )
    return study


def from_file(path: Path) -> Callable[..., Any]:
    """The ``study`` function of a user's own file.

    Raises:
        UserError: there is no such file, or it defines no study().
    """
    from harness.errors import UserError

    if not path.is_file():
        raise UserError(
            f"There is no study file {path}; give a .py file that defines study(**options) ->"
            " Study."
        )
    spec = importlib.util.spec_from_file_location(f"user_study_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"{path} cannot be loaded as Python; give a .py file that defines study(**options) ->"
            " Study."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.append(
        str(path.resolve().parent)
    )  # a study's own files beside it, behind everything else
    spec.loader.exec_module(module)
    build = getattr(module, "study", None)
    if not callable(build):
        raise UserError(
            f"{path} defines no study(); add a function study(**options) that returns a"
            " harness.study.study.Study."
        )
    return build  # type: ignore[no-any-return]


def check_resolution() -> None:
    """See that the packages are this repository's own: their names are generic, and others install
    such names too.

    Raises:
        UserError: a package resolves elsewhere, or the command was not run from the repository
            root.
    """
    import benchmarks
    import harness
    import methods
    from harness.errors import UserError

    for package in (harness, methods, benchmarks):
        where = Path(package.__file__ or ".").resolve()
        if ROOT not in where.parents:
            raise UserError(
                f"The package {package.__name__} resolves to {where}, outside {ROOT}; uninstall or"
                " rename the other one."
            )
    if Path.cwd().resolve() != ROOT:
        raise UserError(f"Run python -m harness from the repository root: cd {ROOT}.")


if __name__ == "__main__":
    sys.exit(main())
