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
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def tokens(text: str) -> list[str]:
    """Words and single punctuation marks, in order."""
    return _TOKEN.findall(text)


def repeats_sentence(text: str) -> bool:
    """Whether a sentence occurs twice, letter for letter."""
    all_sentences = sentences(text)
    return len(set(all_sentences)) < len(all_sentences)


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
    lead_tokens = tokens(lead)
    is_word = [re.fullmatch(r"\w+", token) is not None for token in lead_tokens]
    pattern = ""
    for index, token in enumerate(lead_tokens):
        between_words = index > 0 and is_word[index - 1] and is_word[index]
        pattern += (r"\s+" if between_words else r"\s*") + re.escape(token)
    if is_word and is_word[-1]:
        pattern += r"(?!\w)"
    match = re.match(pattern, text, re.IGNORECASE)
    return text[match.end() :].strip() if match else None
