"""What SIMA's critic did in a round, computed from its pairs and drops.

Whether it was right is measured where the exact truth is known, by the record's pair statistics.
The paper reports 89.8 % agreement with people with the criteria in the prompt, 78.2 % without them
(Wang et al., arXiv 2405.15973)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.interface import Dropped, PreferencePair


@dataclass(frozen=True, kw_only=True)
class CriticReport:
    """Counts and shares; a share is None if there is nothing to divide by."""

    compared: int
    """Comparisons that the critic was asked about."""
    asked: int
    """How often it was asked: twice per comparison in both orders."""
    pairs: int
    verdict_rate: float | None
    """Share of ``asked`` with a verdict."""
    greedy_wins: float | None
    """Share of the pairs whose chosen side is the greedy response."""
    first_wins: float | None
    """Share of the verdicts for the response read first. 0.5 is no position bias, where orders are
    random or both are asked."""
    inconsistent: float | None
    """Of the comparisons with a verdict in both orders, the share with different winners."""


def critic_report(records: Iterable[PreferencePair | Dropped]) -> CriticReport:
    """The report on SIMA's pairs and drops of a round."""
    records = list(records)
    comparisons = [opinions for opinions in map(_opinions, records) if opinions]
    asked = [opinion for opinions in comparisons for opinion in opinions]
    verdicts = [opinion["verdict"] for opinion in asked if opinion["verdict"] is not None]
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    winners = [[opinion["winner"] for opinion in opinions] for opinions in comparisons]
    twice = [sides for sides in winners if len(sides) == 2 and None not in sides]
    return CriticReport(
        compared=len(comparisons),
        asked=len(asked),
        pairs=len(pairs),
        verdict_rate=_share(len(verdicts), len(asked)),
        greedy_wins=_share(sum(pair.trace["greedy_won"] is True for pair in pairs), len(pairs)),
        first_wins=_share(verdicts.count(1), len(verdicts)),
        inconsistent=_share(sum(first != second for first, second in twice), len(twice)),
    )


def _opinions(record: PreferencePair | Dropped) -> Sequence[Mapping[str, Any]]:
    """The critic's opinions on a record; empty if it was not asked."""
    opinions = record.trace.get("critic")
    if not isinstance(opinions, list | tuple):
        return ()
    return [opinion for opinion in opinions if isinstance(opinion, Mapping)]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
