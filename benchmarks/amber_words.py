"""AMBER's word lists, and the nouns of a description that they know.

AMBER's script finds nouns with NLTK's tagger. The reading here needs no tagger. As in the script,
letter case counts: its lists hold "TV" and "tree", so "tv" and "Trees" are no words of theirs.
Words that are seldom the noun that they spell are told apart by the word beside them (``is_noun``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.objects import known_form

_PART = re.compile(r"\w+(?:-\w+)*|[^\w\s]")
NEVER_NOUNS = frozenset({"can", "hot", "hots", "leaves", "clothes"})
"""Words that the script's tagger and lemmatizer never read as the noun of the lists: a verb, an
adjective, and the plurals of leaf and of clothes, not of "leave" and "cloth"."""
SUBJECTS = frozenset("i you he she it we they who".split())
"""A word behind one of these is a verb: "she paddles"."""
ADJECTIVES = frozenset({"light", "orange"})
PHRASE_ENDS = frozenset(
    "a an the and or but is are was were be on in of at by to from with near for under over above"
    " below behind beside that which who as while into through against along across around has have"
    " had can may might will would could it its there his her their".split()
)
"""Words that end a noun phrase. An adjective stands before another word: "a light wind"."""


def is_noun(before: str, word: str, after: str) -> bool:
    """Whether a word that the lists know is a noun between its neighbours (words or marks)."""
    if word in NEVER_NOUNS or before in SUBJECTS:
        return False
    return word not in ADJECTIVES or not after.isalpha() or after in PHRASE_ENDS


@dataclass(frozen=True, kw_only=True)
class Words:
    """The word lists that nouns are compared with."""

    relation: Mapping[str, tuple[str, ...]]
    """Object -> words that name it."""
    safe: frozenset[str]
    """Words that are never a hallucination."""
    similar: Mapping[str, frozenset[str]]

    @property
    def vocabulary(self) -> frozenset[str]:
        words = (word for words in self.relation.values() for word in words)
        return frozenset(self.relation) | frozenset(words)

    def nouns(self, caption: str, vocabulary: frozenset[str]) -> list[str]:
        """The known nouns of a caption in the singular, with repetitions."""
        tokens = _PART.findall(caption)
        triples = zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False)
        words = (word for before, word, after in triples if is_noun(before.lower(), word, after))
        singular = (known_form(word, vocabulary) for word in words)
        return [word for word in singular if word in vocabulary]

    def index_by_word(self, objects: Sequence[str]) -> dict[str, int]:
        """Every word that names one of the objects -> the place of the first object that it names;
        in the released code's order."""
        indices: dict[str, int] = {}
        for index, name in enumerate(objects):
            for word in self.relation[name]:
                indices.setdefault(word, index)
        for index, name in enumerate(objects):
            indices.setdefault(name, index)
        return indices

    def nearest(self, noun: str, words: Mapping[str, int]) -> int | None:
        """The index of the object that the noun names: that of the first word in ``words`` that is
        the noun or similar to it."""
        similar_words = self.similar.get(noun, frozenset())
        return next(
            (index for word, index in words.items() if word == noun or word in similar_words), None
        )
