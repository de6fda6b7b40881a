"""Draws a study's figures from its results, as PDF and PNG.

``before-and-after`` has the primary metrics, ``before-and-after-<benchmark>`` all metrics of a
benchmark, ``rounds`` each round. ``hallucination-against-recall``, ``at-several-lengths`` (with its
numbers as CSV) and ``examples-<row>`` are about captions, ``prompts`` and ``training`` about how
the rows were trained, ``ablation-<metric>`` and ``noise`` about varied settings. ``captions.md``
has their captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting.comparison import MetricResult
from harness.reporting.figures import describe
from harness.reporting.figures.ablation import ablations, noise
from harness.reporting.figures.before_after import before_and_after, rounds
from harness.reporting.figures.captions import against_recall, at_lengths, lengths
from harness.reporting.figures.examples import examples
from harness.reporting.figures.style import rendered, style
from harness.reporting.figures.training_curves import prompts, training
from harness.reporting.results import StudyResults
from harness.reporting.tables.build import ComparedStudy, load


def write(
    out: Path, *, exclude_leaks: bool = False, comparison: ComparedStudy | None = None
) -> list[Path]:
    """Draw all possible figures into ``<out>/figures``, as PNG and PDF; return the files written.
    ``exclude_leaks``: without leaked images. ``comparison``: what ``tables.load`` returned, to save
    its time.

    Raises:
        UserError: the folder holds no study, or a file is broken.
    """
    results = Results(out)
    comparison = comparison or load(out, exclude_leaks=exclude_leaks)
    caps = lengths(results, comparison.study)
    written = []
    with style():
        for name, figure in draw(comparison.study, comparison.cells, results, caps):
            for kind in ("png", "pdf"):
                path = out / "figures" / f"{file_stem(name)}.{kind}"
                write_bytes(path, rendered(figure, kind))
                written.append(path)
    if written:
        path = out / "figures" / "captions.md"
        write_bytes(path, describe.captions(one.stem for one in written).encode())
        written.append(path)
    if not caps.empty:
        path = out / "figures" / "at-several-lengths.csv"
        write_bytes(path, caps.to_csv(index=False).encode())
        written.append(path)
    return written


def file_stem(name: str) -> str:
    """A figure's name as a file's: metrics of toolkits can have any characters."""
    return re.sub(r"[^A-Za-z0-9._=,+-]", "-", name)


def draw(
    study: StudyResults, cells: Sequence[MetricResult], results: Results, caps: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for all possible figures. ``caps``: see ``captions.lengths``."""
    names = [benchmark.name for benchmark in study.benchmarks]
    figures: list[tuple[str, Figure | None]] = [
        ("before-and-after", before_and_after(study, cells)),
        *(
            (f"before-and-after {name}", before_and_after(study, cells, benchmark=name))
            for name in names
        ),
        ("rounds", rounds(study, cells)),
        ("hallucination-against-recall", against_recall(study, cells)),
        ("at-several-lengths", at_lengths(study, caps)),
        ("prompts", prompts(study)),
        ("training", training(study)),
        *ablations(study, cells),
        ("noise", noise(study, cells, results)),
        *examples(study, results),
    ]
    yield from ((name, figure) for name, figure in figures if figure is not None)
