"""Blocks about a round's pairs: lengths and errors of both sides, and the statistics of SIMA's
critic. They come from the records of the stage "pairs"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.artifacts.results_folder import Results
from harness.reporting.results import StudyResults
from harness.reporting.stored import open_stored
from harness.reporting.tables.model import MISSING, Block, text_block


class Field(NamedTuple):
    """A field of a record, the factor to print it with, and its decimals."""

    name: str
    factor: float = 1
    places: int = 0


PAIR_STATS = {
    "pairs": Field("pairs"),
    "words, chosen": Field("chosen_words", places=1),
    "words, rejected": Field("rejected_words", places=1),
    "chosen shorter %": Field("chosen_shorter", 100, 1),
    "errors, chosen": Field("chosen_errors", places=2),
    "errors, rejected": Field("rejected_errors", places=2),
    "chosen truly better %": Field("right", 100, 1),
}
CRITIC = {
    "comparisons": Field("compared"),
    "verdicts given %": Field("verdict_rate", 100, 1),
    "greedy answer wins %": Field("greedy_wins", 100, 1),
    "first place wins %": Field("first_wins", 100, 1),
    "changes with the order %": Field("inconsistent", 100, 1),
}


def blocks(out: Path, study: StudyResults) -> tuple[Block, ...]:
    """A line a row and round, means over training seeds. A block without records is left out."""
    pairs: list[dict[str, Any]] = []
    critics: list[dict[str, Any]] = []
    stored = open_stored(out)
    for row in study.rows:
        for seed, number in row.trainings:
            stage = Results(out).pairs(row.label, seed, number)
            record = stored.record(stage) if stored.done(stage) else None
            if record is None:
                continue
            run = row.label if row.rounds == 1 else f"{row.label}, round {number}"
            stats = record.get("pair_stats") or record.get("quality") or {}
            pairs += [{"run": run, "kind": kind, **fields} for kind, fields in stats.items()]
            if record.get("report"):
                critics.append({"run": run, **record["report"]})
    optional = (
        _block(
            "What the pairs were like",
            "chosen and rejected answers, mean over training seeds; errors: counted with the exact"
            " truth, if the pool has it; truly better: the chosen answer has fewer errors, in % of"
            " the pairs with unequal errors",
            pairs,
            ("run", "kind"),
            PAIR_STATS,
        ),
        _block(
            "What the critic did",
            "mean over training seeds; first place wins: 50 means that the order of the two answers"
            " has no effect (if orders are random or both are asked); how often the critic was"
            " right: see 'chosen truly better' above",
            critics,
            ("run",),
            CRITIC,
        ),
    )
    return tuple(block for block in optional if block is not None)


def _block(
    heading: str,
    caption: str,
    records: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    columns: Mapping[str, Field],
) -> Block | None:
    if not records:
        return None
    rows = []
    for names, part in pd.DataFrame(records).groupby(list(keys), sort=False):
        texts = []
        for field in columns.values():
            mean = pd.to_numeric(part[field.name]).mean() if field.name in part else float("nan")
            text = f"{field.factor * mean:,.{field.places}f}"
            texts.append(MISSING if pd.isna(mean) else text)
        rows.append((*map(str, names if isinstance(names, tuple) else (names,)), *texts))
    return text_block(heading=heading, caption=caption, header=(*keys, *columns), rows=rows)
