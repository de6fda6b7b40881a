"""What SIMA's critic did, from pairs and drops alone; and how often it was right, where exact truth
exists.

The paper reports 89.8 % agreement with people with the criteria in the prompt and 78.2 % without
(arXiv 2405.15973)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.interface import Dropped, Judge, PreferencePair


@dataclass(frozen=True, kw_only=True)
class CriticReport:
    """``compared``: responses that were put to the critic; ``asked``: how often it was asked (twice
    a comparison in both orders).

    ``verdict_rate``: of what was asked, the share with a verdict. ``greedy_wins``: of the pairs,
    the share whose chosen side is the greedy response. ``first_wins``: of the verdicts, the share
    for the response read first (0.5 is no position bias, where orders are random or both).
    ``inconsistent``: of comparisons with a verdict in both orders, the share that names a different
    response in each. Shares are None where there is nothing to divide by."""

    compared: int
    asked: int
    pairs: int
    verdict_rate: float | None
    greedy_wins: float | None
    first_wins: float | None
    inconsistent: float | None


def critic_report(records: Iterable[PreferencePair | Dropped]) -> CriticReport:
    """The report over SIMA's pairs and drops."""
    records = list(records)
    heard = [opinions for opinions in map(_opinions, records) if opinions]
    asked = [opinion for opinions in heard for opinion in opinions]
    verdicts = [opinion["verdict"] for opinion in asked if opinion["verdict"] is not None]
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    twice = [[one["winner"] for one in opinions] for opinions in heard if len(opinions) == 2]
    both = [winners for winners in twice if None not in winners]
    return CriticReport(
        compared=len(heard),
        asked=len(asked),
        pairs=len(pairs),
        verdict_rate=_share(len(verdicts), len(asked)),
        greedy_wins=_share(sum(pair.trace["greedy_won"] is True for pair in pairs), len(pairs)),
        first_wins=_share(verdicts.count(1), len(verdicts)),
        inconsistent=_share(sum(one != two for one, two in both), len(both)),
    )


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Pairs whose two sides differ in exact errors (``judged``), those whose chosen side has fewer
    (``right``), and ``ties``."""

    judged: int
    right: int
    ties: int

    @property
    def share(self) -> float | None:
        """Right of judged; None without a judged pair."""
        return _share(self.right, self.judged)


def accuracy(records: Iterable[PreferencePair | Dropped], judge: Judge) -> Accuracy:
    """How often the chosen side of a pair is truly better; drops are no verdicts and do not
    count."""
    judged = right = ties = 0
    for pair in records:
        if isinstance(pair, PreferencePair):
            chosen, rejected = judge.errors(pair.item, [pair.chosen, pair.rejected])
            ties += chosen == rejected
            judged += chosen != rejected
            right += chosen < rejected
    return Accuracy(judged=judged, right=right, ties=ties)


def _opinions(record: PreferencePair | Dropped) -> Sequence[Mapping[str, Any]]:
    """What the critic said of a record; empty where it was not asked."""
    return list(_mappings(record.trace.get("critic")))


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    for one in value if isinstance(value, list | tuple) else ():
        if isinstance(one, Mapping):
            yield one


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
