"""Oracle: SIMA's own responses, chosen by exact truth instead of by the critic.

It is a reference, not a method: it sees the truth. It is the upper bound of choosing between a
model's own answers; its distance to SIMA (Wang et al., arXiv 2405.15973) is what a better critic
could gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from methods.entry import SYNTHETIC_RECIPE, Entry
from methods.interface import (
    JSON,
    Dropped,
    Field,
    GroundTruth,
    Item,
    Method,
    PreferencePair,
    Recipe,
    Tools,
)
from methods.settings import AtLeastOne, above, at_most
from methods.sima.method import PUBLISHED, PUBLISHED_13B, chosen_pair
from methods.sima.responses import Responses, respond

TIE = "equally wrong"


@dataclass(frozen=True, kw_only=True)
class Oracle(Method):
    """The settings that draw responses, as in :class:`methods.sima.method.Sima`: equal settings
    draw equal responses."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "ground_truth"})
    role: ClassVar[Literal["reference"]] = "reference"

    samples: AtLeastOne = 1
    """Sampled responses, each compared with the greedy one."""
    temperature: Annotated[float, above(0)] = 0.8
    top_p: Annotated[float, above(0), at_most(1)] = 0.9
    top_k: AtLeastOne | None = 50
    """Of the samples, as SIMA's; None: any token."""
    response_tokens: AtLeastOne = 1024
    """Token limit of a response."""
    recipe: Recipe = PUBLISHED

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop per sample of each item, in the items' order. Responses with equally
        many errors are a drop.

        Raises:
            ValueError: there is no ground truth, or an item has no question.
        """
        if tools.ground_truth is None:
            raise ValueError(
                "Oracle needs the exact ground truth; give a pool that has it, such as synthetic."
            )
        outcomes = respond(
            items,
            tools,
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_new_tokens=self.response_tokens,
        )
        for outcome in outcomes:
            if isinstance(outcome, Responses):
                yield _pair(outcome, tools.ground_truth)
            else:
                yield outcome


def _pair(responses: Responses, truth: GroundTruth) -> PreferencePair | Dropped:
    texts = [responses.greedy.text, responses.sample.text]
    greedy, sample = truth.errors(responses.item.id, texts)
    trace: dict[str, JSON] = {
        **responses.trace(),
        "errors": {"greedy": greedy, "sample": sample},
        "greedy_won": None if greedy == sample else greedy < sample,
    }
    if greedy == sample:
        return Dropped(key=responses.key, item=responses.item.id, reason=TIE, trace=trace)
    return chosen_pair(responses, "greedy" if greedy < sample else "sample", trace)


ENTRY = Entry(
    published=Oracle(),
    published_13b=PUBLISHED_13B,
    synthetic=Oracle(top_k=None, response_tokens=96, recipe=SYNTHETIC_RECIPE),
)
