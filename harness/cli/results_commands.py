"""The commands on a results folder: ``table``, ``figures``, ``page``, ``pack``, ``export-pairs``,
``compare``, ``verify`` and ``cross-check``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.results_folder import Results
from harness.cli.parser import SWITCH, command
from harness.errors import UserError, plain, unknown
from harness.pipeline.progress import Display, busy

if TYPE_CHECKING:
    from harness.reporting.tables.build import ComparedStudy

RESULTS = Path("results")
"""The folder of results folders."""

LEAKS = "exclude benchmark images that are also in the training pool (leaks.csv lists them)"

OWN = (
    "this folder is your own: also show images of the pools, and use the bases, that its study.json"
    " names (otherwise only drawn pools and shipped bases)"
)

OWN_POOL = (
    "this folder is your own: read the pool that it names (otherwise only drawn pools are read)"
)

STUDIES = (
    "a study's name (its folder below results/) or a results folder; several of them, or a folder"
    " of results folders, also get a common index.html"
)

FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    for function, help in (
        (table, "write and print the table of a results folder again, from its stored grades"),
        (figures, "draw the figures of a results folder again, from its stored grades"),
        (
            page,
            "write page.html of a results folder: the table, and pairs and dropped prompts with"
            " their images",
        ),
    ):
        parser = command(commands, function.__name__, function, help)
        if function is page:
            parser.add_argument("study", nargs="*", metavar="STUDY", help=STUDIES)
        else:
            help = "the study's name: its folder below results/"
            parser.add_argument("study", nargs="?", help=help)
        parser.add_argument("--out", help="the results folder itself", **FOLDER)
        parser.add_argument("--exclude-leaks", help=LEAKS, **SWITCH)
        if function is page:
            parser.add_argument("--own", help=OWN, **SWITCH)
    help = "print differing settings, versions and numbers of two results folders, as Markdown"
    parser = command(commands, "compare", compare, help)
    parser.add_argument("a", type=Path, metavar="A", help="a results folder")
    parser.add_argument("b", type=Path, metavar="B", help="another")
    help = "write a small copy of a results folder: table, three figures and their data"
    parser = command(commands, "pack", pack, help)
    parser.add_argument("folder", help="the folder; it is only read", **FOLDER)
    help = "the packed folder (default: FOLDER-packed)"
    parser.add_argument("--out", type=Path, metavar="PACKED", help=help)
    help = "write the pairs of one training as a data set folder for the hub, in trl's format"
    parser = command(commands, "export-pairs", export_pairs, help)
    parser.add_argument("folder", help="the results folder", **FOLDER)
    parser.add_argument("row", metavar="ROW", help="the trained row, such as sena")
    help = "the data set's folder, a new one"
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help=help)
    parser.add_argument("--seed", type=int, metavar="K", help="training seed (default: the first)")
    parser.add_argument("--round", type=int, default=1, metavar="R", help="default: 1")
    parser.add_argument("--own", help=OWN_POOL, **SWITCH)
    help = "compare every file of a results folder with its recorded hash; exit code 1: one differs"
    parser = command(commands, "verify", verify, help)
    parser.add_argument("folder", help="the folder, whole or packed; it is only read", **FOLDER)
    help = "grade the stored answers again with lmms-eval and VLMEvalKit, if installed"
    parser = command(commands, "cross-check", cross_check, help)
    parser.add_argument("folder", help="the results folder", **FOLDER)


# The commands import what they need: pandas and matplotlib take seconds, and others need neither.


def table(args: argparse.Namespace) -> None:
    out = folder(args)
    with working(f"{out}: computing the statistics"):
        from harness.reporting.tables import text

        comparison = write_table(out, exclude_leaks=args.exclude_leaks)
        width = shutil.get_terminal_size((text.WIDTH, 24)).columns
        printed = plain(text.terminal(comparison.table, width))
    print(printed)


def write_table(out: Path, *, exclude_leaks: bool) -> ComparedStudy:
    """Write the table, in the folder and on the trained models' cards."""
    from harness.reporting import model_card_results
    from harness.reporting.tables import build

    comparison = build.load(out, exclude_leaks=exclude_leaks)
    build.write(out, comparison=comparison)
    model_card_results.write_results(out, comparison.study, comparison.cells)
    return comparison


