"""SENA's answer self-enhancement (arXiv 2412.15650): the description of the image helps the model
better its own answer."""

from __future__ import annotations

from methods.prompt_sets import fill
from methods.sena.prompts import SenaPrompts
from methods.text import after_lead


def enhancement_text(prompts: SenaPrompts, *, description: str, prompt: str, answer: str) -> str:
    """The request for a more precise answer; without the description where that is a bare "Yes", as
    in the released code."""
    if description.strip().lower() == "yes":
        return fill(prompts.enhance_plain, prompt=prompt, answer=answer)
    return fill(prompts.enhance, description=description, prompt=prompt, answer=answer)


def enhanced_answer(raw: str, lead: str) -> str | None:
    """The better answer behind its lead; None (the first answer stays) where the lead, or anything
    behind it, is missing."""
    return after_lead(raw.strip(), lead) or None
