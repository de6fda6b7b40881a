"""Reads a caption of a synthetic image back into things, and counts its errors against the scene.

The reading is tolerant. Unknown words are skipped. A colour or a place may come before or after its
thing within a sentence. A colour or place that the caption leaves out is no error (listed captions
give no places)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import zip_longest

from benchmarks.synthetic import language
from benchmarks.synthetic.scene import Scene, Thing
from benchmarks.synthetic.words import COLOURS, COLUMNS, ROWS, SYNONYMS

_CATEGORY = {form: category for category, forms in SYNONYMS.items() for form in forms}


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One mention of a thing. ``cell`` is (row, column). None: the text does not say it."""

    category: str
    colour: str | None = None
    cell: tuple[int, int] | None = None


def read_account(text: str) -> tuple[Mention, ...]:
    """The things in a caption (detailed or listed), in order, with repetitions."""
    sentences = re.split(r"[.?!\n]", text.lower())
    return tuple(mention for sentence in sentences for mention in _read_sentence(sentence))


def account_errors(text: str, truth: Scene) -> int:
    """The text's errors as ``language.errors`` counts them; a missing colour or place counts as
    right."""
    return language.errors([_as_thing(mention, truth) for mention in read_account(text)], truth)


def _as_thing(mention: Mention, truth: Scene) -> Thing:
    true_thing = truth.find(mention.category)
    # An absent thing is wrong whatever its colour and cell.
    base = true_thing or Thing(category=mention.category, colour=COLOURS[0], row=0, column=0)
    row, column = mention.cell or (base.row, base.column)
    return replace(base, colour=mention.colour or base.colour, row=row, column=column)


def _read_sentence(sentence: str) -> list[Mention]:
    mentions: list[Mention] = []
    colour: str | None = None
    cell: tuple[int, int] | None = None
    words = re.findall(r"\w+", sentence)
    for word, next_word in zip_longest(words, words[1:]):
        if word in COLOURS:
            colour = word
        elif category := _CATEGORY.get(word):
            mentions.append(Mention(category=category, colour=colour, cell=cell))
            colour = cell = None
        elif word in ROWS and next_word in COLUMNS:
            position = ROWS.index(word), COLUMNS.index(next_word)
            if mentions and mentions[-1].cell is None:
                mentions[-1] = replace(mentions[-1], cell=position)
            else:
                cell = position
    if colour and mentions and mentions[-1].colour is None:  # "the ball is red"
        mentions[-1] = replace(mentions[-1], colour=colour)
    return mentions
