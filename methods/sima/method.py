"""SIMA: self-improvement by an in-context self-critic (Wang et al., arXiv 2405.15973).

To each prompt the model gives a greedy and a sampled response; the same model, shown the ground
truth, says which is better (chosen). Defaults follow the paper, and the released code where the
paper is silent; :meth:`Sima.as_released` does all that the released code does. PAPERS.md lists the
differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, get_args

from methods.interface import (
    JSON,
    VLM,
    Dropped,
    Field,
    Item,
    Judge,
    Lora,
    PreferencePair,
    Recipe,
    Scorer,
)
from methods.sima.critic import Critic, Opinion, Order, Side, Verdict, decide, mean_margin, other
from methods.sima.prompts import REAL, SimaPrompts
from methods.sima.report import critic_report
from methods.sima.responses import Responses, Sampling, check_tokens, respond

PUBLISHED = Recipe(
    lr=1e-7,
    epochs=3.0,
    global_batch=8,
    warmup=0.03,
    schedule="cosine",
    projector_lr=2e-5,
    beta=0.1,
    lora=Lora(r=128, alpha=256, dropout=0.05),
)
"""The published training of LLaVA-1.5-7B (13B: one epoch). One pair a GPU; eight GPUs, as the
released scripts use elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Sima:
    """SIMA's settings.

    ``samples`` at ``temperature`` and ``top_p``: each is compared with the greedy response, so
    there are as many pairs a prompt at most. ``order``: which response the critic reads first -
    drawn by the pair's key, the sample always ("fixed", as released), or "both" (asked twice).
    ``verdict``: the critic writes it ("text") or is scored on it ("margin").
    ``criteria``, ``examples`` and ``ground_truth``: whether the critic's prompt has them; the
    examples show ground truths of their own always. ``least_margin`` (nats, of "margin"): a mean
    margin nearer to zero drops the pair. It is a threshold and not a share of the least certain, as
    a share would depend on which items share a call. The token limits are those of the released
    code."""

    name: ClassVar[str] = "sima"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "reference"})

    prompts: SimaPrompts = REAL
    samples: int = 1
    temperature: float = 0.8
    top_p: float = 0.9
    order: Order = "random"
    verdict: Verdict = "text"
    criteria: bool = True
    examples: bool = True
    ground_truth: bool = True
    least_margin: float = 0.0
    response_tokens: int = 1024
    critic_tokens: int = 4096
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        for name, allowed in (("order", Order), ("verdict", Verdict)):
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(map(repr, get_args(allowed)))
                raise ValueError(
                    f"Sima.{name} is {getattr(self, name)!r}; choose one of {choices}."
                )
        for name in ("criteria", "examples", "ground_truth"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"Sima.{name} is {getattr(self, name)!r}; it must be True or False."
                )
        if not self.least_margin >= 0:
            raise ValueError(
                f"Sima.least_margin is {self.least_margin!r} nats; it must be 0 or above."
            )
        if self.least_margin and self.verdict != "margin":
            raise ValueError(
                'Sima.least_margin needs margins; set verdict="margin" or leave least_margin at 0.'
            )
        self._sampling.check("Sima")
        check_tokens("Sima.critic_tokens", self.critic_tokens)

    @classmethod
    def as_released(cls, **changes: Any) -> Sima:
        """Every setting as the released code has it (in our wording, unless ``prompts`` is
        changed), then ``changes``."""
        return replace(
            cls(order="fixed", recipe=replace(PUBLISHED, objective="rejected_from_argmax")),
            **changes,
        )

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
        scorer: Scorer | None = None,  # noqa: ARG002 - of the protocol; SIMA needs none
        judge: Judge | None = None,  # noqa: ARG002
    ) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop for each sample of each item, in the items' order.

        Raises:
            ValueError: an item has no question or no reference answer.
        """
        made = respond(vlm, items, seed, self._sampling)
        critic = Critic(
            prompts=self.prompts,
            order=self.order,
            verdict=self.verdict,
            criteria=self.criteria,
            examples=self.examples,
            ground_truth=self.ground_truth,
            max_new_tokens=self.critic_tokens,
        )
        opinions = iter(critic.opinions(vlm, [one for one in made if isinstance(one, Responses)]))
        for one in made:
            yield one if isinstance(one, Dropped) else self._pair(one, next(opinions))

    def report(self, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, JSON]:
        """What the critic did in a round: verdict rate, greedy wins, position bias
        (:class:`CriticReport`)."""
        return asdict(critic_report(records))

    def _pair(self, responses: Responses, opinions: Sequence[Opinion]) -> PreferencePair | Dropped:
        """The pair of a comparison, or its drop, with every text and score on the way in the
        trace."""
        decided = decide(opinions, self.least_margin)
        winner: Side | None = (
            "greedy" if decided == "greedy" else "sample" if decided == "sample" else None
        )
        trace: dict[str, JSON] = {
            **responses.trace(),
            "reference": responses.item.reference if self.ground_truth else None,
            "order": self.order,
            "critic": [opinion.as_json() for opinion in opinions],
            "margin": mean_margin(opinions),
            "greedy_won": None if winner is None else winner == "greedy",
        }
        if winner is None:
            return Dropped(key=responses.key, item=responses.item.id, reason=decided, trace=trace)
        return chosen_pair(responses, winner, trace)


def chosen_pair(responses: Responses, winner: Side, trace: Mapping[str, JSON]) -> PreferencePair:
    """The winner's text chosen, the other's rejected, behind the item's own question."""
    texts = {"greedy": responses.greedy.text.strip(), "sample": responses.sample.text.strip()}
    return PreferencePair(
        key=responses.key,
        item=responses.item.id,
        prompt=responses.question,
        chosen=texts[winner],
        rejected=texts[other(winner)],
        trace=trace,
    )
