"""Which sentences of CSR's tree are dropped, and which characters the image-text model sees
(released tree cleaning; Zhou et al., arXiv 2405.14622)."""

from __future__ import annotations

import re

SHORT = "short sentence"
SCRIPT = "foreign script"
REPETITION = "repetition"
NEW_LINES = "new lines"

LEAST_CHARACTERS = 4
MOST_NEW_LINES = 5

# Hangul, kana, Cyrillic, emoji and repeated HTML spaces: output of a model that has derailed.
_SCRIPT = re.compile(
    r"[\u1100-\u11ff\u3040-\u318f\uac00-\ud7af\u0400-\u04ff\U0001f300-\U0001f6ff]|(?:&nbsp;){2}"
)
_WORD_RUN = re.compile(r"\b(\w+)(?:\s+\1\b){5}")
_SIGN_RUN = re.compile(r"(\S)(?:\s*\1){10}")
# Everything but words, white space and the marks of plain text.
_NOT_PLAIN = re.compile(r"[^\w\s.,?!;:'\"()\[\]{}/+*=<>%$€£°-]+")


def drop_reason(sentence: str) -> str | None:
    """Why a sentence is dropped; None if it stays.

    It is too short, in a script that no language of the paper uses, has one word six times or one
    sign eleven times in a row, or has more than five new lines."""
    repeats = _WORD_RUN.search(sentence) or _SIGN_RUN.search(sentence)
    checks = (
        (SHORT, len(sentence.strip()) < LEAST_CHARACTERS),
        (SCRIPT, _SCRIPT.search(sentence) is not None),
        (REPETITION, repeats is not None),
        (NEW_LINES, sentence.count("\n") > MOST_NEW_LINES),
    )
    return next((reason for reason, applies in checks if applies), None)


def plain_text(sentence: str) -> str:
    """The sentence as the image-text model reads it: without characters that are no plain text."""
    return _NOT_PLAIN.sub("", sentence).strip()
