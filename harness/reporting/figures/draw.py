"""The figures, PDF and PNG, from the records alone: what is drawn of a study, and where each is
made.

``before-and-after`` has the primary metrics, ``before-and-after-<benchmark>`` all metrics of one
benchmark, ``rounds`` each round; ``hallucination-against-recall``, ``at-several-lengths`` (with its
numbers as CSV) and ``examples-<row>`` look at captions;
``prompts`` and ``training`` at how the rows were made; ``ablation-<metric>`` and ``noise`` at one
setting at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting.comparison import Cell
from harness.reporting.figures.ablation import ablations, noise
from harness.reporting.figures.captions import against_recall, at_lengths, lengths
from harness.reporting.figures.differences import before_and_after, rounds
from harness.reporting.figures.examples import examples
from harness.reporting.figures.making import prompts, training
from harness.reporting.figures.style import look, rendered
from harness.reporting.results import Records
from harness.reporting.tables.build import Comparison, load


def write(out: Path, *, exclude_leaks: bool = False, made: Comparison | None = None) -> list[Path]:
    """Draw what the records allow into ``<out>/figures``; the files written, PNG and PDF of each
    figure. ``exclude_leaks``: without the images that are in the training pool too. ``made`` is
    what ``tables.load`` gave, where it was called already.

    Raises:
        UserError: the folder holds no study, or a record is broken.
    """
    written, results, made = [], Results(out), made or load(out, exclude_leaks=exclude_leaks)
    short = lengths(results, made.records)
    with look():
        for name, figure in drawn(made.records, made.cells, results, short):
            for kind in ("png", "pdf"):
                path = out / "figures" / f"{name.replace(' ', '-')}.{kind}"
                write_bytes(path, rendered(figure, kind))
                written.append(path)
    if not short.empty:
        path = out / "figures" / "at-several-lengths.csv"
        write_bytes(path, short.to_csv(index=False).encode())
        written.append(path)
    return written


def drawn(
    records: Records, cells: Sequence[Cell], results: Results, short: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """Every figure that there are records for, by name; ``short`` has the captions cut at several
    lengths."""
    made: list[tuple[str, Figure | None]] = [("before-and-after", before_and_after(records, cells))]
    made += [
        (f"before-and-after {one.name}", before_and_after(records, cells, benchmark=one.name))
        for one in records.benchmarks
    ]
    made += [
        ("rounds", rounds(records, cells)),
        ("hallucination-against-recall", against_recall(records, cells)),
    ]
    made += [("at-several-lengths", at_lengths(records, short))]
    made += [("prompts", prompts(records)), ("training", training(records))]
    made += [
        *ablations(records, cells),
        ("noise", noise(records, cells, results)),
        *examples(records, results),
    ]
    yield from ((name, figure) for name, figure in made if figure is not None)
