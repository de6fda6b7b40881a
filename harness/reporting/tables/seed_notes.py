"""Notes about training seeds that need a second look: left out, equal, far away, without a
value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults

FAR = 8.0
"""A seed is named if it is this many times farther from the median of the other seeds than these
are from each other."""
POINTS = 0.05
"""And if it is this share of the metric's scale away: 5 points of a percentage."""


def seed_notes(study: StudyResults, last: Sequence[MetricResult]) -> list[str]:
    """A sentence for each kind of finding; they are counted as they are unless it says not."""
    primary = [cell for cell in last if cell.primary and cell.role != "matched" and cell.n_seeds]
    left_out = [
        f"{label} after round {round} on {display_name(benchmark)}: seed"
        f" {', '.join(map(str, counts.left_out))}"
        for (label, round, benchmark), counts in study.counts.items()
        if counts.left_out
    ]
    equal = [
        f"{cell.label} on {cell.full_name}"
        for cell in primary
        if cell.about == "training" and cell.n_seeds > 1
    ]
    lonely = [
        f"{cell.label} on {cell.full_name}"
        for cell in primary
        if cell.n_seeds == 1 < cell.seeds_planned
    ]
    empty = [
        f"{cell.label}, seed {seed}, on {cell.full_name}"
        for cell in primary
        for seed, value in cell.by_seed.items()
        if not np.isfinite(value) and np.isfinite(cell.value)
    ]
    far = [text for cell in primary for text in _far_seeds(cell)]
    findings = (
        (left_out, "Seeds that answered other questions than most seeds of the row, left out"),
        (lonely, "One of the planned seeds only, so it is about this training"),
        (
            equal,
            "All seeds have the same counts on every image, so they are read as one training"
            " (is the seed used?)",
        ),
        (
            empty,
            "Seeds without a value, because the denominator is 0 (did the training diverge?);"
            " the row is not tested there, since without them it would look better than it is",
        ),
        (
            far,
            "Seeds far from the row's other seeds (did the training diverge? see its log); they"
            " count",
        ),
    )
    return [f"{words}: {'; '.join(texts)}." for texts, words in findings if texts]


def _far_seeds(cell: MetricResult) -> Iterator[str]:
    values = cell.by_seed
    for seed, value in values.items():
        other_values = [other for name, other in values.items() if name != seed]
        if len(other_values) < 2 or not np.isfinite([value, *other_values]).all():
            continue
        distance = abs(value - float(np.median(other_values)))
        if distance > max(FAR * (max(other_values) - min(other_values)), POINTS * cell.scale):
            texts = " ".join(f"{other:.{cell.decimals}f}" for other in other_values)
            yield (
                f"{cell.label}, seed {seed}, {cell.full_name}"
                f" {value:.{cell.decimals}f} (others {texts})"
            )
