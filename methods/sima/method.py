"""SIMA: self-improvement by an in-context self-critic (Wang et al., arXiv 2405.15973).

The model gives a greedy and a sampled response to each question. The same model sees the ground
truth and says which response is better (chosen). Defaults follow the paper, and the released code
where the paper is silent. :meth:`Sima.as_released` follows the released code everywhere. PAPERS.md
lists the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

from methods.entry import SYNTHETIC_RECIPE, Entry
from methods.interface import (
    JSON,
    VLM,
    Decoding,
    Dropped,
    Field,
    Item,
    Lora,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Tools,
)
from methods.settings import AtLeastOne, above, at_least, at_most
from methods.sima import critic
from methods.sima.critic import Opinion, Order, Side, Verdict, other_side
from methods.sima.prompts import REAL, SYNTHETIC, SimaPrompts
from methods.sima.responses import Responses, respond

PUBLISHED = Recipe(
    lr=1e-7,
    epochs=3.0,
    global_batch=1,
    warmup=0.03,
    schedule="cosine",
    projector_lr=0.0,
    max_grad_norm=0.0,
    beta=0.1,
    lora=Lora(r=128, alpha=256, dropout=0.0),
)
"""The published training of LLaVA-1.5-7B. Where the paper is silent, it is what the released script
(``scripts/run_dpo.sh``) executes. The script asks for a projector rate of 2e-5 and a dropout of
0.05, but its trainer freezes the projector and disables dropout. Its DeepSpeed file sets no
clipping. One pair a step: one pair per GPU, and one A100 took 15 hours for the 51,000 visits."""
PUBLISHED_13B = replace(PUBLISHED, epochs=1.0)
"""LLaVA-1.5-13B: one epoch."""


@dataclass(frozen=True, kw_only=True)
class Sima(Method):
    """SIMA's settings. The token limits are those of the released code."""

    name: ClassVar[str] = "sima"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "reference"})

    prompts: SimaPrompts = REAL
    """Our wording of the critic; the authors' sentences can be read from a file."""
    samples: AtLeastOne = 1
    """Sampled responses, each compared with the greedy one; so the most pairs of a question. Paper
    (section 3.1): 1."""
    temperature: Annotated[float, above(0)] = 0.8
    """Of the samples; 0.8 in the released code."""
    top_p: Annotated[float, above(0), at_most(1)] = 0.9
    """Of the samples; 0.9 in the released code."""
    top_k: AtLeastOne | None = 50
    """Of the samples; 50 in the released code, as the library's default. None: any token."""
    keep_equal: bool = False
    """Whether equal responses are compared, too, as in the released code. DPO has no gradient
    there; ``rejected_from_argmax`` has one."""
    request_first: bool = False
    """Whether the critic's prompt begins with its request, and examples follow the criteria, as in
    the released code. Otherwise it begins with the examples."""
    order: Order = "random"
    """Which response the critic reads first: drawn by the pair's key, always the sample ("fixed",
    as released), or once each ("both", two questions)."""
    verdict: Verdict = "text"
    """Whether the critic writes its verdict ("text", as published) or the log-probabilities of both
    verdicts are compared ("margin")."""
    criteria: bool = True
    """Whether the critic's prompt states the criteria (section 3.2)."""
    examples: bool = True
    """Whether it has the two worked examples; they always show ground truths of their own."""
    ground_truth: bool = True
    """Whether it shows the ground truth."""
    least_margin: Annotated[float, at_least(0)] = 0.0
    """For "margin", in nats: a mean margin nearer to zero drops the pair. It is a threshold, not a
    share of the least certain pairs: a share would depend on which items share a call."""
    response_tokens: AtLeastOne = 1024
    """Token limit of a response."""
    critic_tokens: AtLeastOne = 4096
    """Token limit of the critic."""
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_margin and self.verdict != "margin":
            raise ValueError(
                'Sima.least_margin needs margins; set verdict="margin" or leave least_margin at 0.'
            )

    @classmethod
    def as_released(cls, **changes: Any) -> Sima:
        """All settings as in the released code (our wording, unless ``prompts`` is changed), then
        ``changes``."""
        released = cls(
            order="fixed",
            keep_equal=True,
            request_first=True,
            recipe=replace(PUBLISHED, objective="rejected_from_argmax"),
        )
        return replace(released, **changes)

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop per sample of each item, in the items' order.

        Raises:
            ValueError: an item has no question or no reference answer.
        """
        outcomes = respond(items, tools, self, keep_equal=self.keep_equal)
        comparisons = [outcome for outcome in outcomes if isinstance(outcome, Responses)]
        opinions = self._opinions(tools.vlm, comparisons)
        for outcome in outcomes:
            if isinstance(outcome, Responses):
                yield self._pair(outcome, opinions[outcome.key])
            else:
                yield outcome

    def _opinions(self, vlm: VLM, comparisons: Sequence[Responses]) -> dict[str, list[Opinion]]:
        """The critic's opinions on each comparison by its key, one per order; all are asked in one
        call."""
        scored = self.verdict == "margin"
        requests = [
            (responses, first)
            for responses in comparisons
            for first in critic.first_sides(responses.key, self.order)
        ]
        prompts = [
            Prompt(
                key=f"{responses.key}/critic/{first}",
                text=self._critic_prompt(responses, first),
                image=responses.item.image,
                prefix=self.prompts.verdict_lead if scored else "",
            )
            for responses, first in requests
        ]
        if not prompts:
            return {}
        answers: Sequence[str | float]
        if scored:
            scored_prompts = [prompt for prompt in prompts for _ in range(2)]
            logps = vlm.logps(scored_prompts, [critic.FIRST, critic.SECOND] * len(prompts))
            answers = [
                first_logp - second_logp
                for first_logp, second_logp in zip(logps[::2], logps[1::2], strict=True)
            ]
        else:
            completions = vlm.generate(prompts, Decoding(max_new_tokens=self.critic_tokens))
            answers = [answer.text for answer in completions]
        opinions: dict[str, list[Opinion]] = {}
        for (responses, first), prompt, answer in zip(requests, prompts, answers, strict=True):
            opinions.setdefault(responses.key, []).append(
                critic.opinion_from_answer(first, prompt.text, answer)
            )
        return opinions

    def _critic_prompt(self, responses: Responses, first: Side) -> str:
        """The critic's prompt; the ``first`` response is number 1."""
        texts = {"greedy": responses.greedy.text, "sample": responses.sample.text}
        return self.prompts.render(
            responses.question,
            responses.item.required("reference") if self.ground_truth else None,
            texts[first],
            texts[other_side(first)],
            criteria=self.criteria,
            examples=self.examples,
            request_first=self.request_first,
        )

    def report(self, records: Sequence[PreferencePair | Dropped]) -> Mapping[str, JSON]:
        """What the critic did in a round; see :class:`methods.sima.critic.CriticReport`."""
        return asdict(critic.critic_report(records))

    def _pair(self, responses: Responses, opinions: Sequence[Opinion]) -> PreferencePair | Dropped:
        """The pair of a comparison, or its drop; the trace holds every text and score."""
        decision = critic.decide(opinions, self.least_margin)
        winner = next((side for side in critic.SIDES if side == decision), None)
        trace: dict[str, JSON] = {
            **responses.trace(),
            "reference": responses.item.reference if self.ground_truth else None,
            "order": self.order,
            "critic": [opinion.as_json() for opinion in opinions],
            "margin": critic.mean_margin(opinions),
            "greedy_won": None if winner is None else winner == "greedy",
        }
        if winner is None:
            return Dropped(key=responses.key, item=responses.item.id, reason=decision, trace=trace)
        return chosen_pair(responses, winner, trace)


def chosen_pair(responses: Responses, winner: Side, trace: Mapping[str, JSON]) -> PreferencePair:
    """The pair with the winner chosen and the other response rejected."""
    texts = {"greedy": responses.greedy.text.strip(), "sample": responses.sample.text.strip()}
    return PreferencePair(
        key=responses.key,
        item=responses.item.id,
        prompt=responses.question,
        chosen=texts[winner],
        rejected=texts[other_side(winner)],
        trace=trace,
    )


ENTRY = Entry(
    published=Sima(),
    synthetic=Sima(
        prompts=SYNTHETIC,
        top_k=None,
        order="both",
        verdict="margin",
        least_margin=1.0,
        response_tokens=96,
        critic_tokens=8,
        recipe=SYNTHETIC_RECIPE,
    ),
    images=17000,
    rounds=1,
    published_13b=PUBLISHED_13B,
    seconds_per_image=0.050,  # two answers and a critic
)
