"""Draws a study's figures from its results, as PDF and PNG.

``before-and-after`` has the primary metrics, ``before-and-after-<benchmark>`` all metrics of a
benchmark, ``rounds`` each round. ``hallucination-against-recall``, ``at-several-lengths`` (with its
numbers as CSV) and ``examples-<row>`` are about captions, ``prompts`` and ``training`` about how
the rows were trained, ``ablation-<metric>`` and ``noise`` about varied settings. ``captions.md``
has their captions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness.artifacts.results_folder import write_bytes
from harness.reporting.comparison import MetricResult
from harness.reporting.figures.ablation import ablations, noise
from harness.reporting.figures.before_after import before_and_after, rounds
from harness.reporting.figures.captions import against_recall, at_lengths, lengths
from harness.reporting.figures.examples import examples
from harness.reporting.figures.style import rendered, style
from harness.reporting.figures.training_curves import prompts, training
from harness.reporting.results import StudyResults
from harness.reporting.tables.build import ComparedStudy, load

CAPTIONS = {
    "before-and-after": (
        "Each row's difference from the baseline, one panel a metric, with the 95 % interval."
        " A filled marker is a clear change of the method after Holm's correction; a ring means"
        " that it does not exceed a control. Ticks below a marker are training seeds; grey numbers"
        " are the metric's values. A control has its method's colour."
    ),
    "rounds": (
        "The primary metrics after each round of training, from the baseline (round 0) on. Vertical"
        " lines are 95 % intervals of the difference from the baseline. Rows are drawn side by side"
        " so that they do not cover each other; each belongs to a whole round. A control has its"
        " method's colour and another line."
    ),
    "hallucination-against-recall": (
        "Hallucination (down is better) against recall (right is better) in captions. An arrow"
        " leads from the baseline to each row. Down and left is a more cautious model. A control"
        " has its method's colour. Grey: the baseline's captions, cut to a row's length."
    ),
    "at-several-lengths": (
        "All rows' captions, cut at the same numbers of words. The large marker is the uncut row,"
        " the band one standard error over images. A control has its method's colour and another"
        " line."
    ),
    "prompts": "What became of each row's prompts: a preference pair, or a reason for dropping.",
    "training": (
        "Loss, pairs ranked right, reward margin, and the rewards of chosen and rejected answers"
        " (studies of earlier versions: not recorded). Thin lines are training seeds, thick lines"
        " their smoothed mean; the grey line is an untrained model. A control has its method's"
        " colour and another line."
    ),
    "ablation": (
        "One setting changed at a time, with the paired 95 % interval. The ring marks the method's"
        " own value, the dashed line is the baseline."
    ),
    "noise": "Hallucination by noise step, and an image as the model sees it at each step.",
    "examples": (
        "Captions of the baseline and of a row for the same images; objects that are not in the"
        " image are marked."
    ),
}
"""The longest beginning that fits is used."""


def write(
    out: Path, *, exclude_leaks: bool = False, comparison: ComparedStudy | None = None
) -> list[Path]:
    """Draw all possible figures into ``<out>/figures``, as PNG and PDF; return the files written.
    ``exclude_leaks``: without leaked images. ``comparison``: what ``tables.load`` returned, to save
    its time.

    Raises:
        UserError: the folder holds no study, or a file is broken.
    """
    comparison = comparison or load(out, exclude_leaks=exclude_leaks)
    caps = lengths(comparison.study)
    written = []
    with style():
        for name, figure in draw(comparison.study, comparison.cells, caps):
            for kind in ("png", "pdf"):
                path = out / "figures" / f"{file_stem(name)}.{kind}"
                write_bytes(path, rendered(figure, kind))
                written.append(path)
    if written:
        path = out / "figures" / "captions.md"
        write_bytes(path, captions(path.stem for path in written).encode())
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
    study: StudyResults, cells: Sequence[MetricResult], caps: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) for all possible figures. ``caps``: see ``captions.lengths``."""
    names = (benchmark.name for benchmark in study.benchmarks)
    figures: list[tuple[str, Figure | None]] = [
        ("before-and-after", before_and_after(study, cells)),
        *((f"before-and-after {name}", before_and_after(study, cells, name)) for name in names),
        ("rounds", rounds(study, cells)),
        ("hallucination-against-recall", against_recall(study, cells)),
        ("at-several-lengths", at_lengths(study, caps)),
        ("prompts", prompts(study)),
        ("training", training(study)),
        *ablations(study, cells),
        ("noise", noise(study, cells)),
        *examples(study),
    ]
    yield from ((name, figure) for name, figure in figures if figure is not None)


def caption(name: str) -> str:
    """The caption of the figure with this name; "" for a figure of another kind."""
    fitting = [start for start in CAPTIONS if name.startswith(start)]
    return CAPTIONS[max(fitting, key=len)] if fitting else ""


def captions(names: Iterable[str]) -> str:
    """A Markdown file with the caption of each named figure."""
    texts = ((name, caption(name)) for name in dict.fromkeys(names))
    head = "# Captions\n\nThe figures are 7.2 inches wide: the full width of a page.\n\n"
    return head + "".join(f"- **{name}**: {text}\n" for name, text in texts if text)
