"""SIMA's critic prompt as data (arXiv 2405.15973, section 3.2): criteria, two worked examples, a bracketed verdict.

``WORLD`` is the wording inside the embedded model's vocabulary; the embedded base is trained on exactly these templates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SimaPrompts:
    """``critic`` holds {question}, {reference}, {first} and {second}; ``criteria`` and ``examples`` may be left out of it."""

    name: str
    examples: str
    critic: str
    criteria: str
    verdict: str

    def render(
        self, question: str, reference: str, first: str, second: str, *, criteria: bool = True, examples: bool = True
    ) -> str:
        """The critic's prompt. Model text is put in by plain replacement, never interpreted."""
        text = self.critic
        for slot, value in (("question", question), ("reference", reference), ("first", first), ("second", second)):
            before, _, after = text.partition("{" + slot + "}")
            text = before + value.replace("{", "(").replace("}", ")") + after
        return " ".join(part for part in (self.examples * examples, text, self.criteria * criteria, self.verdict) if part)


WORLD = SimaPrompts(
    name="world",
    examples=(
        "example : truth : a red ball . first : a red ball . second : a red ball and a blue box . verdict : [[1]] . "
        "example : truth : a green tree . first : a brown tree . second : a green tree . verdict : [[2]] ."
    ),
    critic="question : {question} truth : {reference} first : {first} second : {second}",
    criteria="compare things , colours and places with the truth .",
    verdict="which is better ?",
)
