"""Controls: a method's own pairs with one thing taken from them, to see that the gain came from
that thing.

``shuffled``: is it the preference? ``random_rejected``: is it the rejected answer, or any other
would do? ``sft``: is it the contrast, or imitation of the chosen answers alone?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from methods.interface import (
    JSON,
    VLM,
    Dropped,
    Field,
    Item,
    Judge,
    Method,
    PreferencePair,
    Recipe,
    Scorer,
)
from methods.keys import coin, number

Kind = Literal["shuffled", "random_rejected", "sft"]

NO_OTHER = "no other pair's rejected answer"


@dataclass(frozen=True, kw_only=True)
class Control:
    """``inner`` makes the pairs; :meth:`rework` spoils them once the round's are all there ("sft"
    leaves them as they are and trains on the chosen side alone). The name says both, and what the
    control needs is what its inner method needs."""

    name: ClassVar[str] = "control"
    needs: ClassVar[frozenset[Field]] = frozenset()

    inner: Method
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"Control.kind is {self.kind!r}; choose one of"
                f" {', '.join(map(repr, get_args(Kind)))}."
            )
        if self.inner.recipe is None:
            raise ValueError(
                f"{self.inner.name} trains nothing, so it has no control; give a method that makes"
                " pairs."
            )
        # The protocol reads both from the class; a control's are those of one instance.
        object.__setattr__(self, "name", f"{self.inner.name} {self.kind.replace('_', ' ')}")
        object.__setattr__(self, "needs", self.inner.needs)

    @property
    def recipe(self) -> Recipe:
        """The inner method's, trained by imitation where the control is "sft"."""
        assert self.inner.recipe is not None  # refused above
        return (
            replace(self.inner.recipe, objective="sft") if self.kind == "sft" else self.inner.recipe
        )

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,
        judge: Judge | None = None,
    ) -> Iterator[PreferencePair | Dropped]:
        """The inner method's pairs and drops, untouched: what another pair is known only when the
        round's are all there."""
        yield from self.inner.pairs(vlm, items, seed, scorer=scorer, judge=judge)

    def rework(self, pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair | Dropped]:
        """A round's pairs as this control trains on them, in their order; their own keys, items,
        kinds and prompts stay."""
        if self.kind == "shuffled":
            return [_shuffled(pair, seed) for pair in pairs]
        return random_rejected(pairs, seed) if self.kind == "random_rejected" else list(pairs)


def _shuffled(pair: PreferencePair, seed: int) -> PreferencePair:
    """The pair, or with chosen and rejected swapped, by a coin of its key. An anchored pair then
    anchors what is chosen now."""
    swapped = coin(f"{seed}/shuffled/{pair.key}")
    sides = (pair.rejected, pair.chosen) if swapped else (pair.chosen, pair.rejected)
    return replace(
        pair,
        chosen=sides[0],
        rejected=sides[1],
        trace=_noted(pair, {"kind": "shuffled", "swapped": swapped}),
    )


def random_rejected(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair | Dropped]:
    """Each pair with the rejected answer of another of its kind.

    Pairs of a kind stand in a circle in an order drawn from the seed; each takes the rejected
    answer of the next one that is about another item and does not equal its own chosen answer, so
    nearly all answers are used once. A pair without such a one is a drop."""
    circles: dict[str, list[PreferencePair]] = {}
    for pair in sorted(pairs, key=lambda pair: number(f"{seed}/random rejected/{pair.key}")):
        circles.setdefault(pair.kind, []).append(pair)
    given: dict[str, PreferencePair | None] = {}
    for circle in circles.values():
        for place, pair in enumerate(circle):
            others = (circle[(place + step) % len(circle)] for step in range(1, len(circle)))
            fit = (
                other
                for other in others
                if other.item != pair.item and other.rejected != pair.chosen
            )
            given[pair.key] = next(fit, None)
    return [_with_rejected(pair, given[pair.key]) for pair in pairs]


def _with_rejected(pair: PreferencePair, other: PreferencePair | None) -> PreferencePair | Dropped:
    if other is None:
        return Dropped(
            key=pair.key, item=pair.item, reason=NO_OTHER, kind=pair.kind, trace=pair.trace
        )
    note: JSON = {"kind": "random_rejected", "from": other.key, "own_rejected": pair.rejected}
    return replace(pair, rejected=other.rejected, trace=_noted(pair, note))


def _noted(pair: PreferencePair, note: JSON) -> Mapping[str, JSON]:
    return {**pair.trace, "control": note}
