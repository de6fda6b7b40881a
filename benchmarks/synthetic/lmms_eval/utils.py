"""The functions that the YAML files name. lmms-eval loads this file by its path, so it imports
nothing of this project."""

from __future__ import annotations

import re
from typing import Any


def image(document: dict[str, Any]) -> list[Any]:
    return [document["image"].convert("RGB")]


def question(document: dict[str, Any]) -> str:
    return str(document["question"])


def yes_or_no(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Right: the answer holds exactly one of the words yes and no, and it is the truth. Here an
    unreadable answer is wrong."""
    words = set(re.split(r"[\W_]+", results[0].lower())) & {"yes", "no"}
    return {"accuracy": float(words == {document["answer"]}), "said_yes": float(words == {"yes"})}
