"""Prompt sets: the base class of a method's texts, and filling templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from methods.settings import Text, check_settings

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def fill(template: str, **values: str) -> str:
    """The template with every ``{name}`` replaced in one pass, so that braces in a model's text
    stay text."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Texts that a method sends, as a frozen dataclass. They are part of a run's identity."""

    placeholders: ClassVar[Mapping[str, Sequence[str]]] = {}
    """The placeholders of each template, each at least once; all other texts have none."""

    name: Text

    def __post_init__(self) -> None:
        check_settings(self)
        for field in fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                where = f"{type(self).__name__}.{field.name}"
                _check_placeholders(where, text, self.placeholders.get(field.name, ()))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """A prompt set from a JSON object with exactly this class's fields.

        Raises:
            ValueError: the file cannot be read or does not hold such a set; the sentence says
                where.
        """
        path = Path(path)
        texts = _read_object(path)
        names = [field.name for field in fields(cls)]
        fields_text = f"the fields are {', '.join(names)}."
        for extra in [name for name in texts if name not in names]:
            raise ValueError(
                f"The prompt file {path} has an unknown field {extra!r}; {fields_text}"
            )
        for missing in [name for name in names if name not in texts]:
            raise ValueError(f"The prompt file {path} lacks the field {missing!r}; {fields_text}")
        values: dict[str, Any] = {
            name: tuple(text) if isinstance(text, list) else text for name, text in texts.items()
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"The prompt file {path}: {error}") from error


def _check_placeholders(where: str, template: str, required: Sequence[str]) -> None:
    present = set(_PLACEHOLDER.findall(template))
    for missing in [name for name in required if name not in present]:
        raise ValueError(f"{where} lacks {{{missing}}}; write {{{missing}}} where that text goes.")
    for extra in sorted(present.difference(required)):
        allowed = ", ".join(f"{{{name}}}" for name in required) or "no placeholder"
        raise ValueError(f"{where} holds {{{extra}}}; it may hold {allowed}: take {{{extra}}} out.")


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for for ever
            raise ValueError(f"The prompt file {path} is no plain file; give a JSON file.")
        value = json.loads(path.read_text(encoding="utf-8"))
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
    except RecursionError:
        raise ValueError(f"The prompt file {path} is not JSON: nested too deep.") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"The prompt file {path} holds no JSON object; write {{...}} with one entry per field."
        )
    return value
