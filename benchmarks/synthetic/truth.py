"""Read a caption of the world back into what it tells, and count its errors against the scene:
judging with exact truth.

Tolerant: words it does not know are passed over, a colour or a place may stand before or behind its
thing within a sentence, and what is not said (listed captions give no places) is no error."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import zip_longest

from benchmarks.synthetic import language
from benchmarks.synthetic.scene import Scene, Thing
from benchmarks.synthetic.words import COLOURS, COLUMNS, ROWS, SYNONYMS

_CATEGORY = {form: category for category, forms in SYNONYMS.items() for form in forms}


@dataclass(frozen=True, kw_only=True)
class Told:
    """One mention of a thing; None for what the text does not say of it. ``cell`` is (row,
    column)."""

    category: str
    colour: str | None = None
    cell: tuple[int, int] | None = None


def read_account(text: str) -> tuple[Told, ...]:
    """The things a caption (detailed or listed) tells, in order; a thing told twice stands there
    twice."""
    return tuple(
        told for sentence in re.split(r"[.?!\n]", text.lower()) for told in _read_sentence(sentence)
    )


def account_errors(text: str, truth: Scene) -> int:
    """The text's errors as ``language.errors`` counts them; a colour or place it does not say
    counts as right."""
    return language.errors([_thing(told, truth) for told in read_account(text)], truth)


def _thing(told: Told, truth: Scene) -> Thing:
    real = truth.find(told.category)
    # An absent thing is wrong whatever its colour and cell, so any will do there.
    base = real or Thing(category=told.category, colour=COLOURS[0], row=0, column=0)
    row, column = told.cell or (base.row, base.column)
    return replace(base, colour=told.colour or base.colour, row=row, column=column)


def _read_sentence(sentence: str) -> list[Told]:
    things: list[Told] = []
    colour: str | None = None
    cell: tuple[int, int] | None = None
    words = re.findall(r"\w+", sentence)
    for word, following in zip_longest(words, words[1:]):
        if word in COLOURS:
            colour = word
        elif category := _CATEGORY.get(word):
            things.append(Told(category=category, colour=colour, cell=cell))
            colour = cell = None
        elif word in ROWS and following in COLUMNS:
            place = ROWS.index(word), COLUMNS.index(following)
            if things and things[-1].cell is None:
                things[-1] = replace(things[-1], cell=place)
            else:
                cell = place
    if colour and things and things[-1].colour is None:  # "the ball is red"
        things[-1] = replace(things[-1], colour=colour)
    return things
