"""Blocks about how the rows were trained: their cost, and what became of their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.model import MISSING, Block, text_block

COUNTS = ("pairs", "dropped", "used", "steps", "tokens_generated", "tokens_trained")


def totals(study: StudyResults, label: str) -> pd.Series[float]:
    """A row's sums over its rounds, averaged over the seeds whose every round is finished; nan: no
    seed's is."""
    rounds = study.rounds[study.rounds["label"] == label]
    numbers = rounds.drop(columns=["label", "round"]).astype("float64")
    unfinished = numbers.isna().groupby(numbers["seed"]).any()
    return numbers.groupby("seed").sum().mask(unfinished).mean()


def mean_drops(study: StudyResults, label: str, reason: str) -> float:
    """The row's drops for this reason, summed over rounds and averaged over the seeds whose pairs
    are all made."""
    rounds = study.rounds[study.rounds["label"] == label]
    seeds = set(rounds["seed"]) - set(rounds.loc[rounds["pairs"].isna(), "seed"])
    drops = study.drops
    mine = (drops["label"] == label) & (drops["reason"] == reason) & drops["seed"].isin(seeds)
    return float(drops.loc[mine, "count"].sum()) / len(seeds)


def reasons(study: StudyResults) -> list[str]:
    """The reasons for dropped prompts, the most frequent first."""
    counts = study.drops.groupby("reason")["count"].sum()
    return [str(reason) for reason in counts.sort_values(ascending=False).index]


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{round(seconds / 60)} min" if whole < 7200 else f"{seconds / 3600:.1f} h"


def cost_block(study: StudyResults, rows: Sequence[Row]) -> Block:
    return text_block(
        heading="How each row was made",
        caption="all rounds together, mean over training seeds",
        header=(
            *("run", "supervision", "seeds", "rounds", "images", "prompts", "pairs", "dropped"),
            *("pairs used", "steps", "tokens generated", "tokens trained"),
            *("making pairs", "training"),
        ),
        rows=[_cost(study, row) for row in rows if row.role != "matched"],
    )


def _cost(study: StudyResults, row: Row) -> tuple[str, ...]:
    if row.rounds == 0:
        return (row.label, row.supervision, "none", *["none"] * 11)
    sums = totals(study, row.label)
    return (
        row.label,
        row.supervision,
        str(len(row.seeds)),
        str(row.rounds),
        _count(float(sums["images"])),
        _count(float(sums["pairs"] + sums["dropped"])),
        *(_count(float(sums[name])) for name in COUNTS),
        *(duration(float(sums[name])) for name in ("seconds_pairs", "seconds_train")),
    )


def prompts_block(study: StudyResults) -> Block | None:
    """How many prompts became a pair, and why the others were dropped."""
    sums = {row.label: totals(study, row.label) for row in study.rows if row.rounds}
    sums = {label: total for label, total in sums.items() if np.isfinite(total["pairs"])}
    if not sums:
        return None
    prompts = {label: float(total["pairs"] + total["dropped"]) for label, total in sums.items()}

    def share(label: str, count: float) -> str:
        total = prompts[label]
        return f"{_count(count)} ({100 * count / total:.1f} %)" if total else "0"

    rows: list[tuple[str, ...]] = [("prompts made", *map(_count, prompts.values()))]
    paired = (share(label, float(total["pairs"])) for label, total in sums.items())
    rows.append(("became a pair", *paired))
    for reason in reasons(study):
        dropped = (share(label, mean_drops(study, label, reason)) for label in sums)
        rows.append((f"dropped: {reason}", *dropped))
    return text_block(
        heading="What became of the prompts",
        caption="all rounds together, mean over training seeds; prompts made = pairs + dropped",
        header=("prompts", *sums),
        rows=rows,
    )
