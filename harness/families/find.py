"""The families there are, found by the model type that a checkpoint's config.json names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import Problem
from harness.families.family import Family
from harness.families.llava import Llava
from harness.families.qwen import Qwen

FAMILIES: Mapping[str, Callable[[Any, Any], Family]] = {"llava": Llava, "qwen2_5_vl": Qwen}
"""Model type -> the family of a loaded model and its processor."""

NAMES: Mapping[str, str] = {"llava": "llava-1.5", "qwen2_5_vl": "qwen2.5-vl"}
"""Model type -> the family's name on a base card."""


def family_of(model: Any, processor: Any = None) -> Family:
    """The family of a loaded model; without its processor it can project features and no more.

    Raises:
        Problem: its architecture is none of ours.
    """
    kind = str(model.config.model_type)
    if kind not in FAMILIES:
        raise Problem(f"The model is a {kind!r}; supported are {', '.join(f'{name} ({key})' for key, name in NAMES.items())}.")
    return FAMILIES[kind](model, processor)
