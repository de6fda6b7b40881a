"""Reading model text: sentences, repetition, symbols and leads. Pure functions the methods' filters
share.

The definitions follow SENA's released filter (arXiv 2412.15650); a simple rule stands in for its
sentence tokenizer."""

from __future__ import annotations

import re
from collections import Counter

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def sentences(text: str) -> list[str]:
    """The text cut behind every ``.``, ``!`` or ``?`` that white space follows; marks stay, white
    space around goes."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def tokens(text: str) -> list[str]:
    """Words and single punctuation marks, in order."""
    return _TOKEN.findall(text)


def repeats_sentence(text: str) -> bool:
    """Whether any sentence occurs twice, letter for letter."""
    parts = sentences(text)
    return len(set(parts)) < len(parts)


def most_repeated(text: str) -> int:
    """How often the commonest token (a word or a punctuation mark) occurs; 0 for an empty text."""
    return max(Counter(tokens(text)).values(), default=0)


def symbol_share(text: str) -> float:
    """The share of characters that are no ASCII letter or digit (white space counts as a symbol);
    1.0 for an empty text."""
    if not text:
        return 1.0
    return sum(not (char.isascii() and char.isalnum()) for char in text) / len(text)


def after_lead(text: str, lead: str) -> str | None:
    """What follows ``lead`` at the start of ``text``, stripped; None where the text does not start
    with it.

    White space around words and marks and the letters' case do not matter: "precise answer :" is
    found in "Precise answer: two". A lead that ends in a word does not match a longer word."""
    parts = tokens(lead)
    pattern = "".join(
        (
            r"\s+"
            if index and re.fullmatch(r"\w+", parts[index - 1]) and re.fullmatch(r"\w+", part)
            else r"\s*"
        )
        + re.escape(part)
        for index, part in enumerate(parts)
    )
    match = re.match(
        pattern + (r"(?!\w)" if parts and re.fullmatch(r"\w+", parts[-1]) else ""),
        text,
        re.IGNORECASE,
    )
    return text[match.end() :].strip() if match else None
