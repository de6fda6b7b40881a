"""Blocks of the table about differences between trained rows: a method and its controls, two
methods, and the order of the methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.reporting.comparison import MetricResult
from harness.reporting.contrasts import ALPHA, Contrast, Key, control_contrasts, ranks
from harness.reporting.display_names import display_name, grouped, metric_name
from harness.reporting.results import StudyResults
from harness.reporting.tables.cells import MISSING, Block, number, text_block, with_interval

YET = "cannot be told yet"


def controls_block(study: StudyResults) -> Block | None:
    """Each method against its controls; None: no row has one."""
    contrasts = [contrast for contrast in control_contrasts(study) if contrast.metric.primary]
    if not contrasts:
        return None
    worth = " or ".join(dict.fromkeys(f"{contrast.worth:g}" for contrast in contrasts))
    return _block(
        contrasts,
        "Beyond its controls",
        "row minus control after the same round [95 % interval], paired by seed where both have the"
        " same seeds. exceeds: a gain"
        f" with p < {ALPHA}, Holm-corrected over the row's controls and primary metrics. does not"
        f" exceed: the interval holds 0 or a loss, and excludes a gain of {worth} (in the metric's"
        " unit)",
        "against",
    )


def methods_block(contrasts: Sequence[Contrast]) -> Block | None:
    """Each pair of methods; None: there is none."""
    if not contrasts:
        return None
    return _block(
        contrasts,
        "Method against method",
        "first minus second [95 % interval]; ahead, behind: p <"
        f" {ALPHA}, Holm-corrected over {len(contrasts)} tests (pairs x primary metrics)",
        "minus",
    )


def _block(contrasts: Sequence[Contrast], heading: str, caption: str, word: str) -> Block:
    columns = _columns(contrasts)
    pairs = grouped(
        ((contrast.label, contrast.other, contrast.round), contrast) for contrast in contrasts
    )
    rows = []
    for (label, other, round), of_pair in pairs.items():
        texts = {contrast.key[1:]: _text(contrast) for contrast in of_pair}
        trainings = " / ".join(
            dict.fromkeys(contrast.seeds for contrast in of_pair if contrast.seeds)
        )
        cells = (texts.get(column, MISSING) for column in columns)
        rows.append((f"{label} {word} {other}", f"{round}", trainings or MISSING, *cells))
    return text_block(
        heading=heading,
        caption=caption,
        header=("rows", "round", "trainings", *(_name(*column) for column in columns)),
        rows=rows,
    )


def _columns(contrasts: Sequence[Contrast]) -> list[tuple[str, str]]:
    """Benchmark and metric of each."""
    return list(dict.fromkeys(contrast.key[1:] for contrast in contrasts))


def _text(contrast: Contrast) -> str:
    if not np.isfinite(contrast.difference):
        return f"{MISSING} {YET}"
    places = 1 if contrast.metric.scale >= 100 else 2
    if contrast.about != "method":
        return f"{number(contrast.difference, places, sign=True)}, {YET}"
    return (
        f"{with_interval(contrast.difference, contrast.lo, contrast.hi, places)} {contrast.outcome}"
    )


def _name(benchmark: str, metric: str) -> str:
    return metric_name(benchmark, display_name(metric))


def order_block(study: StudyResults, contrasts: Sequence[Contrast]) -> Block | None:
    """The ranks that each method may hold; None: no two methods can be compared."""
    columns = _columns(contrasts)
    if not columns:
        return None
    ranges = {column: ranks(contrasts, *column) for column in columns}
    labels = [
        row.label for row in study.rows if any(row.label in spans for spans in ranges.values())
    ]
    rows = [(label, *(_rank(ranges[column].get(label)) for column in columns)) for label in labels]
    return text_block(
        heading="Order of the methods",
        caption=(
            "the ranks that a method may hold, 1 the best, by the differences above; a bold value"
            f" (HTML, LaTeX): rank 1 alone, and better than {study.baseline}"
        ),
        header=("method", *(_name(*column) for column in columns)),
        rows=rows,
    )


def _rank(span: tuple[int, int] | None) -> str:
    if span is None:
        return MISSING
    return str(span[0]) if span[0] == span[1] else f"{span[0]} to {span[1]}"


def truly_ahead(
    study: StudyResults, cells: Sequence[MetricResult], contrasts: Sequence[Contrast]
) -> set[Key]:
    """The results to print in bold: a method that is better than the baseline and ahead of every
    other method, or the baseline where every method is worse."""
    ahead: set[Key] = set()
    methods = [row for row in study.rows if row.role == "method"]
    lasts = [cell for cell in cells if cell.last and cell.role == "method"]
    for column in dict.fromkeys(cell.column for cell in cells if cell.primary):
        of_column = [cell for cell in lasts if cell.column == column]
        if of_column and all(cell.verdict == "worse" for cell in of_column):
            ahead.add((study.baseline, *column))
        spans = ranks(contrasts, *column)
        ahead |= {
            cell.key
            for cell in of_column
            if cell.verdict == "better"
            and len(of_column) == len(methods)
            and (len(methods) == 1 or (len(spans) == len(methods) and spans[cell.label] == (1, 1)))
        }
    return ahead
