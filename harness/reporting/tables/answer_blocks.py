"""A block about the form of the answers: how many were cut by the token limit, and how many
captions say a sentence twice. It describes; nothing in it is tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.artifacts.results_folder import Results
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults
from harness.reporting.stored import REPEATS, Stored, open_stored
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import printed
from harness.reporting.tables.model import Block, text_block

NOT_RECORDED = "not recorded"
CAPTIONS = "words"
"""The metric that every caption benchmark has (``benchmarks.interface.Benchmark``)."""

Share = tuple[float, float]
"""Counted answers, all answers."""


def blocks(out: Path, study: StudyResults) -> tuple[Block, ...]:
    """A line a row, all seeds of its last round together; none if nothing is answered."""
    results, stored = Results(out), open_stored(out)
    rows = []
    for row in study.rows:
        if row.role == "matched":
            continue
        texts = [text for _, text in _texts(results, stored, study, row)]
        if any(text != NOT_RECORDED for text in texts):
            rows.append((row.label, *texts))
    if not rows:
        return ()
    names = [name for name, _ in _texts(results, stored, study, study.base_row)]
    return (
        text_block(
            heading="What the answers were like",
            caption=(
                "answers after the last round, all seeds; unfinished: cut by the benchmark's token"
                " limit; repeated: a caption with a sentence that occurs twice, letter for letter;"
                " nothing here is tested"
            ),
            header=("run", *names),
            rows=rows,
        ),
    )


def _texts(
    results: Results, stored: Stored, study: StudyResults, row: Row
) -> Iterator[tuple[str, str]]:
    """(heading, share in %) of each column."""
    for benchmark in study.benchmarks:
        name = display_name(benchmark.name).removeprefix("synthetic ")
        places = [(row.label, seed, row.rounds, benchmark.name) for seed in row.seeds]
        unfinished = [_unfinished(stored, results.answers(*place)) for place in places]
        yield f"{name} unfinished %", _percent(unfinished)
        if any(metric.name == CAPTIONS for metric in benchmark.metrics):
            repeated = [_repeated(stored, results.caps(*place)) for place in places]
            yield f"{name} repeated %", _percent(repeated)


def _unfinished(stored: Stored, stage: Path) -> Share | None:
    record = stored.record(stage) if stored.done(stage) else None
    counts = (record or {}).get("counts", {})
    if "unfinished" not in counts:
        return None
    return counts["unfinished"], counts["questions"] - counts.get("unanswered", 0)


def _repeated(stored: Stored, stage: Path) -> Share | None:
    frame = stored.caps(stage) if stored.done(stage) else None
    if frame is None or REPEATS not in frame:
        return None
    known = frame[REPEATS].dropna()
    return float(known.sum()), len(known)


def _percent(shares: list[Share | None]) -> str:
    """The seeds' share; a seed without one makes it unknown."""
    counted, answers = 0.0, 0.0
    for share in shares:
        if share is None:
            return NOT_RECORDED
        counted, answers = counted + share[0], answers + share[1]
    return printed(100 * counted / answers if answers else np.nan, 1)
