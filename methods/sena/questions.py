"""SENA's first step, image-driven self-questioning (Tan et al., arXiv 2412.15650): the model asks a
question about an image and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from methods.interface import VLM, Decoding, Item, Prompt
from methods.prompt_sets import fill
from methods.sena.prompts import SenaPrompts
from methods.text import after_lead, sentences

Check = Literal["seen", "blind", "none"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions about one item."""

    item: Item
    asked: str
    """The model's first text."""
    checked: str | None
    """Its text after the check; None without a check."""
    questions: tuple[str, ...]
    """The questions read from the last text."""


def ask_questions(
    vlm: VLM,
    items: Sequence[Item],
    seed: int,
    *,
    prompts: SenaPrompts,
    check: Check,
    question_tokens: int,
    check_tokens: int,
) -> list[Asked]:
    """Ask for a question about each image, then let the model keep or replace it.

    ``check``: "seen" shows the image again, "blind" does not (as released), "none" skips the
    check."""
    asks = [
        Prompt(key=f"{seed}/{item.id}/ask", text=prompts.ask, image=item.image) for item in items
    ]
    answers = vlm.generate(asks, Decoding(max_new_tokens=question_tokens))
    asked = [answer.text.strip() for answer in answers]
    checked: Sequence[str | None] = [None] * len(items)
    if check != "none":
        checks = [
            Prompt(
                key=f"{seed}/{item.id}/check",
                text=fill(prompts.check, question=text),
                image=item.image if check == "seen" else None,
            )
            for item, text in zip(items, asked, strict=True)
        ]
        answers = vlm.generate(checks, Decoding(max_new_tokens=check_tokens))
        checked = [answer.text.strip() for answer in answers]
    return [
        Asked(
            item=item,
            asked=first,
            checked=second,
            questions=read_questions(first if second is None else second, prompts.check_leads),
        )
        for item, first, second in zip(items, asked, checked, strict=True)
    ]


def read_questions(text: str, leads: Sequence[str]) -> tuple[str, ...]:
    """The sentences that end in "?", without the leads that begin the check's answer."""
    questions = (
        _without_leads(sentence, leads) for sentence in sentences(text) if sentence.endswith("?")
    )
    return tuple(question for question in questions if question.strip(" ?"))


def _without_leads(sentence: str, leads: Sequence[str]) -> str:
    rests = (after_lead(sentence, lead) for lead in leads)
    return next((rest for rest in rests if rest is not None), sentence)
