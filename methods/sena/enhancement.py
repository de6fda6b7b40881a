"""SENA's answer self-enhancement (Tan et al., arXiv 2412.15650): with a description of the image,
the model improves its own answer."""

from __future__ import annotations

from methods.prompt_sets import fill
from methods.sena.prompts import SenaPrompts
from methods.text import after_lead


def enhancement_text(prompts: SenaPrompts, *, description: str, prompt: str, answer: str) -> str:
    """The request for a more precise answer. A description that is only "yes" is left out, as in
    the released code."""
    if description.strip().lower() == "yes":
        return fill(prompts.enhance_plain, prompt=prompt, answer=answer)
    return fill(prompts.enhance, description=description, prompt=prompt, answer=answer)


def enhanced_answer(raw: str, lead: str) -> str | None:
    """The answer behind the lead; None if the lead is missing or nothing follows it. The first
    answer then stays."""
    return after_lead(raw.strip(), lead) or None
