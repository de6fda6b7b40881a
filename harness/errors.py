"""Mistakes of a user. The command line prints each as one sentence and exits with status 2."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unicodedata import category

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that a terminal obeys or cannot print."""
_PROJECT = tuple(
    str(Path(__file__).parents[1] / name) + os.sep for name in ("harness", "methods", "benchmarks")
)
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


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


@contextmanager
def user_code(owner: object, call: str, expected: str) -> Iterator[None]:
    """Turns an error of a user's own study, method or benchmark into a UserError: a sentence with
    the user's file and what was ``expected`` of ``call``, then the traceback in the user's code.

    ``owner``: the user's object or file. A ValueError of the project's own checks is a sentence
    already and gets file and line. An error of the project's own benchmarks and methods passes
    unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [number for number, frame in enumerate(frames) if _is_users(frame.filename)]
        file = frames[own[-1]].filename if own else user_file(owner)
        if file is None:
            raise
        if own and isinstance(error, ValueError) and frames[-1].filename.startswith(_PROJECT):
            raise UserError(f"{file}, line {frames[own[-1]].lineno}: {error}") from error
        # What stands before the user's first line is the harness's way to it.
        shown = traceback.TracebackException.from_exception(error)
        shown.stack[:] = shown.stack[own[0] :] if own else []
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{file}: {call} raised {what:.300}; {expected}.\n{''.join(shown.format()).rstrip()}"
        ) from error


def user_file(owner: object) -> str | None:
    """The file of a user's own object, or the path itself; None: it belongs to this project."""
    if isinstance(owner, Path):
        return str(owner)
    module = sys.modules.get(type(owner).__module__)
    file: str | None = getattr(module, "__file__", None)
    if file is None:  # of an interactive session
        return f"The class {type(owner).__name__}"
    return file if _is_users(file) else None


def _is_users(file: str) -> bool:
    return not file.startswith((*_PROJECT, *_LIBRARIES, "<"))


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
