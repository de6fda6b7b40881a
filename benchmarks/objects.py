"""Object mentions in a caption: synonym tables with plural forms, longest match first, at word
boundaries.

A table lists every form that counts, plurals included, as CHAIR's frozen synonym list does after
singularising: nothing is stemmed here, so a table says exactly what it reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

Synonyms = Mapping[str, tuple[str, ...]]
"""Category to every form (lower case, words separated by single spaces) that names it."""


@dataclass(frozen=True)
class ObjectTable:
    """A frozen synonym table, ready to read captions.

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
                        f"The form {form!r} names both {owners[form]!r} and {category!r}; keep it"
                        " in one of the two."
                    )

    @cached_property
    def _category(self) -> dict[str, str]:
        return {form: category for category, forms in self.synonyms.items() for form in forms}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Alternation takes the first form that fits, so "hot dog" must stand before "dog".
        forms = sorted(self._category, key=lambda form: (-len(form), form))
        either = "|".join(re.escape(form).replace(r"\ ", r"\s+") for form in forms)
        return re.compile(rf"(?<!\w)(?:{either})(?!\w)")

    def mentions(self, caption: str) -> list[str]:
        """The category of every mention, in order; a category mentioned twice stands there
        twice."""
        return [category for category, _, _ in self.places(caption)]

    def places(self, caption: str) -> list[tuple[str, int, int]]:
        """Every mention as (category, from, to) in characters of the caption in lower case, in
        order."""
        if not self._category:
            return []
        found = self._pattern.finditer(caption.lower())
        return [
            (self._category[" ".join(one.group().split())], one.start(), one.end()) for one in found
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
"""Plural endings and what may stand in the singular; "policemen", "berries", "ties", "knives",
"boxes"."""


def known_form(word: str, known: Collection[str]) -> str:
    """The word, if it is known or no plural of a known one; else its singular: a plural is only
    undone where that helps."""
    if word in known:
        return word
    singulars = [IRREGULAR.get(word, "")]
    singulars += [
        word.removesuffix(ending) + single
        for ending, some in _ENDINGS
        if word.endswith(ending)
        for single in some
    ]
    return next((single for single in singulars if single in known), word)
