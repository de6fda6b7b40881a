"""The reader of a pool's text files and of the texts in them.

A file is UTF-8, with or without a byte order mark. A text is never repaired in silence: another
encoding, null, blanks, half of a character or a token that means an image is an error that names
the file and the line.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import files
from harness.artifacts.fingerprint import storable
from harness.errors import UserError, user_errors

IMAGE_TOKEN = "<image>"
"""LLaVA's place of the image in a question."""
_SPECIAL = re.compile(
    r"<image>|<video>|<\|(?:im_start|im_end|image_pad|video_pad|vision_start|vision_end"
    r"|vision_pad|endoftext)\|>",
    re.IGNORECASE,
)
"""Tokens of the model families that are no words of a text."""


class BadText(Exception):  # noqa: N818  (a reason; the caller adds file and line)
    """A text that cannot be used; the message says why."""


def read_text(file: Path) -> str:
    """The file's text with line ends ``\\n``.

    Raises:
        UserError: it cannot be read, or is not UTF-8 (the line is named).
    """
    with user_errors():
        return files.read_text(file, "give a text file in UTF-8")


def parse_json(text: str, where: str, cure: str) -> Any:
    """The JSON in ``text``.

    Raises:
        UserError: it is not JSON; the sentence begins with ``where`` and ends with ``cure``.
    """
    try:
        return json.loads(text)
    # A number of thousands of digits is a ValueError, deep nesting a RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable JSON ({error}); {cure}") from None


def checked_text(value: object) -> str:
    """The text without white space around it.

    Raises:
        BadText: it is no text, blank, holds half of a character, or a special token.
    """
    if not isinstance(value, str) or not (text := value.strip()):
        raise BadText(f"must be text that is not empty (it is {value!r:.60})")
    if not storable(text):
        raise BadText("holds half of a character (a lone surrogate), which UTF-8 cannot store")
    if special := _SPECIAL.search(text):
        raise BadText(
            f"holds {special.group()!r}, which means something else to models; take it out (the"
            " image always comes first)"
        )
    return text
