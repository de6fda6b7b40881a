"""Reading model text: sentences, repetition, symbols and leads; pure functions for the methods'
filters.

The definitions follow SENA's released filter (Tan et al., arXiv 2412.15650), with a simple rule in
place of its sentence tokenizer."""

from __future__ import annotations

import re
from collections import Counter

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def sentences(text: str) -> list[str]:
    """The text cut after each ``.``, ``!`` or ``?`` that is followed by white space. Marks stay;
    white space around sentences is removed."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def tokens(text: str) -> list[str]:
    """Words and single punctuation marks, in order."""
    return _TOKEN.findall(text)


def repeats_sentence(text: str) -> bool:
    """Whether a sentence occurs twice, letter for letter."""
    parts = sentences(text)
    return len(set(parts)) < len(parts)


def most_repeated(text: str) -> int:
    """Count of the most frequent token (a word or a mark); 0 for an empty text."""
    return max(Counter(tokens(text)).values(), default=0)


def symbol_share(text: str) -> float:
    """Share of characters that are no ASCII letter or digit; white space counts as a symbol. 1.0
    for an empty text."""
    if not text:
        return 1.0
    return sum(not (char.isascii() and char.isalnum()) for char in text) / len(text)


def after_lead(text: str, lead: str) -> str | None:
    """The text after ``lead``, stripped; None if the text does not start with the lead.

    White space around words and marks and the case of letters are ignored: "precise answer :"
    matches "Precise answer: two". A lead that ends in a word does not match a longer word."""
    parts = tokens(lead)
    words = [re.fullmatch(r"\w+", part) is not None for part in parts]
    pattern = ""
    for index, part in enumerate(parts):
        between_words = index > 0 and words[index - 1] and words[index]
        pattern += (r"\s+" if between_words else r"\s*") + re.escape(part)
    if words and words[-1]:
        pattern += r"(?!\w)"
    match = re.match(pattern, text, re.IGNORECASE)
    return text[match.end() :].strip() if match else None
