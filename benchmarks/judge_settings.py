"""The settings of a judge: a JSON file, named by the environment variable SELFSIGHT_JUDGE, whose
keys are the fields of :class:`Settings`. ``answer --server`` takes such a file, too."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import files

JUDGE_VARIABLE = "SELFSIGHT_JUDGE"
"""The environment variable with the path of the settings' file."""


_WHOLE_NUMBERS = {
    "repeats": (1, 1000),
    "max_tokens": (1, 1_000_000),
    "concurrency": (1, 256),
    "retries": (0, 1000),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model judges, and how it is asked. Paths are relative to the settings' file."""

    base_url: str
    """The server's address before ``/chat/completions``."""
    model: str
    """The model to ask for."""
    version: str = ""
    """The model that the server must name in its replies, so that a silent change of model is
    found; empty: ``model``."""
    key_variable: str | None = "OPENAI_API_KEY"
    """The environment variable with the key; None: no key is sent (a local server)."""
    repeats: int = 1
    """How often each answer is judged."""
    max_tokens: int = 512
    """Tokens of a verdict, at most."""
    concurrency: int = 4
    """Requests under way at once."""
    requests_per_minute: float = 60.0
    retries: int = 6
    """Tries after the first."""
    backoff: float = 1.0
    """Seconds before the first retry; doubled each time."""
    timeout: float = 120.0
    """Seconds for a whole reply."""
    price_in: float | None = None
    """Price of a million tokens of prompts, in any currency; for the estimate alone."""
    price_out: float | None = None
    """Price of a million tokens of verdicts."""
    recording: str = "judgements.jsonl"
    """The file of the judgements."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Benchmark -> the file of another prompt than its own."""

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise _setting_error(
                    name, value, f"it must be a whole number from {low} to {high:,}"
                )
        for name in ("requests_per_minute", "backoff", "timeout"):
            value = getattr(self, name)
            if not _is_number(value) or not 0.001 <= value <= 1_000_000:
                raise _setting_error(name, value, "it must be a number from 0.001 to 1,000,000")
        for name in ("price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= 1e12):
                raise _setting_error(
                    name, value, "give the price of a million tokens, or leave it out"
                )
        for name in ("base_url", "model", "version", "recording"):
            value = getattr(self, name)
            if not isinstance(value, str) or (not value and name != "version"):
                raise _setting_error(name, value, "it must be a text")
            files.check_text("The settings", value, name, "take it out")
        self._check_key_variable()
        self._check_base_url()
        prompts: Any = self.prompts
        if not isinstance(prompts, Mapping) or not all(
            isinstance(path, str) for path in prompts.values()
        ):
            raise ValueError('The setting prompts must look like {"mmhal": "path/to/prompt.txt"}.')
        for path in prompts.values():
            files.check_text("The settings", path, "prompts", "take it out")

    def _check_key_variable(self) -> None:
        variable: Any = self.key_variable
        if variable is not None and not (
            isinstance(variable, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable)
        ):  # perhaps the key itself: it is not repeated
            raise ValueError(
                "The setting key_variable is no name of an environment variable; name the one that"
                " holds the key."
            )

    def _check_base_url(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "The setting base_url must be an address such as https://api.openai.com/v1."
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(  # perhaps with the key: it is not repeated
                "The setting base_url holds a name, key or query; put the key into an environment"
                " variable."
            )

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def pinned_model(self) -> str:
        """The model that the server must name."""
        return self.version or self.model

    @property
    def name(self) -> str:
        """The judge's name in a column's version: the model, and the number of repeats."""
        return self.pinned_model + (f" x{self.repeats}" if self.repeats > 1 else "")


def _setting_error(name: str, value: object, rule: str) -> ValueError:
    try:
        value_text = f"{value!r:.60}"
    except ValueError:  # a number of thousands of digits
        value_text = "too long a number"
    return ValueError(f"The setting {name} is {value_text}; {rule}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_settings(path: Path) -> Settings:
    """
    Raises:
        ValueError: the file is missing or no JSON object, a key is unknown or missing, or a value
            is out of range.
    """
    try:
        values = json.loads(files.plain_bytes(path).decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"The settings {path} cannot be read ({error.strerror}); give the path of a JSON file."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The settings {path} are no JSON: {error}.") from None
    allowed = [setting.name for setting in dataclasses.fields(Settings)]
    required = ("base_url", "model")
    if not isinstance(values, dict) or any(name not in values for name in required):
        raise ValueError(
            f"The settings {path} must be a JSON object with {' and '.join(required)}."
        )
    if unknown := sorted(set(values) - set(allowed)):  # a value may be a key: it is not repeated
        raise ValueError(
            f"The settings {path} hold {unknown[0]!r}, which is none of: {', '.join(allowed)}."
        )
    try:
        return Settings(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
