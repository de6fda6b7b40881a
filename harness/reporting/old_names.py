"""Old names in results folders, and their present names. A folder with old names opens like a new
one; its files are not changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORDS: Mapping[str, str] = {
    "world_chair_short": "synthetic_chair_short",
    "world_chair": "synthetic_chair",
    "world_pope": "synthetic_pope",
    "world_vqa": "synthetic_vqa",
    "truth_dpo": "gt_dpo",
    "anchor_weight": "alignment_weight",
}
"""Replaced wherever they occur as a whole word: in fields, values, labels and folders' names."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "base": {"embedded": "synthetic"},
    "pool": {"world": "synthetic"},
    "name": {"world": "synthetic"},
    "role": {"bound": "reference", "derived": "matched"},
}
"""Replaced only as the whole value of this field; elsewhere they are ordinary words."""

_WORD = re.compile(rf"\b({'|'.join(WORDS)})\b")
_VARIED = re.compile(r"(.+) ([A-Za-z_][\w.]*)=(.*)")


def present(value: Any, field: str = "") -> Any:
    """A JSON value of an old folder with the present names; ``field`` is the key that holds it."""
    if isinstance(value, Mapping):
        return {present(key): present(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [present(inner, field) for inner in value]
    if isinstance(value, str):
        value = VALUES.get(field, {}).get(value, value)
        return _WORD.sub(lambda match: WORDS[match[0]], value)
    return value


def study(content: Any) -> Any:
    """The content of ``study.json`` with the present names. Old runs lack the field ``varied``
    (the one setting that differs from another row); it is read from their label, such as ``sena
    noise_step=200``."""
    content = present(content)
    for run in content["runs"]:
        if "varied" not in run:
            match = _VARIED.fullmatch(run["label"])
            run["varied"] = match and dict(
                zip(("row", "field", "value"), match.groups(), strict=True)
            )
    return content
