"""The figures, PDF and PNG, from the records alone: what is drawn of a study, and where each is made.

``before-and-after`` has the primary metrics, ``before-and-after-<benchmark>`` all metrics of one benchmark, ``rounds`` each
round; ``hallucination-against-recall``, ``at-several-lengths`` (with its numbers as CSV) and ``examples-<row>`` look at captions;
``prompts`` and ``training`` at how the rows were made; ``ablation-<metric>`` and ``noise`` at one setting at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from harness.reporting.cells import compare
from harness.reporting.figures_ablation import ablations, noise
from harness.reporting.figures_captions import against_recall, at_lengths, lengths
from harness.reporting.figures_differences import before_and_after, rounds
from harness.reporting.figures_examples import examples
from harness.reporting.figures_making import prompts, training
from harness.reporting.leakage import opened
from harness.reporting.style import look, rendered
from harness.store import Results, write_bytes


def write(out: Path, *, exclude_leaks: bool = False) -> list[Path]:
    """Draw what the records allow into ``<out>/figures``; the files written, PNG and PDF of each figure. ``exclude_leaks``:
    without the pictures that are in the training pool too.

    Raises:
        Problem: the folder holds no study, or a record is broken.
    """
    written = []
    with look():
        for name, figure in drawn(out, exclude_leaks):
            for kind in ("png", "pdf"):
                path = out / "figures" / f"{name.replace(' ', '-')}.{kind}"
                write_bytes(path, rendered(figure, kind))
                written.append(path)
    found = lengths(Results(out), opened(out, exclude_leaks=exclude_leaks)[0])
    if not found.empty:
        path = out / "figures" / "at-several-lengths.csv"
        write_bytes(path, found.to_csv(index=False).encode())
        written.append(path)
    return written


def drawn(out: Path, exclude_leaks: bool) -> Iterator[tuple[str, Figure]]:
    """Every figure that there are records for, by name."""
    records, _ = opened(out, exclude_leaks=exclude_leaks)
    cells, results = compare(records), Results(out)
    made: list[tuple[str, Figure | None]] = [("before-and-after", before_and_after(records, cells))]
    made += [(f"before-and-after {one.name}", before_and_after(records, cells, benchmark=one.name)) for one in records.benchmarks]
    made += [("rounds", rounds(records, cells)), ("hallucination-against-recall", against_recall(records, cells))]
    made += [("at-several-lengths", at_lengths(records, lengths(results, records)))]
    made += [("prompts", prompts(records)), ("training", training(records))]
    made += [*ablations(records, cells), ("noise", noise(records, cells, results)), *examples(records, results)]
    yield from ((name, figure) for name, figure in made if figure is not None)
