"""Object mentions in a caption: synonym tables with plural forms; longest match first, at word
boundaries.

A table lists every form that counts, plurals included. Nothing is stemmed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

Synonyms = Mapping[str, tuple[str, ...]]
"""Category -> every form that names it, in lower case, words separated by single spaces."""


@dataclass(frozen=True)
class ObjectTable:
    """Reads captions with a synonym table.

    Raises:
        ValueError: a form is empty, not lower case, or names two categories.
    """

    synonyms: Synonyms

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for category, forms in self.synonyms.items():
            for form in forms:
                if not form or form != " ".join(form.lower().split()):
                    raise ValueError(
                        f"The form {form!r} of {category!r} must be lower-case words separated by"
                        " single spaces."
                    )
                if owners.setdefault(form, category) != category:
                    raise ValueError(
                        f"The form {form!r} names both {owners[form]!r} and {category!r}; leave it"
                        " out of one."
                    )

    @cached_property
    def _category(self) -> dict[str, str]:
        return {form: category for category, forms in self.synonyms.items() for form in forms}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # A regex alternation takes the first match, so "hot dog" must come before "dog".
        forms = sorted(self._category, key=lambda form: (-len(form), form))
        alternatives = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in forms)
        return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")

    def mentions(self, caption: str) -> list[str]:
        """The category of every mention, in order, repeated as often as it is mentioned."""
        return [category for category, _, _ in self.mention_spans(caption)]

    def mention_spans(self, caption: str) -> list[tuple[str, int, int]]:
        """Every mention as (category, start, end), in order; characters of the caption in lower
        case."""
        if not self._category:
            return []
        return [
            (self._category[" ".join(match.group().split())], match.start(), match.end())
            for match in self._pattern.finditer(caption.lower())
        ]


IRREGULAR: Mapping[str, str] = {
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
}
_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("men", ("man",)),
    ("ies", ("y", "ie")),
    ("ves", ("f", "fe", "ve")),
    ("es", ("", "e")),
    ("s", ("",)),
)
"""Plural endings and the singular endings they may have: "policemen", "berries", "ties", "knives",
"boxes"."""


def known_form(word: str, vocabulary: Collection[str]) -> str:
    """The word, or its singular if the singular alone is known."""
    if word in vocabulary:
        return word
    singulars = [IRREGULAR.get(word, "")]
    singulars += [
        word.removesuffix(ending) + single
        for ending, singles in _ENDINGS
        if word.endswith(ending)
        for single in singles
    ]
    return next((single for single in singulars if single in vocabulary), word)
