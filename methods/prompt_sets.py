"""What prompt sets share: filling templates, checking placeholders, a fingerprint, and reading a
set from a file.

A prompt set is a frozen dataclass of texts with a ``name``. Beside it stand the placeholders of its
templates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from methods.settings import check_settings

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

T = TypeVar("T")


def fill(template: str, **values: str) -> str:
    """The template with every ``{name}`` replaced in one pass, so that braces in a model's text
    stay text."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def check_prompts(prompts: Any, placeholders: Mapping[str, Sequence[str]]) -> None:
    """Check a prompt set: its texts, and the placeholders of each field (none if not named).

    Raises:
        ValueError: a field is no text, is blank, or lacks or has a wrong placeholder.
    """
    check_settings(prompts)
    for field in fields(prompts):
        value = getattr(prompts, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            where = f"{type(prompts).__name__}.{field.name}"
            _check_placeholders(where, text, placeholders.get(field.name, ()))


def _check_placeholders(where: str, template: str, required: Sequence[str]) -> None:
    present = set(_PLACEHOLDER.findall(template))
    for missing in [name for name in required if name not in present]:
        raise ValueError(f"{where} lacks {{{missing}}}; write {{{missing}}} where that text goes.")
    for extra in sorted(present.difference(required)):
        allowed = ", ".join(f"{{{name}}}" for name in required) or "no placeholder"
        raise ValueError(f"{where} holds {{{extra}}}; it may hold {allowed}: take {{{extra}}} out.")


def fingerprint(prompts: Any) -> str:
    """sha256 of a prompt set as JSON; equal fingerprints mean equal sentences."""
    text = json.dumps(asdict(prompts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_prompts(kind: type[T], path: str | Path) -> T:
    """A prompt set from a JSON object with exactly the class's fields.

    Raises:
        ValueError: the file cannot be read or does not hold such a set; the sentence says where.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"The prompt file {path} cannot be read ({error.strerror}); check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompt file {path} is not UTF-8 text; save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(
            f"The prompt file {path} is not JSON: {error.msg} in {where}; correct that place."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"The prompt file {path} holds no JSON object; write {{...}} with one entry per field."
        )
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    known = f"the fields are {', '.join(names)}."
    for extra in [name for name in values if name not in names]:
        raise ValueError(f"The prompt file {path} has an unknown field {extra!r}; {known}")
    for missing in [name for name in names if name not in values]:
        raise ValueError(f"The prompt file {path} lacks the field {missing!r}; {known}")
    texts = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    try:
        return kind(**texts)
    except ValueError as error:
        raise ValueError(f"The prompt file {path}: {error}") from error
