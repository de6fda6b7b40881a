"""What supervision buys: DPO with the ground truth chosen and the model's own greedy answer
rejected.

It is the "GT-DPO" that SIMA compares itself with (arXiv 2405.15973), and a bound, not a method of
self-improvement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from methods.interface import (
    JSON,
    VLM,
    Decoding,
    Dropped,
    Field,
    Item,
    Judge,
    PreferencePair,
    Prompt,
    Recipe,
    Scorer,
)
from methods.sima.method import PUBLISHED
from methods.sima.responses import EMPTY, check_tokens, question, reference, same_text, told

EQUAL = "answer equals the truth"


@dataclass(frozen=True, kw_only=True)
class GtDpo:
    """``answer_tokens``: the greedy answer's limit. The recipe is SIMA's published one: the two
    differ in the pairs alone."""

    name: ClassVar[str] = "gt_dpo"
    needs: ClassVar[frozenset[Field]] = frozenset({"image", "question", "reference"})
    bound: ClassVar[bool] = True  # no method: what is to be had at best

    answer_tokens: int = 1024
    recipe: Recipe = PUBLISHED

    def __post_init__(self) -> None:
        check_tokens("GtDpo.answer_tokens", self.answer_tokens)

    def pairs(
        self,
        vlm: VLM,
        items: Sequence[Item],
        seed: int,
        *,
        scorer: Scorer | None = None,  # noqa: ARG002 - of the protocol
        judge: Judge | None = None,  # noqa: ARG002
    ) -> Iterator[PreferencePair | Dropped]:
        """One pair or one drop an item, in the items' order.

        Raises:
            ValueError: an item has no question or no reference answer.
        """
        prompts = [
            Prompt(key=f"{seed}/{item.id}/greedy", text=question(item), image=item.image)
            for item in items
        ]
        truths = [reference(item).strip() for item in items]
        answers = (
            vlm.generate(prompts, Decoding(max_new_tokens=self.answer_tokens)) if prompts else []
        )
        for item, truth, answer in zip(items, truths, answers, strict=True):
            key, own = f"{seed}/{item.id}/truth", answer.text.strip()
            trace: dict[str, JSON] = {
                "seed": seed,
                "question": item.question,
                "reference": truth,
                "answer": told(answer),
            }
            if not own or same_text(own, truth):
                yield Dropped(key=key, item=item.id, reason=EQUAL if own else EMPTY, trace=trace)
            else:
                yield PreferencePair(
                    key=key,
                    item=item.id,
                    prompt=question(item),
                    chosen=truth,
                    rejected=own,
                    trace=trace,
                )
