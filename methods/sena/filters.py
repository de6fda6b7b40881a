"""SENA's filters (Tan et al., arXiv 2412.15650, released pair maker): which questions and pairs are
dropped, and why.

Each check is a pure function of texts. :func:`drop_reason` returns the first reason that applies,
in the released order."""

from __future__ import annotations

import re
from typing import Literal

from methods.text import most_repeated, repeats_sentence, symbol_share

NO_QUESTION = "no question"
NAME = "asks for a name"
EMPTY = "empty answer"
SENTENCE = "repeated sentence"
TOKEN = "repeated token"
SYMBOLS = "mostly symbols"
EQUAL = "equal answers"
YES_NO = "bare yes or no"
CONTAINED = "rejected contained in chosen"

MOST_REPEATS = 30
"""A side with a token more often than this is dropped."""
MOST_SYMBOLS = 0.5
"""A side with a larger share of symbols is dropped."""

NameFilter = Literal["whole_word", "substring_drops_image"]
Case = Literal["ignored", "released"]

_NAME = re.compile(r"\bname[sd]?\b", re.IGNORECASE)


def asks_for_name(text: str, name_filter: NameFilter) -> bool:
    """Whether a question has the word name, names or named; in the released code, the lower-case
    letters "name" anywhere."""
    return "name" in text if name_filter == "substring_drops_image" else bool(_NAME.search(text))


def is_bare_yes_no(text: str, case: Case) -> bool:
    """Whether the text is only "yes" or "no"; in the released code, only with a capital letter."""
    return text in ("Yes", "No") or (case == "ignored" and text.lower() in ("yes", "no"))


def is_contained(chosen: str, rejected: str, case: Case) -> bool:
    """Whether the chosen answer contains the rejected one, both in lower case; the released code
    lowers only the rejected one."""
    return rejected.lower() in (chosen if case == "released" else chosen.lower())


def drop_reason(chosen: str, rejected: str, *, keep_yes_no: bool, case: Case) -> str | None:
    """Why this pair of stripped answers is dropped; None if it stays."""
    sides = (chosen, rejected)
    checks = (
        (EMPTY, not all(sides)),
        (SENTENCE, any(repeats_sentence(side) for side in sides)),
        (TOKEN, any(most_repeated(side) > MOST_REPEATS for side in sides)),
        (SYMBOLS, any(symbol_share(side) > MOST_SYMBOLS for side in sides)),
        (EQUAL, chosen == rejected),
        (YES_NO, not keep_yes_no and any(is_bare_yes_no(side, case) for side in sides)),
        (CONTAINED, is_contained(chosen, rejected, case)),
    )
    return next((reason for reason, applies in checks if applies), None)
