"""No code of a checkpoint is run.

transformers can load Python files that a checkpoint brings, or kernels that its config.json names.
Every call here forbids the first (``trust_remote_code=False``, so that nobody is asked); the second
is refused before loading. Jinja chat templates run in transformers' sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UserError


@contextmanager
def without_own_code(*sources: str) -> Iterator[None]:
    """Around loading from ``sources``, folders or hub ids: states that code would be needed.

    Raises:
        UserError: a checkpoint can only be loaded by running code that it brings or names.
    """
    for source in sources:
        path = Path(source) / "config.json"
        if path.is_file() and (kernel := _kernel(path)):
            raise UserError(
                f"{path} names the attention code {kernel!r}, which would be downloaded and run;"
                " remove attn_implementation from it."
            )
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{' or '.join(dict.fromkeys(sources))} can only be loaded by Python code that the"
            " checkpoint brings (auto_map in its JSON files), and no such code is run; give a"
            " checkpoint in transformers' own format."
        ) from error


def _kernel(path: Path) -> str | None:
    """The attention that a config.json names by a hub repository; None: there is none."""
    kernels: list[str] = []

    def collect(fields: dict[str, Any]) -> dict[str, Any]:
        for name, value in fields.items():
            if "attn_implementation" in name:
                values = value.values() if isinstance(value, dict) else [value]
                kernels.extend(text for text in values if isinstance(text, str) and "/" in text)
        return fields

    try:
        json.loads(path.read_text(encoding="utf-8"), object_hook=collect)
    except (OSError, ValueError, RecursionError):
        return None  # loading it gives the error
    return kernels[0] if kernels else None
