"""Reference rows: they see the truth, which no method of self-improvement does.

GT-DPO shows what supervision gives: the ground truth is chosen, the model's own greedy answer
rejected. SIMA compares itself with it under this name (Wang et al., arXiv 2405.15973). The oracle
is the upper bound of choosing between a model's own answers: SIMA's responses, chosen by exact
truth. Its distance to SIMA is what a better critic could gain."""

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
from methods.sima.responses import EMPTY, Responses, greedy_answers, respond, same_text

EQUAL = "answer equals the truth"
TIE = "equally wrong"


@dataclass(frozen=True, kw_only=True)
class GtDpo(Method):
    """It differs from SIMA in the pairs alone, so it has SIMA's published recipe."""

    name: ClassVar[str] = "gt_dpo"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "reference"})
    role: ClassVar[Literal["reference"]] = "reference"

    answer_tokens: AtLeastOne = 1024
    """Token limit of the greedy answer; as SIMA's responses."""
    recipe: Recipe = PUBLISHED

    def pairs(self, items: Sequence[Item], tools: Tools) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop per item, in the items' order.

        Raises:
            ValueError: an item has no question or no reference answer.
        """
        questions = [item.required("question") for item in items]
        truths = [item.required("reference").strip() for item in items]
        answers = greedy_answers(items, tools.vlm, tools.seed, self.answer_tokens)
        for item, question, truth, answer in zip(items, questions, truths, answers, strict=True):
            key, own_text = f"{tools.seed}/{item.id}/truth", answer.text.strip()
            trace: dict[str, JSON] = {
                "seed": tools.seed,
                "question": question,
                "reference": truth,
                "answer": answer.as_json(),
            }
            if not own_text or same_text(own_text, truth):
                yield Dropped(
                    key=key, item=item.id, reason=EQUAL if own_text else EMPTY, trace=trace
                )
            else:
                yield PreferencePair(
                    key=key,
                    item=item.id,
                    prompt=question,
                    chosen=truth,
                    rejected=own_text,
                    trace=trace,
                )


@dataclass(frozen=True, kw_only=True)
class Oracle(Method):
    """It draws responses as :class:`methods.sima.method.Sima`: equal settings, equal responses."""

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
        for outcome in respond(items, tools, self):
            if isinstance(outcome, Responses):
                yield _choose_truer(outcome, tools.ground_truth)
            else:
                yield outcome


def _choose_truer(responses: Responses, truth: GroundTruth) -> PreferencePair | Dropped:
    """The pair with the response of fewer errors chosen, or its drop."""
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


GT_DPO = Entry(
    published=GtDpo(),
    synthetic=GtDpo(answer_tokens=96, recipe=SYNTHETIC_RECIPE),
    published_13b=PUBLISHED_13B,
    seconds_per_image=0.020,  # one answer
)

ORACLE = Entry(
    published=Oracle(),
    published_13b=PUBLISHED_13B,
    synthetic=Oracle(top_k=None, response_tokens=96, recipe=SYNTHETIC_RECIPE),
)
