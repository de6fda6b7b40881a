"""What prompt sets share: filling templates safely, checking their placeholders, a fingerprint, and
reading a user's own file.

A prompt set is a frozen dataclass of texts with a ``name``; which placeholders each text holds is
said beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

T = TypeVar("T")


def fill(template: str, **values: str) -> str:
    """The template with every ``{name}`` replaced in one pass: braces inside a model's own text are
    never read as templates."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def check_placeholders(where: str, template: str, wanted: Sequence[str]) -> None:
    """ValueError unless the template holds each wanted placeholder, and no other."""
    held = set(_PLACEHOLDER.findall(template))
    for missing in [word for word in wanted if word not in held]:
        raise ValueError(f"{where} lacks {{{missing}}}; write {{{missing}}} where that text goes.")
    for extra in sorted(held.difference(wanted)):
        allowed = ", ".join(f"{{{word}}}" for word in wanted) or "no placeholder"
        raise ValueError(f"{where} holds {{{extra}}}; it may hold {allowed}: take {{{extra}}} out.")


def fingerprint(prompts: Any) -> str:
    """sha256 of a prompt set as JSON: two runs with one fingerprint sent the same sentences."""
    text = json.dumps(dataclasses.asdict(prompts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_prompts(kind: type[T], path: str | Path) -> T:
    """A prompt set from a JSON object of exactly the class's fields. ValueError says what is wrong
    with the file."""
    path = Path(path)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"The prompt file {path} cannot be read ({error.strerror}); check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompt file {path} is not UTF-8 text; save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(
            f"The prompt file {path} is not JSON: {error.msg} in {where}; mend that place."
        ) from error
    if not isinstance(read, dict):
        raise ValueError(
            f"The prompt file {path} holds no JSON object; write {{...}} with one entry a field."
        )
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for extra in [name for name in read if name not in names]:
        raise ValueError(
            f"The prompt file {path} has an unknown field {extra!r}; the fields are"
            f" {', '.join(names)}."
        )
    for missing in [name for name in names if name not in read]:
        raise ValueError(
            f"The prompt file {path} lacks the field {missing!r}; the fields are"
            f" {', '.join(names)}."
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in read.items()
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"The prompt file {path}: {error}") from error
