"""Scenes with exact truth: which things, of what colour, in which cell of a 3 x 3 grid; each
reproducible from its name.

Four disjoint splits: ``train`` (for the synthetic base), ``pool`` (for the methods), ``dev`` (for
tuning), ``test`` (touched once a study). A scene's name ``<split>-<index>`` seeds everything in it.
"""

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
WORLD_VERSION = "1"
"""Changes whenever a scene, its image or its language changes; part of every world benchmark's
version."""

MOST_THINGS = 6
COMPANION_RATE = 0.5  # how often an expected companion really stands there
THEME_RATE = 0.75  # how often a thing is one of its theme's own
TYPICAL_RATE = 0.6  # how often a thing has its typical colour


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing: its category and colour, and its cell (``row`` and ``column`` 0..2, from the top
    left)."""

    category: str
    colour: str
    row: int
    column: int

    @property
    def place(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A theme and its things; a category appears at most once, so "the ball" is never ambiguous.

    ``things`` stand in telling order: groups of companions by reading order, partners next to each
    other."""

    id: str
    theme: str
    things: tuple[Thing, ...]

    def find(self, category: str) -> Thing | None:
        return next((thing for thing in self.things if thing.category == category), None)

    def at(self, row: int, column: int) -> Thing | None:
        return next(
            (thing for thing in self.things if (thing.row, thing.column) == (row, column)), None
        )

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(thing.category for thing in self.things)

    def lone(self) -> tuple[Thing, ...]:
        """Things whose companion is absent: where a strong prior tells what is not there."""
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
    rng = Random(f"scene {WORLD_VERSION} {name}")
    theme = rng.choice(tuple(THEMES))
    wanted = rng.choices((1, 2, 3, 4), weights=(15, 40, 33, 12))[0]
    chosen: list[str] = []
    while len(chosen) < wanted:
        category = rng.choice(THEMES[theme] if rng.random() < THEME_RATE else CATEGORIES)
        # A companion of something already there is decided by COMPANION_RATE below, not drawn here.
        if category not in chosen and COMPANION[category] not in chosen:
            chosen.append(category)
    for category in tuple(chosen):
        if len(chosen) < MOST_THINGS and rng.random() < COMPANION_RATE:
            chosen.append(COMPANION[category])
    cells = rng.sample(range(9), len(chosen))
    things = [
        Thing(category=category, colour=_colour(category, rng), row=cell // 3, column=cell % 3)
        for category, cell in zip(chosen, cells, strict=True)
    ]
    return Scene(id=name, theme=theme, things=telling_order(things))


def _colour(category: str, rng: Random) -> str:
    return TYPICAL_COLOUR[category] if rng.random() < TYPICAL_RATE else rng.choice(COLOURS)


def telling_order(things: list[Thing]) -> tuple[Thing, ...]:
    """Reading order of companion groups; within a group, reading order. So a companion is told
    right after its partner."""
    reading = sorted(things, key=lambda thing: (thing.row, thing.column))
    first: dict[str, int] = {}
    for place, thing in enumerate(reading):
        for name in (thing.category, COMPANION[thing.category]):
            first.setdefault(name, place)
    return tuple(
        sorted(reading, key=lambda thing: (first[thing.category], thing.row, thing.column))
    )
