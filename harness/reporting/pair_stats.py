"""Statistics of a round's pairs by kind: lengths of both sides and, where the pool has the exact
truth, their errors.

The truth counts errors of descriptions: a thing left out is one. It cannot count those of a short
answer to a question, so pairs of the kind "question" are not judged.

They show two faults before training: pairs whose chosen side has more errors than the rejected one,
and pairs whose chosen side is merely shorter."""

from __future__ import annotations

from collections.abc import Sequence

from methods.interface import JSON, GroundTruth, PreferencePair

SHORT_ANSWERS = "question"
"""The kind of SENA's pairs whose answers are a single word or phrase."""


def pair_stats(
    pairs: Sequence[PreferencePair], ground_truth: GroundTruth | None
) -> dict[str, dict[str, JSON]]:
    """The statistics by kind of pair: the number of ``pairs``; mean words of both sides
    (``chosen_words``, ``rejected_words``); the share of pairs whose chosen side is shorter
    (``chosen_shorter``). With ``ground_truth`` and for descriptions: mean errors of both sides
    (``chosen_errors``, ``rejected_errors``); the number of pairs whose sides differ in errors
    (``judged``); the share of these whose chosen side has fewer (``right``; None: none differs)."""
    return {
        kind: _of_kind(
            [pair for pair in pairs if pair.kind == kind],
            None if kind == SHORT_ANSWERS else ground_truth,
        )
        for kind in sorted({pair.kind for pair in pairs})
    }


def _of_kind(pairs: Sequence[PreferencePair], ground_truth: GroundTruth | None) -> dict[str, JSON]:
    words = [(len(pair.chosen.split()), len(pair.rejected.split())) for pair in pairs]
    stats: dict[str, JSON] = {
        "pairs": len(pairs),
        "chosen_words": _mean([chosen for chosen, _ in words]),
        "rejected_words": _mean([rejected for _, rejected in words]),
        "chosen_shorter": _mean([chosen < rejected for chosen, rejected in words]),
    }
    if ground_truth is None:
        return stats
    errors = [ground_truth.errors(pair.item, [pair.chosen, pair.rejected]) for pair in pairs]
    differ = [chosen < rejected for chosen, rejected in errors if chosen != rejected]
    return stats | {
        "chosen_errors": _mean([chosen for chosen, _ in errors]),
        "rejected_errors": _mean([rejected for _, rejected in errors]),
        "judged": len(differ),
        "right": _mean(differ) if differ else None,
    }


def _mean(numbers: Sequence[float]) -> float:
    return round(sum(numbers) / len(numbers), 4)
