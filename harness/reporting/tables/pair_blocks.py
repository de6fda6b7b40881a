"""What a round's pairs were like, for the table: lengths and truth of both sides, and what SIMA's
critic did; from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.artifacts.results_folder import Results
from harness.reporting.results import Records
from harness.reporting.stored import opened
from harness.reporting.tables.model import MISSING, Block, block

# Column of the table -> field of record.json's "pair_stats" ("quality" before), the factor to print it with, decimals.
QUALITY: Mapping[str, tuple[str, float, int]] = {
    "pairs": ("pairs", 1, 0),
    "words, chosen": ("chosen_words", 1, 1),
    "words, rejected": ("rejected_words", 1, 1),
    "chosen shorter %": ("chosen_shorter", 100, 1),
    "errors, chosen": ("chosen_errors", 1, 2),
    "errors, rejected": ("rejected_errors", 1, 2),
    "chosen truly better %": ("right", 100, 1),
}
CRITIC: Mapping[str, tuple[str, float, int]] = {
    "comparisons": ("compared", 1, 0),
    "verdicts given %": ("verdict_rate", 100, 1),
    "greedy answer wins %": ("greedy_wins", 100, 1),
    "first place wins %": ("first_wins", 100, 1),
    "changes with the order %": ("inconsistent", 100, 1),
}


def blocks(out: Path, records: Records) -> tuple[Block, ...]:
    """The two blocks, a line a row and round (means over training seeds); left out where no record
    tells."""
    quality, reports = [], []
    stored = opened(out)
    for row in records.rows:
        for seed in row.seeds:
            for number in range(1, row.rounds + 1):
                folder = Results(out).pairs(row.label, seed, number)
                record = stored.record(folder) if stored.done(folder) else None
                if record is None:
                    continue
                where = row.label if row.rounds == 1 else f"{row.label}, round {number}"
                quality += [
                    {"run": where, "kind": kind, **told}
                    for kind, told in (
                        record.get("pair_stats") or record.get("quality", {})
                    ).items()
                ]
                reports += [{"run": where, **record["report"]}] if record.get("report") else []
    found = (
        _block(
            "What the pairs were like",
            "chosen against rejected answers, mean over training seeds; errors by exact truth where"
            " the pool knows it, truly better: of the pairs whose sides differ in errors",
            quality,
            ("run", "kind"),
            QUALITY,
        ),
        _block(
            "What the critic did",
            "mean over training seeds; first place wins: 50 is no liking for a place where orders"
            " are random or both are asked; how often it was right: the block above",
            reports,
            ("run",),
            CRITIC,
        ),
    )
    return tuple(one for one in found if one is not None)


def _block(
    heading: str,
    caption: str,
    told: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    columns: Mapping[str, tuple[str, float, int]],
) -> Block | None:
    if not told:
        return None
    frame = pd.DataFrame(told)
    rows = []
    for names, part in frame.groupby(list(keys), sort=False):
        cells = []
        for field, factor, places in columns.values():
            mean = pd.to_numeric(part[field]).mean() if field in part else float("nan")
            cells.append(MISSING if pd.isna(mean) else f"{factor * mean:,.{places}f}")
        rows.append((*map(str, names if isinstance(names, tuple) else (names,)), *cells))
    return block(heading=heading, caption=caption, header=(*keys, *columns), rows=rows)
