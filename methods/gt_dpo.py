"""GT-DPO: the ground truth is chosen, the model's own greedy answer rejected.

SIMA compares itself with it under this name (Wang et al., arXiv 2405.15973). It is a reference, not
a method of self-improvement: it shows what supervision gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from methods.entry import SYNTHETIC_RECIPE, Entry
from methods.interface import (
    JSON,
    Decoding,
    Dropped,
    Field,
    Item,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Tools,
)
from methods.settings import AtLeastOne
from methods.sima.method import PUBLISHED, PUBLISHED_13B
from methods.sima.responses import EMPTY, same_text

EQUAL = "answer equals the truth"


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
        prompts = [
            Prompt(key=f"{tools.seed}/{item.id}/greedy", text=question, image=item.image)
            for item, question in zip(items, questions, strict=True)
        ]
        decoding = Decoding(max_new_tokens=self.answer_tokens)
        answers = tools.vlm.generate(prompts, decoding) if prompts else []
        for item, question, truth, answer in zip(items, questions, truths, answers, strict=True):
            key, own = f"{tools.seed}/{item.id}/truth", answer.text.strip()
            trace: dict[str, JSON] = {
                "seed": tools.seed,
                "question": question,
                "reference": truth,
                "answer": answer.as_json(),
            }
            if not own or same_text(own, truth):
                yield Dropped(key=key, item=item.id, reason=EQUAL if own else EMPTY, trace=trace)
            else:
                yield PreferencePair(
                    key=key,
                    item=item.id,
                    prompt=question,
                    chosen=truth,
                    rejected=own,
                    trace=trace,
                )


ENTRY = Entry(
    published=GtDpo(),
    synthetic=GtDpo(answer_tokens=96, recipe=SYNTHETIC_RECIPE),
    published_13b=PUBLISHED_13B,
    seconds_per_image=0.020,  # one answer
)
