"""Statistics of a round's pairs, by kind: their lengths and, where the pool has the exact truth,
which side is better.

A preference that the truth contradicts teaches the wrong thing; a chosen side that is only shorter
teaches brevity. Both can be seen here before any training."""

from __future__ import annotations

from collections.abc import Sequence

from methods.interface import JSON, GroundTruth, PreferencePair


def pair_stats(
    pairs: Sequence[PreferencePair], judge: GroundTruth | None
) -> dict[str, dict[str, JSON]]:
    """A row a kind of pair.

    ``pairs``; mean words of both sides (``chosen_words``, ``rejected_words``) and the share of
    pairs whose chosen side is shorter (``chosen_shorter``). With a judge: mean errors a side
    (``chosen_errors``, ``rejected_errors``), pairs whose sides differ in errors (``judged``) and
    the share of these whose chosen side has fewer (``right``; None where none differs)."""
    return {
        kind: _row([pair for pair in pairs if pair.kind == kind], judge)
        for kind in sorted({pair.kind for pair in pairs})
    }


def _row(pairs: Sequence[PreferencePair], judge: GroundTruth | None) -> dict[str, JSON]:
    words = [(len(pair.chosen.split()), len(pair.rejected.split())) for pair in pairs]
    row: dict[str, JSON] = {
        "pairs": len(pairs),
        "chosen_words": _mean([chosen for chosen, _ in words]),
        "rejected_words": _mean([rejected for _, rejected in words]),
        "chosen_shorter": _mean([chosen < rejected for chosen, rejected in words]),
    }
    if judge is None:
        return row
    errors = [judge.errors(pair.item, [pair.chosen, pair.rejected]) for pair in pairs]
    differ = [chosen < rejected for chosen, rejected in errors if chosen != rejected]
    return row | {
        "chosen_errors": _mean([chosen for chosen, _ in errors]),
        "rejected_errors": _mean([rejected for _, rejected in errors]),
        "judged": len(differ),
        "right": _mean(differ) if differ else None,
    }


def _mean(numbers: Sequence[float]) -> float:
    return round(sum(numbers) / len(numbers), 4)
