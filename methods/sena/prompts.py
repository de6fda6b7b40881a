"""SENA's prompts as data, and the reading of their answers (Tan et al., arXiv 2412.15650).

``REAL`` is our own wording for real models. ``SYNTHETIC`` is the wording for the synthetic base,
which was trained on exactly these sentences. :meth:`SenaPrompts.from_file` reads other sentences,
such as the authors'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from methods.prompt_sets import PromptSet, fill
from methods.settings import Text, not_empty
from methods.text import after_lead, sentences


@dataclass(frozen=True, kw_only=True)
class SenaPrompts(PromptSet):
    """The sentences that SENA sends."""

    placeholders: ClassVar[Mapping[str, Sequence[str]]] = {
        "check": ("question",),
        "enhance": ("description", "prompt", "answer"),
        "enhance_plain": ("prompt", "answer"),
    }

    ask: Text
    """Asks for a question about the image."""
    check: Text
    """Asks to keep or replace ``{question}``."""
    check_leads: tuple[Text, ...]
    """Openings that are removed from the answer to ``check``."""
    describe: Annotated[tuple[Text, ...], not_empty]
    """Paraphrases that ask for a description; each question draws one."""
    brief: Text
    """Request for one short sentence, after a description prompt; sent and trained on."""
    word: Text
    """Request for a single word or phrase, after a question; sent and trained on."""
    enhance: Text
    """Asks for a better answer, which begins with ``enhance_lead``."""
    enhance_plain: Text
    """The same without a description."""
    enhance_lead: Text

    def enhancement(self, *, description: str, prompt: str, answer: str) -> str:
        """The request for a more precise answer. A description that is only "yes" is left out, as
        in the released code."""
        if description.strip().lower() == "yes":
            return fill(self.enhance_plain, prompt=prompt, answer=answer)
        return fill(self.enhance, description=description, prompt=prompt, answer=answer)

    def enhanced(self, reply: str) -> str | None:
        """The answer behind the lead; None if the lead is missing or nothing follows it. The first
        answer then stays."""
        return after_lead(reply.strip(), self.enhance_lead) or None

    def questions(self, text: str) -> tuple[str, ...]:
        """The sentences that end in "?", without the leads that begin the check's answer."""
        questions = (
            self._without_lead(sentence) for sentence in sentences(text) if sentence.endswith("?")
        )
        return tuple(question for question in questions if question.strip(" ?"))

    def _without_lead(self, sentence: str) -> str:
        remainders = (after_lead(sentence, lead) for lead in self.check_leads)
        return next((remainder for remainder in remainders if remainder is not None), sentence)


def with_request(text: str, request: str) -> str:
    """A prompt as it is sent and trained on: the text, then the request for a length on its own
    line."""
    return f"{text}\n{request}"


SYNTHETIC = SenaPrompts(
    name="synthetic",
    ask="ask a question about the image .",
    check="can this be answered from the image : {question}",
    check_leads=("keep :", "ask :"),
    describe=(
        "describe the image briefly .",
        "what is in the image ?",
        "tell what you see .",
        "give a short description of the image .",
        "what does the image show ?",
        "say briefly what the picture shows .",
        "describe the picture in brief .",
        "what can be seen in the picture ?",
        "give a brief account of the image .",
        "tell briefly what is in the picture .",
        "what do you see ?",
    ),
    brief="answer in one short sentence .",
    word="answer with a single word or phrase .",
    enhance=(
        "description : {description} question : {prompt} answer : {answer} give a more precise"
        " answer ."
    ),
    enhance_plain="question : {prompt} answer : {answer} give a more precise answer .",
    enhance_lead="precise answer :",
)

REAL = SenaPrompts(
    name="real",
    ask=(
        "Look at this picture and write one question about something that can be seen in it. Write"
        " only the question."
    ),
    check=(
        "Here is a question about this picture: {question}\n"
        "If looking at the picture is enough to answer it, copy the question word for word. "
        "If not, write a different question that the picture does answer. Write only the question."
    ),
    check_leads=("Question:",),
    describe=(
        "Describe this picture in brief.",
        "What does this picture show?",
        "Say in short what is to be seen here.",
        "Sum up the content of this picture.",
        "Give a short account of this scene.",
        "Tell me briefly what is in the picture.",
        "What can be seen in this image?",
        "Put the scene in this image into a few words.",
        "What is the main content of this image?",
        "Write a short caption for this picture.",
        "Outline what is visible in this image.",
    ),
    brief="Keep it to one short sentence.",
    word="Reply with a single word or a short phrase.",
    enhance=(
        "A short description of this picture: {description}\nA request about the picture:"
        " {prompt}\nThe answer given so far: {answer}\nCompare that answer with the picture and the"
        ' description, and write one that is more precise and more concise. Begin with "Improved'
        ' answer:".'
    ),
    enhance_plain=(
        "A request about this picture: {prompt}\nThe answer given so far: {answer}\nCompare that"
        " answer with the picture, and write one that is more precise and more concise. Begin with"
        ' "Improved answer:".'
    ),
    enhance_lead="Improved answer:",
)
