"""Reading yes or no out of an answer, three ways; None: the answer cannot be read so.

- ``read_strict``: the answer is the one word yes or no, but for case and punctuation.
- ``read_words``: exactly one of the words yes and no occurs (VLMEvalKit's ``YOrN_Extraction``: both or neither is unknown).
- ``read_official``: POPE's own evaluation (Li et al., arXiv 2305.10355), which reads *every* answer, an empty one as yes.
"""

from __future__ import annotations

import re
from typing import Literal

YesNo = Literal["yes", "no"]


def read_strict(answer: str) -> YesNo | None:
    """ "Yes." is yes; "yes, there is" is None."""
    word = re.sub(r"[\W_]+", " ", answer).strip().lower()
    return _either(word == "yes", word == "no")


def read_words(answer: str) -> YesNo | None:
    """ "Yes, there is a ball." is yes; "yes and no" and "maybe" are None. A negation without the word no is not read."""
    words = re.split(r"[\W_]+", answer.lower())
    return _either("yes" in words, "no" in words)


def read_official(answer: str) -> YesNo:
    """As POPE's released script: commas removed, first sentence only, split at blanks; No, no or not among the words is no,
    all else is yes (so "I cannot see one" and "NO" are yes)."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _either(yes: bool, no: bool) -> YesNo | None:
    return None if yes == no else "yes" if yes else "no"
