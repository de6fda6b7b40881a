"""SelfSight from Python and as the command ``selfsight``.

    import selfsight

    selfsight.run("compare", out="results/try", limit=100)   # as the command line does
    results = selfsight.load("results/try")                   # what it stored, as DataFrames
    table = selfsight.table("results/try")                    # the table, a row a cell

The three packages of SelfSight (harness, methods, benchmarks) have generic names, so they are not
installed under these names. Calling a function of this module puts their folder first on
``sys.path``: the folder ``_src`` inside a wheel, or the checkout of an editable installation.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.reporting.results import StudyResults

__all__ = ["load", "main", "run", "table"]


def _find_sources() -> None:
    """Put the folder that holds harness/, methods/ and benchmarks/ first on ``sys.path``."""
    here = Path(__file__).resolve()
    wheel = here.parent / "_src"
    sources = str(wheel if wheel.is_dir() else here.parents[3])
    if sources not in sys.path:
        sys.path.insert(0, sources)


def main() -> int:
    """The command ``selfsight``: the same commands as ``python -m harness``, from any folder."""
    _find_sources()
    from harness.cli.main import main as command_line

    return command_line()


def run(study: str, *, out: str | Path | None = None, **options: Any) -> Path:
    """Do what is missing of a study and write its table, figures and page.

    Args:
        study: a shipped study (``compare``, ``ablate``, ``smoke``, ...) or a ``.py`` file.
        out: the results folder; by default the study's own below ``results/``.
        options: ``jobs``, and the command line's options with underscores, such as ``limit=100``,
            ``seeds=3``, ``controls=True``, ``benchmarks=["pope"]``.

    Returns:
        The results folder.

    Raises:
        UserError: a mistake that the message explains in one sentence.
    """
    _find_sources()
    from harness.cli.study_commands import run_study

    return run_study(study, out=None if out is None else Path(out), **options)


def load(folder: str | Path) -> StudyResults:
    """A results folder, whole or packed, as DataFrames.

    ``grades``: a row a question and run, with ``label``, ``seed``, ``round``, ``benchmark``,
    ``question``, ``cluster``, ``value`` and the counts ``count_*`` that metrics are made of.
    ``rounds``: a row a trained round: its pairs, steps, tokens, seconds. ``drops``: prompts
    without a pair, by reason. ``log``: a row an optimizer step: loss, accuracy, margin, rewards.

    Raises:
        UserError: there are no results in the folder.
    """
    _find_sources()
    from harness.reporting.results import load_results

    return load_results(Path(folder))


def table(folder: str | Path) -> pd.DataFrame:
    """The comparison as ``table.csv`` has it: a row a method, round, benchmark and metric.

    Raises:
        UserError: there are no results in the folder.
    """
    _find_sources()
    import pandas as pd

    from harness.errors import UserError

    path = Path(folder) / "table.csv"
    if not path.is_file():
        raise UserError(
            f"There is no table in {folder}; write it with: selfsight table --out {folder}"
        )
    return pd.read_csv(path)
