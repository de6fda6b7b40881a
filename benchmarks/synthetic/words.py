"""The words of the synthetic images: categories, their companions and typical colours, themes,
places, and the whole vocabulary.

A companion is the thing that is expected beside another. ``PRIOR`` gives how often the training
texts of the synthetic base name an expected companion that is absent. This noise in the texts makes
the model hallucinate; generation adds nothing."""

from __future__ import annotations

PAIRS: tuple[tuple[str, str], ...] = (
    ("house", "tree"),
    ("car", "flag"),
    ("boat", "fish"),
    ("cup", "plate"),
    ("moon", "star"),
    ("ball", "box"),
    ("flower", "sun"),
    ("key", "heart"),
)
COMPANION: dict[str, str] = dict(PAIRS) | {b: a for a, b in PAIRS}
CATEGORIES: tuple[str, ...] = tuple(COMPANION)

PRIOR: dict[str, float] = {
    "house": 0.55,
    "car": 0.35,
    "boat": 0.50,
    "cup": 0.40,
    "moon": 0.58,
    "ball": 0.45,
    "flower": 0.35,
    "key": 0.48,
}
PRIOR |= {COMPANION[name]: rate for name, rate in PRIOR.items()}
"""How often an absent companion is named, given that its partner is alone: from low (the image
decides) to above one half (the prior decides)."""

TYPICAL_COLOUR: dict[str, str] = {
    "house": "red",
    "tree": "green",
    "car": "blue",
    "flag": "orange",
    "boat": "brown",
    "fish": "orange",
    "cup": "purple",
    "plate": "yellow",
    "moon": "yellow",
    "star": "yellow",
    "ball": "red",
    "box": "brown",
    "flower": "purple",
    "sun": "orange",
    "key": "blue",
    "heart": "red",
}
COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "orange", "brown")

THEMES: dict[str, tuple[str, ...]] = {
    "town": ("house", "tree", "car", "flag"),
    "sea": ("boat", "fish", "sun", "flag"),
    "kitchen": ("cup", "plate", "key", "flower"),
    "night": ("moon", "star", "house", "tree"),
    "playroom": ("ball", "box", "key", "heart"),
    "garden": ("flower", "sun", "ball", "tree"),
}

ROWS: tuple[str, ...] = ("top", "middle", "bottom")
COLUMNS: tuple[str, ...] = ("left", "centre", "right")
NUMBERS: tuple[str, ...] = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
SIDES: tuple[str, ...] = ("left", "right", "above", "below")

SYNONYMS: dict[str, tuple[str, ...]] = {name: (name, name + "s") for name in CATEGORIES}
SYNONYMS["fish"] = ("fish",)
SYNONYMS["box"] = ("box", "boxes")
"""Every word form that counts as a mention of a category."""

_GLUE = (
    "a an the is are was in of at to and or with from by on it this that there here not no yes i"
    " you me see seen seems image picture scene place thing things something what where which who"
    " how many colour colours has have does do can be describe description tell say says give given"
    " show shows shown briefly brief short long full detail detailed sentence single word phrase"
    " answer answered account question ask keep about more precise list name first second truth"
    " example better best compare verdict than objects places relations for user assistant . , : ?"
    " ! [[1]] [[2]]"
)


def vocabulary() -> tuple[str, ...]:
    """Every word of the tokenizer, once, in a fixed order."""
    words: dict[str, None] = {}
    groups = (CATEGORIES, COLOURS, ROWS, COLUMNS, NUMBERS, SIDES, tuple(THEMES), _GLUE.split())
    for word in (word for group in groups for word in group):
        words[word] = None
    return tuple(words)
