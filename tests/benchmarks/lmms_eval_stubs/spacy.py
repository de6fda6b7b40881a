"""A stub of spaCy for lmms-eval's amber_g, made by the project: its word vectors (en_core_web_md)
are a download of their own and no package of PyPI. Here two words are similar when they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    text: str

    def similarity(self, other: Word) -> float:
        return float(self.text == other.text)


class Language:
    """The datasets library asks whether an object is one."""


def load(_name: str) -> type[Word]:
    return Word
