"""Rejected against chosen answers: the numbers by which a noise step is chosen on development
images.

Rejected answers must be wrong but well-formed: too little noise leaves them equal to the chosen
ones, too much makes them fall apart, which shows in their length first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from methods.interface import Dropped, PreferencePair
from methods.sena.filters import EQUAL
from methods.text import tokens


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Over all prompts of a kind that were answered twice, filtered or not: their number, the mean
    length of both sides in words and marks, the rejected side's length relative to the chosen
    one's, and the shares of equal answers, of pairs kept and of answers the enhancement
    replaced."""

    answered: int
    chosen_words: float
    rejected_words: float
    length_ratio: float
    equal: float
    kept: float
    enhanced: float


def contrast(records: Iterable[PreferencePair | Dropped]) -> dict[str, Contrast]:
    """The contrast of SENA's pairs and drops by kind; a kind without an answered prompt is left
    out."""
    sides: dict[str, list[tuple[str, str, PreferencePair | Dropped]]] = {}
    for record in records:
        texts = _sides(record)
        if texts is not None:
            sides.setdefault(record.kind, []).append((*texts, record))
    found = {}
    for kind, rows in sides.items():
        n = len(rows)
        chosen = sum(len(tokens(text)) for text, _, _ in rows) / n
        rejected = sum(len(tokens(text)) for _, text, _ in rows) / n
        found[kind] = Contrast(
            answered=n,
            chosen_words=chosen,
            rejected_words=rejected,
            length_ratio=rejected / chosen if chosen else 0.0,
            equal=sum(
                isinstance(record, Dropped) and record.reason == EQUAL for _, _, record in rows
            )
            / n,
            kept=sum(isinstance(record, PreferencePair) for _, _, record in rows) / n,
            enhanced=sum(record.trace.get("enhancement_used") is True for _, _, record in rows) / n,
        )
    return found


def _sides(record: PreferencePair | Dropped) -> tuple[str, str] | None:
    """(chosen, rejected) as texts; None for a prompt that was lost before it was answered."""
    if isinstance(record, PreferencePair):
        return record.chosen, record.rejected
    chosen, rejected = record.trace.get("chosen"), record.trace.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, Mapping):
        return None
    return chosen, str(rejected["text"]).strip()
