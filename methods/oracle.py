"""SIMA's responses chosen by exact truth in place of the critic: the upper bound of choosing
between a model's own answers.

It is no method: it sees the truth. Its distance to SIMA (arXiv 2405.15973) is what a better critic
could give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from methods.interface import JSON, VLM, Dropped, Field, Item, Judge, PreferencePair, Recipe, Scorer
from methods.sima.method import PUBLISHED, chosen_pair
from methods.sima.responses import Responses, Sampling, respond

TIE = "equally wrong"


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """The settings that draw the responses, as in :class:`methods.sima.method.Sima`: equal settings
    draw equal responses."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "judge"})
    bound: ClassVar[bool] = True  # no method: what is to be had at best

    samples: int = 1
    temperature: float = 0.8
    top_p: float = 0.9
    response_tokens: int = 1024
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        self._sampling.check("Oracle")

    @property
    def _sampling(self) -> Sampling:
        return Sampling(
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.response_tokens,
        )

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,  # noqa: ARG002 - of the protocol
        judge: Judge | None = None,
    ) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop for each sample of each item, in the items' order; responses with
        equally many errors are a drop.

        Raises:
            ValueError: there is no judge, or an item has no question.
        """
        if judge is None:
            raise ValueError(
                "Oracle needs a judge of exact truth; give a pool that has one, such as world."
            )
        for one in respond(vlm, items, seed, self._sampling):
            yield one if isinstance(one, Dropped) else _pair(one, judge)


def _pair(responses: Responses, judge: Judge) -> PreferencePair | Dropped:
    greedy, sample = judge.errors(responses.item.id, [responses.greedy.text, responses.sample.text])
    trace: dict[str, JSON] = {
        **responses.trace(),
        "errors": {"greedy": greedy, "sample": sample},
        "greedy_won": None if greedy == sample else greedy < sample,
    }
    if greedy == sample:
        return Dropped(key=responses.key, item=responses.item.id, reason=TIE, trace=trace)
    return chosen_pair(responses, "greedy" if greedy < sample else "sample", trace)
