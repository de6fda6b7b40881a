"""SENA's first step, image-driven self-questioning (arXiv 2412.15650): the model asks about a
image and checks its question."""

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
    """What was asked about an item: the first text, the checked one (None without a check) and the
    questions read from it."""

    item: Item
    asked: str
    checked: str | None
    questions: tuple[str, ...]


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
    """Ask about every item's image, then have the question kept or replaced: with the image in
    sight ("seen"), from the text alone ("blind", as released) or not at all ("none")."""
    asks = [
        Prompt(key=f"{seed}/{item.id}/ask", text=prompts.ask, image=item.image) for item in items
    ]
    asked = [
        answer.text.strip()
        for answer in vlm.generate(asks, Decoding(max_new_tokens=question_tokens))
    ]
    if check == "none":
        return [
            Asked(
                item=item,
                asked=text,
                checked=None,
                questions=read_questions(text, prompts.check_leads),
            )
            for item, text in zip(items, asked, strict=True)
        ]
    checks = [
        Prompt(
            key=f"{seed}/{item.id}/check",
            text=fill(prompts.check, question=text),
            image=item.image if check == "seen" else None,
        )
        for item, text in zip(items, asked, strict=True)
    ]
    checked = [
        answer.text.strip()
        for answer in vlm.generate(checks, Decoding(max_new_tokens=check_tokens))
    ]
    return [
        Asked(
            item=item,
            asked=first,
            checked=text,
            questions=read_questions(text, prompts.check_leads),
        )
        for item, first, text in zip(items, asked, checked, strict=True)
    ]


def read_questions(text: str, leads: Sequence[str]) -> tuple[str, ...]:
    """The sentences of a text that end in "?", without the openers the check's answer begins
    with."""
    questions = (
        _without_leads(sentence, leads) for sentence in sentences(text) if sentence.endswith("?")
    )
    return tuple(question for question in questions if question.strip(" ?"))


def _without_leads(sentence: str, leads: Sequence[str]) -> str:
    for lead in leads:
        rest = after_lead(sentence, lead)
        if rest is not None:
            return rest
    return sentence
