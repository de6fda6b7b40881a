"""Controls: a method's own pairs with one thing removed, to test whether the gain came from it.

``shuffled`` removes the preference. ``random_rejected`` replaces the rejected answer by that of
another pair. ``sft`` removes the contrast: it imitates the chosen answers alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from methods.interface import JSON, Dropped, Field, Item, Method, PreferencePair, Recipe, Tools
from methods.keys import coin_flip, key_hash

Kind = Literal["shuffled", "random_rejected", "sft"]

NO_OTHER = "no other pair's rejected answer"


@dataclass(frozen=True, kw_only=True)
class Control(Method):
    """``inner`` makes the pairs; :meth:`rework` changes them when all pairs of a round are there.
    Name, needs, scorer and report follow the inner method."""

    name: ClassVar[str] = "control"
    needs: ClassVar[frozenset[Field]] = frozenset()

    inner: Method
    """The method with its settings."""
    kind: Kind
    """What is removed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner.recipe is None:
            raise ValueError(
                f"{self.inner.name} trains nothing, so it has no control; give a method that makes"
                " pairs."
            )
        # In the protocol both belong to the class; a control has them per instance.
        object.__setattr__(self, "name", f"{self.inner.name} {self.kind.replace('_', ' ')}")
        object.__setattr__(self, "needs", self.inner.needs)

    @property
    def recipe(self) -> Recipe:
        """The inner method's; with the objective "sft" for that control."""
        assert self.inner.recipe is not None  # refused above
        recipe = self.inner.recipe
        return replace(recipe, objective="sft") if self.kind == "sft" else recipe

    @property
    def scorer(self) -> str | None:
        return self.inner.scorer

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """The inner method's pairs and drops, unchanged."""
        yield from self.inner.pairs(items, tools)

    def report(self, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, JSON]:
        """The inner method's report on its own pairs and drops."""
        return self.inner.report(records)

    def rework(self, pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair | Dropped]:
        """All pairs of a round as this control trains on them, in the same order. Keys, items,
        kinds and prompts stay."""
        if self.kind == "shuffled":
            return [_shuffle_preference(pair, seed) for pair in pairs]
        return random_rejected(pairs, seed) if self.kind == "random_rejected" else list(pairs)


def _shuffle_preference(pair: PreferencePair, seed: int) -> PreferencePair:
    """Chosen and rejected swapped by a coin of the pair's key. SENA's alignment term of an aligned
    pair then acts on the answer that is chosen now."""
    swapped = coin_flip(f"{seed}/shuffled/{pair.key}")
    chosen, rejected = (pair.rejected, pair.chosen) if swapped else (pair.chosen, pair.rejected)
    note: JSON = {"kind": "shuffled", "swapped": swapped}
    trace = {**pair.trace, "control": note}
    return replace(pair, chosen=chosen, rejected=rejected, trace=trace)


def random_rejected(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair | Dropped]:
    """Each pair with the rejected answer of another pair of its kind.

    The pairs of a kind form a circle, in an order drawn from the seed. Each pair takes the rejected
    answer of the next pair that is about another item and whose answer differs from its own chosen
    one; so nearly every answer is used once. A pair without such a partner is dropped."""
    circles: defaultdict[str, list[PreferencePair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: key_hash(f"{seed}/random rejected/{pair.key}")):
        circles[pair.kind].append(pair)
    partners: dict[str, PreferencePair] = {}
    for circle in circles.values():
        for index, pair in enumerate(circle):
            candidates = (
                circle[(index + offset) % len(circle)] for offset in range(1, len(circle))
            )
            for other in candidates:
                if other.item != pair.item and other.rejected != pair.chosen:
                    partners[pair.key] = other
                    break
    return [_with_rejected(pair, partners.get(pair.key)) for pair in pairs]


def _with_rejected(
    pair: PreferencePair, partner: PreferencePair | None
) -> PreferencePair | Dropped:
    if partner is None:
        return Dropped(
            key=pair.key, item=pair.item, reason=NO_OTHER, kind=pair.kind, trace=pair.trace
        )
    note: JSON = {"kind": "random_rejected", "from": partner.key, "own_rejected": pair.rejected}
    return replace(pair, rejected=partner.rejected, trace={**pair.trace, "control": note})
