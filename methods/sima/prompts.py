"""SIMA's critic prompt as data (Wang et al., arXiv 2405.15973, section 3.2): criteria, two worked
examples, a bracketed verdict.

``REAL`` is our own wording for real models. ``SYNTHETIC`` is the wording for the synthetic base,
which was trained on exactly these templates. :meth:`SimaPrompts.from_file` reads other sentences,
such as the authors'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from methods.prompt_sets import PromptSet, fill
from methods.settings import Text, not_empty


@dataclass(frozen=True, kw_only=True)
class SimaPrompts(PromptSet):
    """The critic's sentences. They are sent in this order: examples, task, criteria, request for a
    verdict. As released (``request_first``): request, criteria, examples, task, request again."""

    placeholders: ClassVar[Mapping[str, Sequence[str]]] = {
        "critic": ("question", "reference", "first", "second"),
        "critic_alone": ("question", "first", "second"),
    }

    examples: Text
    """Two comparisons with bracketed verdicts, one of each; they show ground truths of their
    own."""
    critic: Text
    """The task, with the ground truth."""
    critic_alone: Text
    """The task without the ground truth."""
    criteria: Text
    """What to compare the answers by."""
    criteria_alone: Text
    """The same without the ground truth."""
    verdict: Text
    """Asks for the verdict."""
    verdict_lead: str = ""
    """The text before the verdict in an answer. When verdicts are scored, ``[[1]]`` and ``[[2]]``
    follow it."""
    joint: Annotated[str, not_empty] = " "
    """Stands between the parts."""

    def render(
        self,
        question: str,
        reference: str | None,
        first: str,
        second: str,
        *,
        criteria: bool = True,
        examples: bool = True,
        request_first: bool = False,
    ) -> str:
        """The critic's prompt; without the ground truth if ``reference`` is None."""
        texts = {"question": question, "first": first, "second": second}
        if reference is None:
            task, criteria_text = fill(self.critic_alone, **texts), self.criteria_alone
        else:
            task, criteria_text = fill(self.critic, reference=reference, **texts), self.criteria
        examples_text, criteria_text = self.examples * examples, criteria_text * criteria
        sections = (
            (self.verdict, criteria_text, examples_text, task, self.verdict)
            if request_first
            else (examples_text, task, criteria_text, self.verdict)
        )
        return self.joint.join(section for section in sections if section)


# The synthetic base is trained on these texts (harness/synthetic/turns.py): a changed word needs
# another base.
SYNTHETIC = SimaPrompts(
    name="synthetic",
    examples=(
        "example : truth : a red ball . first : a red ball . second : a red ball and a blue box ."
        " verdict : [[1]] . example : truth : a green tree . first : a brown tree . second : a"
        " green tree . verdict : [[2]] ."
    ),
    critic="question : {question} truth : {reference} first : {first} second : {second}",
    critic_alone="question : {question} first : {first} second : {second}",
    criteria="compare things , colours and places with the truth .",
    criteria_alone="compare things , colours and places with the image .",
    verdict="which is better ?",
)

REAL = SimaPrompts(
    name="real",
    examples=(
        "Here are two comparisons that were done well. They are about other pictures.\n\nComparison"
        " A\nQuestion: What is happening at the market stall?\nGround truth: A man in a green apron"
        " weighs apples on a small scale while a girl waits in front of the stall, holding a cloth"
        " bag.\nAnswer 1: A man wearing a green apron is weighing apples. A girl with a cloth bag"
        " stands before the stall.\nAnswer 2: A man in a green apron hands a bag of pears to a"
        " girl, and a dog sits beside her.\nReason: Answer 1 names the same people and things as"
        " the ground truth and puts them where they are. Answer 2 tells of pears and a dog, which"
        " the ground truth does not have, and lets the man hand over the bag that the girl"
        " holds.\nBetter answer: [[1]]\n\nComparison B\nQuestion: Describe this picture in"
        " detail.\nGround truth: A black cat sleeps on a wooden chair next to a window. A white"
        " curtain hangs half closed, and two potted plants stand on the sill.\nAnswer 1: A grey cat"
        " sleeps under a chair by a window. There are several plants and a lamp on the sill, and"
        " the curtain is blue.\nAnswer 2: A black cat lies asleep on a wooden chair beside a window"
        " with a white curtain. Plants stand on the sill.\nReason: Answer 1 gives the cat and the"
        " curtain wrong colours, puts the cat under the chair and adds a lamp. Answer 2 leaves out"
        " how many plants there are, but all that it says agrees with the ground truth.\nBetter"
        " answer: [[2]]"
    ),
    critic=(
        "Now compare two answers to a question about the picture above. The ground truth is known"
        " to be right.\nQuestion: {question}\nGround truth: {reference}\nAnswer 1: {first}\nAnswer"
        " 2: {second}"
    ),
    critic_alone=(
        "Now compare two answers to a question about the picture above. No ground truth is given"
        " here: look at the picture.\nQuestion: {question}\nAnswer 1: {first}\nAnswer 2: {second}"
    ),
    criteria=(
        "Hold both answers against the ground truth on three points.\nObjects: which answer names"
        " fewer things that are not there, and describes those that are there more"
        " correctly?\nRelationships: which answer is less often wrong about where things are and"
        " what they do to one another?\nAttributes: which answer is less often wrong about colours,"
        " numbers, sizes and other properties?"
    ),
    criteria_alone=(
        "Hold both answers against the picture on three points.\nObjects: which answer names fewer"
        " things that are not there, and describes those that are there more"
        " correctly?\nRelationships: which answer is less often wrong about where things are and"
        " what they do to one another?\nAttributes: which answer is less often wrong about colours,"
        " numbers, sizes and other properties?"
    ),
    verdict=(
        'Write "Reason:" and a short reason, then on a line of its own "Better answer:" and the'
        " number of the better answer in double brackets, [[1]] or [[2]]."
    ),
    verdict_lead="Better answer:",
    joint="\n\n",
)
