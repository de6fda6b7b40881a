"""English plurals made singular by spelling alone, as the word stripper that CHAIR's authors used
(``singularize`` of the Python package pattern) makes them.

The stripper knows no vocabulary. Words in -s that are no plural lose their s ("bus" becomes "bu"),
and some plurals get a singular that does not exist ("ties" becomes "ty"). Which of these results
count is the matter of the reader (``coco.py``)."""

from __future__ import annotations

KEPT = frozenset(
    "scissors series species news swiss chassis corps debris gallows headquarters innings"
    " measles mumps pliers rabies shears clippers pincers proceedings christmas".split()
)
"""Words in -s that stay as they are."""
KEPT_IE = tuple(
    f"{word}s"
    for word in (
        "auntie beanie birdie collie cookie cutie doggie freebie groupie hippie hoagie indie junkie"
        " laddie lingerie nightie oldie pixie rookie softie sweetie techie veggie yuppie zombie"
    ).split()
)
"""Plurals in -ies that stay plurals."""
IRREGULAR = (
    ("children", "child"),
    ("people", "person"),
    ("geese", "goose"),
    ("feet", "foot"),
    ("teeth", "tooth"),
    ("men", "man"),
    ("leaves", "leaf"),
    ("loaves", "loaf"),
    ("moves", "move"),
    ("axes", "axe"),
    ("sexes", "sex"),
    ("brethren", "brother"),
)
"""(end of a plural, end of its singular); also within compounds ("grandchildren")."""
_VOWELS = frozenset("aeiouy")
_ENDINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("quizzes",), "zes", ""),
    (("matrices",), "ices", "ix"),
    (("aliases", "statuses", "buses"), "es", ""),
    (("crises", "testes"), "es", "is"),
    (("shoes",), "s", ""),
    (("oes",), "es", ""),
    (("mice", "lice"), "ice", "ouse"),
    (("xes", "ches", "sses", "shes"), "es", ""),
    (("movies", "ombies"), "s", ""),
)
"""(ends of a plural, what is cut, what is added); the first that fits is used."""
_VES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("deaves",), "ve"),
    (("eaves",), "f"),
    (("alves", "elves", "olves"), "f"),
    (("arves",), "f"),
    (("erves",), "ve"),
    (("nives", "lives", "wives"), "fe"),
    (("lves", "rves"), "f"),
    (("aves", "eves", "oves"), "ve"),
    (("sives", "tives", "hives"), "ve"),
    (("ves",), "fe"),
)
"""(ends of a plural in -ves, what is added in place of it); the first that fits is used."""


def singular(word: str) -> str:
    """The singular of a word in lower case; a word that looks like no plural stays."""
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    if word in KEPT or word.endswith(KEPT_IE):
        return word
    if word.startswith("oxen"):
        return "ox" + word.removeprefix("oxen")
    for plural, single in IRREGULAR:
        if word.endswith(plural):
            return word.removesuffix(plural) + single
    for ends, cut, add in _ENDINGS:
        if word.endswith(ends):
            return word.removesuffix(cut) + add
    if word.endswith("ies") and word[-4:-3] not in _VOWELS and len(word) > 3:
        return word.removesuffix("ies") + "y"
    if word.endswith("ves"):
        added = next(single for ends, single in _VES if word.endswith(ends))
        return word.removesuffix("ves") + added
    return word.removesuffix("s")
