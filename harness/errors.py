"""A user's mistake, said in one sentence; ``python -m harness`` prints it and exits with 2, without
a traceback."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What is wrong, what is allowed and how to mend it: a user's mistake or a full disk, never a
    defect of ours."""


class NoPairs(UserError):
    """A row's round has made no pair to train on: the row ends there, and the study's other rows go
    on."""


def unknown(what: str, name: str, allowed: Iterable[str]) -> UserError:
    """The problem of a name that is not there: the nearest allowed name, then all of them (or the
    first twenty)."""
    names = list(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UserError(f"There is no {what} {name!r}; {hint}Known: {known or 'none'}.")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError into a UserError. Benchmarks raise ValueError with one sentence, because
    they import nothing of the harness."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def speaker() -> str:
    """How this process signs what it says on stderr: only members of a team give a number."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (
        "harness"
        if size == 1
        else f"harness (process {int(os.environ.get('RANK', '0')) + 1} of {size})"
    )
