"""Which sentences of CSR's tree are thrown away, and what of a sentence its image is compared
with (released tree cleaning)."""

from __future__ import annotations

import re

SHORT = "short sentence"
SCRIPT = "foreign script"
REPETITION = "repetition"
NEW_LINES = "new lines"

LEAST_CHARACTERS = 4
MOST_NEW_LINES = 5

# Hangul, kana, Cyrillic and emoji, and HTML's hard space in a row: where the models of the paper
# derail to.
_SCRIPT = re.compile(
    r"[\u1100-\u11ff\u3040-\u318f\uac00-\ud7af\u0400-\u04ff\U0001f300-\U0001f6ff]|(?:&nbsp;){2}"
)
_WORD_RUN = re.compile(r"\b(\w+)(?:\s+\1\b){5}")
_SIGN_RUN = re.compile(r"(\S)(?:\s*\1){10}")
# What an image can be compared with: words, white space and the marks of plain text.
_UNHEARD = re.compile(r"[^\w\s.,?!;:'\"()\[\]{}/+*=<>%$€£°-]+")


def unclean(sentence: str) -> str | None:
    """Why a sentence is thrown away, or None where it stays: too short, in a script that is none of
    the paper's languages, a word six times or a sign eleven times in a row, more than five new
    lines."""
    checks = (
        (SHORT, len(sentence.strip()) < LEAST_CHARACTERS),
        (SCRIPT, _SCRIPT.search(sentence) is not None),
        (
            REPETITION,
            _WORD_RUN.search(sentence) is not None or _SIGN_RUN.search(sentence) is not None,
        ),
        (NEW_LINES, sentence.count("\n") > MOST_NEW_LINES),
    )
    return next((reason for reason, applies in checks if applies), None)


def heard(sentence: str) -> str:
    """The sentence as the image-text model hears it: without signs that are no plain text."""
    return _UNHEARD.sub("", sentence).strip()
