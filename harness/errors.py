"""Mistakes of a user. The command line prints each as one sentence and exits with status 2."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unicodedata import category

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that a terminal obeys or cannot print."""


class UserError(Exception):
    """A user's mistake or a full disk, never a defect of the harness.

    The message states what is wrong, what is allowed and how to mend it.
    """


class RowEnded(UserError):  # noqa: N818  (a fact about one row)
    """A round cannot be trained (no pair, a loss that is not finite, too little memory): this row
    ends, the study's other rows continue. All ranks of torchrun must meet it alike.

    The text before the first semicolon is the reason, for the table's notes."""


class PromptTooLong(UserError):  # noqa: N818  (a fact about one prompt)
    """A prompt that leaves a model no room for an answer. Its question is left out."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError into a UserError. Benchmarks raise ValueError with one sentence, because
    they import nothing of the harness."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for an unknown name: the nearest allowed name, then the first twenty of all."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UserError(f"There is no {kind} {name!r}; {hint}Known: {known or 'none'}.")


def plain(text: str) -> str:
    """The text for a terminal: control and direction characters become U+FFFD; line ends and
    tabs stay."""
    return "".join(
        char if char in "\n\t\u200c\u200d" or category(char) not in _OBEYED else "\ufffd"
        for char in text
    )


def process_name() -> str:
    """The name before this process's messages on stderr; with several processes it has a number."""
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if size in ("0", "1") or not (size.isdecimal() and rank.isdecimal()):
        return "harness"
    return f"harness (process {int(rank) + 1} of {size})"