def figures(args: argparse.Namespace) -> None:
    out = folder(args)
    with working(f"{out}: drawing the figures"):
        from harness.reporting.figures import draw

        paths = draw.write(out, exclude_leaks=args.exclude_leaks)
    print(*(plain(str(path)) for path in paths), sep="\n")
    if Results(out).packed.exists():
        print(
            f"{out} is packed. It holds no answers and no images, so the figures examples-* and"
            " noise are not drawn."
        )


def page(args: argparse.Namespace) -> None:
    names = args.study or [None]
    with working("writing the page"):
        from harness.reporting.page import write

        if len(names) == 1 and not (found := below(names[0])):
            args.study = names[0]
            out = folder(args)
            path = write.write(out, exclude_leaks=args.exclude_leaks, own=args.own)
        else:
            if args.out is not None or args.exclude_leaks:
                raise UserError("--out and --exclude-leaks are for the page of one study.")
            found = [study for name in names for study in below(name) or [named(name)]]
            path = write.write_index(found, own=args.own)
    print(plain(str(path)))


def below(name: str | None) -> list[Path]:
    """The results folders in a folder that is none itself."""
    if name is None or (Path(name) / "study.json").exists():
        return []
    return sorted(path.parent for path in Path(name).glob("*/study.json"))


def named(name: str) -> Path:
    """A results folder by its path, or by its name below results/.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), RESULTS / name):
        if (path / "study.json").exists():
            return path
    raise unknown(
        "results folder", name, sorted(path.parent.name for path in RESULTS.glob("*/study.json"))
    )


def pack(args: argparse.Namespace) -> None:
    with working(f"{args.folder}: packing"):
        from harness.reporting import pack

        sentences = pack.pack(args.folder, args.out)
    print(plain("\n".join(sentences)))


def export_pairs(args: argparse.Namespace) -> None:
    with working(f"{args.folder}: reading the pairs and their images"):
        from harness.reporting import hub_pairs

        sentence = hub_pairs.export_pairs(
            args.folder, args.row, args.out, seed=args.seed, round=args.round, own=args.own
        )
    print(plain(sentence))


def compare(args: argparse.Namespace) -> None:
    with working(f"comparing {args.a} and {args.b}"):
        from harness.reporting import difference

        text = difference.between(args.a, args.b)
    print(plain(text))


def verify(args: argparse.Namespace) -> int:
    with working(f"{args.folder}: reading every file"):
        from harness.pipeline import verify

        summary, broken = verify.verify(args.folder)
    print(plain("\n".join([summary, *(f"  {sentence}" for sentence in broken)])))
    return 1 if broken else 0


def cross_check(args: argparse.Namespace) -> None:
    from harness.pipeline import cross_check

    cross_check.check(args.folder)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Offline, and on a terminal a moving line: importing and computing take seconds."""
    with offline(), busy(text):
        yield


@contextmanager
def offline() -> Iterator[None]:
    """No request to the hub, and so no token sent, whatever the folder names."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def write_all(out: Path, display: Display, *, exclude_leaks: bool) -> None:
    """Write the table, figures and page of a study, and print one screen: the summary,
    its first sentences, and the paths."""
    display.moving("computing the statistics", at_once=True)
    from harness.reporting.figures import draw
    from harness.reporting.page import write
    from harness.reporting.tables import build, text

    comparison = write_table(out, exclude_leaks=exclude_leaks)
    display.moving("drawing the figures", at_once=True)
    draw.write(out, comparison=comparison)
    display.moving("writing the page", at_once=True)
    page = write.write(out, comparison=comparison, own=True)  # the command itself named the pools
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    screen = plain(text.terminal(build.screen(comparison), width)).rstrip()
    display.end(
        f"\n{screen}\n\nTable:   {out / 'table.md'}\nFigures: {out / 'figures'}\nPage:    {page}"
    )


def folder(args: argparse.Namespace) -> Path:
    """The results folder: ``--out``, or the study's below results/.

    Raises:
        UserError: neither or both are args, or there is no study in it.
    """
    if (args.out is None) == (args.study is None):
        raise UserError(
            "Give either the study's name (its folder below results/) or --out with the folder"
            " itself."
        )
    if args.out is None:
        return named(args.study)
    out: Path = args.out
    if not (out / "study.json").exists():
        raise UserError(f"There are no results in {out}; give the --out of an earlier run.")
    return out
