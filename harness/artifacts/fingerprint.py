"""The identity of a result: settings as plain JSON, their fingerprint, their differences.

An identity holds everything that changes the output: settings, the content of weights, prompts,
the pool, versions of graders. Versions of libraries and hardware are recorded beside the results
(harness/artifacts/environment.py) and are not compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def describe(value: object, name: str = "settings") -> Any:
    """Settings as JSON: dataclasses become objects, tuples become lists, sets sorted lists.

    ``name`` begins the sentence of an error.

    Raises:
        TypeError: a value has no stable text (functions, paths, tensors), so the next run could
            not compare it.
        ValueError: a number is not finite, or a text has a lone surrogate.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; a number must be finite")
        return value
    if isinstance(value, str):
        if not storable(value):
            raise ValueError(
                f"{name} holds half of a character (a lone surrogate), which UTF-8 cannot store"
            )
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {field: describe(getattr(value, field), f"{name}.{field}") for field in names}
    if isinstance(value, Mapping):
        return {
            describe(str(key), f"a key of {name}"): describe(entry, f"{name}.{key}")
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [describe(entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((describe(entry, f"{name}[...]") for entry in value), key=canonical)
    raise TypeError(
        f"{name} is a {type(value).__name__}; use numbers, text, tuples, mappings and dataclasses"
        " of these"
    )


def storable(text: str) -> bool:
    """Whether UTF-8 can hold the text: it has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def fingerprint(value: object) -> str:
    """SHA-256 (hex) of a value's canonical JSON; 2.0 and 2 count as the same setting."""
    return hashlib.sha256(canonical(_integers(describe(value))).encode()).hexdigest()


def _integers(value: Any) -> Any:
    """The same JSON with whole floats as integers."""
    if isinstance(value, dict):
        return {key: _integers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_integers(entry) for entry in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """One line per field that differs, such as ``method.noise_step: 420 stored, 600 requested``."""
    stored_fields, requested_fields = flat(stored), flat(requested)
    lines = []
    for key in [*stored_fields, *(key for key in requested_fields if key not in stored_fields)]:
        old, new = stored_fields.get(key, _ABSENT), requested_fields.get(key, _ABSENT)
        # 1 and 1.0 are the same setting; True and 1 are not.
        if old != new or isinstance(old, bool) != isinstance(new, bool):
            lines.append(f"{key}: {_short(old)} stored, {_short(new)} requested")
    return lines


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, with keys joined by dots."""
    if isinstance(value, Mapping) and (value or not prefix):
        flattened: dict[str, object] = {}
        for key, entry in value.items():
            flattened |= flat(entry, f"{prefix}.{key}" if prefix else str(key))
        return flattened
    return {prefix: value}


def _short(value: object, width: int = 60) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"
