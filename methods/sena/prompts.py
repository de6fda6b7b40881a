"""SENA's prompts as data (arXiv 2412.15650): a frozen set of templates, fingerprinted with the run.

``REAL`` is our own wording for real models, ``WORLD`` the wording inside the synthetic model's
vocabulary (that model was trained on precisely these sentences); :meth:`SenaPrompts.from_file`
reads a user's own, such as the authors' sentences."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from methods.prompt_sets import check_placeholders, fingerprint, read_prompts

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "check": ("question",),
    "enhance": ("description", "prompt", "answer"),
    "enhance_plain": ("prompt", "answer"),
}
"""The placeholders each template holds, each at least once; every other text holds none."""

LISTS = ("check_leads", "describe")
"""The fields that hold several texts; the others hold one."""


@dataclass(frozen=True, kw_only=True)
class SenaPrompts:
    """The sentences SENA sends.

    ``ask`` asks for a question about the picture; ``check`` asks to keep or replace ``{question}``,
    and ``check_leads`` are the openers taken off its answer. ``describe`` are the paraphrases one
    of which each picture is described by; ``brief`` (one short sentence) and ``word`` (a single
    word or phrase) are the requests put behind a description prompt and a question, in generation
    and training alike. ``enhance`` asks for a better answer behind ``enhance_lead``;
    ``enhance_plain`` is the same without a description.
    """

    name: str
    ask: str
    check: str
    check_leads: tuple[str, ...]
    describe: tuple[str, ...]
    brief: str
    word: str
    enhance: str
    enhance_plain: str
    enhance_lead: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            texts = value if field.name in LISTS else (value,)
            if not isinstance(texts, tuple) or not all(
                isinstance(text, str) and text.strip() for text in texts
            ):
                kind = "a list of texts" if field.name in LISTS else "one text"
                raise ValueError(
                    f"SenaPrompts.{field.name} is {value!r}; it must be {kind}, none of them empty."
                )
            for text in texts:
                check_placeholders(
                    f"SenaPrompts.{field.name}", text, PLACEHOLDERS.get(field.name, ())
                )
        if not self.describe:
            raise ValueError(
                "SenaPrompts.describe is empty; give at least one sentence that asks for a"
                " description."
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of the set as JSON: two runs with one fingerprint sent the same sentences."""
        return fingerprint(self)

    @classmethod
    def from_file(cls, path: str | Path) -> SenaPrompts:
        """A prompt set from a JSON object of exactly this class's fields. ValueError says what is
        wrong with the file."""
        return read_prompts(cls, path)


def with_request(text: str, request: str) -> str:
    """A prompt as it is sent and trained on: the text, and the request for a length on a line of
    its own."""
    return f"{text}\n{request}"


WORLD = SenaPrompts(
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
