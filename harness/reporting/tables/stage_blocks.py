"""Blocks that are read from the stages: what the rows cost, what became of their prompts, their
pairs, SIMA's critic, and the form of the answers. They describe; nothing in them is tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.reporting.display_names import display_name, row_name
from harness.reporting.results import StudyResults
from harness.reporting.stored import REPEATS
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import MISSING, Block, printed, text_block

COUNTS = ("pairs", "dropped", "used", "steps", "tokens_generated", "tokens_trained")
NOT_RECORDED = "not recorded"
CAPTIONS = "words"
"""The metric that every caption benchmark has (``benchmarks.interface.Benchmark``)."""

Share = tuple[float, float]
"""Counted answers, all answers."""


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
    selected = (drops["label"] == label) & (drops["reason"] == reason) & drops["seed"].isin(seeds)
    return float(drops.loc[selected, "count"].sum()) / len(seeds)


def reasons(study: StudyResults) -> list[str]:
    """The reasons for dropped prompts, the most frequent first."""
    counts = study.drops.groupby("reason")["count"].sum()
    return [str(reason) for reason in counts.sort_values(ascending=False).index]


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return MISSING
    rounded = round(seconds)
    if rounded < 120:
        return f"{rounded} s"
    return f"{round(seconds / 60)} min" if rounded < 7200 else f"{seconds / 3600:.1f} h"


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
    sums = totals(study, row.label).to_dict()
    counts = (sums["images"], sums["pairs"] + sums["dropped"], *(sums[name] for name in COUNTS))
    return (
        *(row.label, row.supervision, str(len(row.seeds)), str(row.rounds)),
        *map(_count, counts),
        *map(duration, (sums["seconds_pairs"], sums["seconds_train"])),
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

    paired = (share(label, float(total["pairs"])) for label, total in sums.items())
    rows = [("prompts made", *map(_count, prompts.values())), ("became a pair", *paired)]
    for reason in reasons(study):
        dropped = (share(label, mean_drops(study, label, reason)) for label in sums)
        rows.append((f"dropped: {reason}", *dropped))
    return text_block(
        heading="What became of the prompts",
        caption="all rounds together, mean over training seeds; prompts made = pairs + dropped",
        header=("prompts", *map(row_name, sums)),
        rows=rows,
    )


def answers_block(study: StudyResults) -> Block | None:
    """A line a row, all seeds of its last round together; None if nothing is answered."""
    shares = {row.label: dict(_shares(study, row)) for row in study.rows if row.role != "matched"}
    rows = [
        (label, *columns.values())
        for label, columns in shares.items()
        if {*columns.values()} - {NOT_RECORDED}
    ]
    if not rows:
        return None
    return text_block(
        heading="What the answers were like",
        caption=(
            "answers after the last round, all seeds; unfinished: cut by the benchmark's token"
            " limit; repeated: a caption with a sentence that occurs twice, letter for letter;"
            " nothing here is tested"
        ),
        header=("run", *shares[study.baseline]),
        rows=rows,
    )


def _shares(study: StudyResults, row: Row) -> Iterator[tuple[str, str]]:
    """(heading, share in %) of each column."""
    results = study.stored.results
    for benchmark in study.benchmarks:
        name = display_name(benchmark.name).removeprefix("synthetic ")
        keys = [(row.label, seed, row.rounds, benchmark.name) for seed in row.seeds]
        unfinished = [_unfinished(study, results.answers(*key)) for key in keys]
        yield f"{name} unfinished %", _percent(unfinished)
        if any(metric.name == CAPTIONS for metric in benchmark.metrics):
            repeated = [_repeated(study, results.caps(*key)) for key in keys]
            yield f"{name} repeated %", _percent(repeated)


def _unfinished(study: StudyResults, stage: Path) -> Share | None:
    counts = (study.stored.finished(stage) or {}).get("counts", {})
    if "unfinished" not in counts:
        return None
    return counts["unfinished"], counts["questions"] - counts.get("unanswered", 0)


def _repeated(study: StudyResults, stage: Path) -> Share | None:
    frame = study.stored.caps(stage) if study.stored.done(stage) else None
    if frame is None or REPEATS not in frame:
        return None
    flags = frame[REPEATS].dropna()
    return float(flags.sum()), len(flags)


def _percent(shares: Sequence[Share | None]) -> str:
    """The seeds' share; a seed without one makes it unknown."""
    recorded = [share for share in shares if share is not None]
    if len(recorded) < len(shares):
        return NOT_RECORDED
    counted, answers = (sum(column) for column in zip(*recorded, strict=True))
    return printed(100 * counted / answers if answers else np.nan, 1)


class Field(NamedTuple):
    """A field of a record, the factor to print it with, and its decimals."""

    name: str
    factor: float = 1
    decimals: int = 0


PAIR_STATS = {
    "pairs": Field("pairs"),
    "words, chosen": Field("chosen_words", decimals=1),
    "words, rejected": Field("rejected_words", decimals=1),
    "chosen shorter %": Field("chosen_shorter", 100, 1),
    "errors, chosen": Field("chosen_errors", decimals=2),
    "errors, rejected": Field("rejected_errors", decimals=2),
    "chosen truly better %": Field("right", 100, 1),
}
CRITIC = {
    "comparisons": Field("compared"),
    "verdicts given %": Field("verdict_rate", 100, 1),
    "greedy answer wins %": Field("greedy_wins", 100, 1),
    "first place wins %": Field("first_wins", 100, 1),
    "changes with the order %": Field("inconsistent", 100, 1),
}


def pair_blocks(study: StudyResults) -> tuple[Block, ...]:
    """The pairs and the critic: a line a row and round, means over training seeds. A block without
    records is left out."""
    pairs: list[dict[str, Any]] = []
    critics: list[dict[str, Any]] = []
    for row in study.rows:
        for seed, number in row.trainings:
            stage = study.stored.results.pairs(row.label, seed, number)
            record = study.stored.finished(stage) or {}
            run = row.label if row.rounds == 1 else f"{row.label}, round {number}"
            stats = record.get("pair_stats") or record.get("quality") or {}
            pairs += [{"run": run, "kind": kind, **fields} for kind, fields in stats.items()]
            if record.get("report"):
                critics.append({"run": run, **record["report"]})
    optional = (
        _means(
            "What the pairs were like",
            "chosen and rejected answers, mean over training seeds; errors: counted with the exact"
            " truth, if the pool has it; truly better: the chosen answer has fewer errors, in % of"
            " the pairs with unequal errors",
            pairs,
            ("run", "kind"),
            PAIR_STATS,
        ),
        _means(
            "What the critic did",
            "mean over training seeds; first place wins: 50 means that the order of the two answers"
            " has no effect (if orders are random or both are asked); how often the critic was"
            " right: see 'chosen truly better' above",
            critics,
            ("run",),
            CRITIC,
        ),
    )
    return tuple(filter(None, optional))


def _means(
    heading: str,
    caption: str,
    records: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    columns: Mapping[str, Field],
) -> Block | None:
    if not records:
        return None
    rows = []
    for names, group in pd.DataFrame(records).groupby(list(keys), sort=False):
        texts = []
        for field in columns.values():
            mean = pd.to_numeric(group[field.name]).mean() if field.name in group else float("nan")
            text = f"{field.factor * mean:,.{field.decimals}f}"
            texts.append(MISSING if pd.isna(mean) else text)
        rows.append((*map(str, names), *texts))
    return text_block(heading, caption, (*keys, *columns), rows)
