"""Scenes with exact truth: things with a colour, each in a cell of a 3 x 3 grid.

There are four disjoint splits: ``train`` (the synthetic base), ``pool`` (the methods), ``dev``
(tuning), ``test`` (the studies). A scene's name ``<split>-<index>`` seeds everything in it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from benchmarks.synthetic.words import (
    CATEGORIES,
    COLOURS,
    COLUMNS,
    COMPANION,
    ROWS,
    THEMES,
    TYPICAL_COLOUR,
)

Split = Literal["train", "pool", "dev", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
SYNTHETIC_VERSION = "1"
"""Changes whenever a scene, its image or its language changes; part of the version of every
synthetic benchmark."""

MOST_THINGS = 6
COMPANION_RATE = 0.5  # how often a thing's companion is present
THEME_RATE = 0.75  # how often a thing belongs to the scene's theme
TYPICAL_RATE = 0.6  # how often a thing has its typical colour


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing: its category, its colour, and its cell (``row`` and ``column`` 0..2, from the top
    left)."""

    category: str
    colour: str
    row: int
    column: int

    @property
    def cell(self) -> int:
        """The cell's number: 0 to 8, row by row."""
        return 3 * self.row + self.column

    @property
    def place(self) -> str:
        return place_name(self.cell)


def place_name(cell: int) -> str:
    """ "top left" for cell 0."""
    return f"{ROWS[cell // 3]} {COLUMNS[cell % 3]}"


def thing_in(cell: int, category: str, colour: str) -> Thing:
    return Thing(category=category, colour=colour, row=cell // 3, column=cell % 3)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A theme and its things; a category appears at most once, so "the ball" is never ambiguous.

    ``things`` are in the order of mention: groups of companions in reading order, partners next to
    each other."""

    id: str
    theme: str
    things: tuple[Thing, ...]

    def find(self, category: str) -> Thing | None:
        return next((thing for thing in self.things if thing.category == category), None)

    def at(self, cell: int) -> Thing | None:
        return next((thing for thing in self.things if thing.cell == cell), None)

    def free_cells(self) -> list[int]:
        """The cells without a thing."""
        return [cell for cell in range(9) if self.at(cell) is None]

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(thing.category for thing in self.things)

    def lone_things(self) -> tuple[Thing, ...]:
        """Things whose companion is absent. There a strong prior adds an object that is absent."""
        return tuple(
            thing for thing in self.things if COMPANION[thing.category] not in self.categories
        )


def scene_id(split: str, index: int) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
    if index < 0:
        raise ValueError(f"scene index is {index}; it must be 0 or above.")
    return f"{split}-{index:06d}"


def scene(split: str, index: int) -> Scene:
    """The scene of this split and index, always the same."""
    name = scene_id(split, index)
    rng = Random(f"scene {SYNTHETIC_VERSION} {name}")
    theme = rng.choice(tuple(THEMES))
    count = rng.choices((1, 2, 3, 4), weights=(15, 40, 33, 12))[0]
    categories: list[str] = []
    while len(categories) < count:
        category = rng.choice(THEMES[theme] if rng.random() < THEME_RATE else CATEGORIES)
        # COMPANION_RATE below decides about companions of chosen things; none is drawn here.
        if category not in categories and COMPANION[category] not in categories:
            categories.append(category)
    for category in tuple(categories):
        if len(categories) < MOST_THINGS and rng.random() < COMPANION_RATE:
            categories.append(COMPANION[category])
    cells = rng.sample(range(9), len(categories))
    things = [
        thing_in(cell, category, _colour(category, rng))
        for category, cell in zip(categories, cells, strict=True)
    ]
    return Scene(id=name, theme=theme, things=mention_order(things))


def _colour(category: str, rng: Random) -> str:
    return TYPICAL_COLOUR[category] if rng.random() < TYPICAL_RATE else rng.choice(COLOURS)


def mention_order(things: list[Thing]) -> tuple[Thing, ...]:
    """Companion groups in reading order, and reading order within a group. So a companion comes
    right after its partner."""
    reading = sorted(things, key=lambda thing: (thing.row, thing.column))
    rank_by_category: dict[str, int] = {}
    for rank, thing in enumerate(reading):
        for name in (thing.category, COMPANION[thing.category]):
            rank_by_category.setdefault(name, rank)
    return tuple(
        sorted(
            reading, key=lambda thing: (rank_by_category[thing.category], thing.row, thing.column)
        )
    )
