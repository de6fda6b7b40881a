"""Texts of models and data for the page: hidden characters become visible, and words that differ
are marked. Escaping is done where a text is put into the page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

LONGEST = 6000
"""Characters of one text at most."""

_JOINERS = "\u200c\u200d"  # part of how Persian, Hindi and emoji are written
_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’-]\w+)*|[^\w\s])\s*")


def visible(text: str, longest: int = LONGEST) -> str:
    """The text with signs for control, direction and unassigned characters, cut at ``longest``."""
    signs = (char if char.isprintable() or char == "\n" else _sign(char) for char in text[:longest])
    return "".join(signs) + (f"… ({len(text):,} characters)" if len(text) > longest else "")


def _sign(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    if char in "\t\r":
        return " "
    return chr(0x2400 + ord(char)) if ord(char) < 32 else f"⟨U+{ord(char):04X}⟩"


def differences(chosen: str, rejected: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Both texts as pieces ``[text, differs]`` that join to the text. A piece differs if the other
    side lacks its words at that place."""
    sides = [_words(text) for text in (chosen, rejected)]
    before, after = ([word.strip() for word in words] for words in sides)
    matcher = SequenceMatcher(None, before, after)
    marked: tuple[list[list[Any]], list[list[Any]]] = ([], [])
    for op, *bounds in matcher.get_opcodes():
        for words, pieces, start, end in zip(sides, marked, bounds[::2], bounds[1::2], strict=True):
            if run := "".join(words[start:end]):
                pieces.extend(_pieces(run, op != "equal"))
    return marked


def _words(text: str) -> list[str]:
    return _WORD.findall(text) or ([text] if text else [])


def _pieces(run: str, differs: bool) -> Iterator[list[Any]]:
    """White space at the ends of a mark is left outside it."""
    core = run.strip()
    if not differs or not core:
        yield [run, False]
        return
    before, after = run[: len(run) - len(run.lstrip())], run[len(run.rstrip()) :]
    yield from (
        [text, mark] for text, mark in ((before, False), (core, True), (after, False)) if text
    )
