"""Fingerprints and differences: equal settings are equal, and each differing field is named."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from harness.artifacts.environment import arithmetic, hardware, versions
from harness.artifacts.fingerprint import canonical, describe, differences, fingerprint


@dataclass(frozen=True, kw_only=True)
class Part:
    lr: float = 1e-4
    kinds: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Settings:
    noise_step: int = 420
    part: Part = Part()
    names: frozenset[str] = frozenset({"x", "y", "z"})
    text: str = "wörds"


def test_description_is_plain_json_and_stable() -> None:
    expected = {
        "noise_step": 420,
        "part": {"lr": 1e-4, "kinds": ["a", "b"]},
        "names": ["x", "y", "z"],
        "text": "wörds",
    }
    assert describe(Settings()) == expected
    assert fingerprint(Settings()) == fingerprint(expected)
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    assert (
        fingerprint({"b": 2.0, "a": [1, None, "é"]})
        == hashlib.sha256('{"a":[1,null,"é"],"b":2}'.encode()).hexdigest()
    )
    assert fingerprint(Settings(noise_step=421)) != fingerprint(Settings())
    assert fingerprint({"a": True}) != fingerprint({"a": 1})


@pytest.mark.parametrize("value", [print, Path("a"), {"f": lambda: 0}, object()])
def test_what_cannot_be_compared_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"settings.* is a "):
        describe(value)


def test_a_setting_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        fingerprint(float("nan"))


def test_each_difference_is_named_with_both_sides() -> None:
    there = describe(Settings())
    asked = describe(replace(Settings(), noise_step=600, part=Part(lr=2e-4)))
    assert differences(there, there) == []
    assert differences(there, asked) == [
        "noise_step: 420 stored, 600 requested",
        "part.lr: 0.0001 stored, 0.0002 requested",
    ]


def test_missing_fields_and_types_differ() -> None:
    assert differences({"a": 1}, {"b": {"c": 2}}) == [
        "a: 1 stored, absent requested",
        "b.c: absent stored, 2 requested",
    ]
    assert differences({"a": True}, {"a": 1}) == ["a: true stored, 1 requested"]
    assert differences({"a": None}, {}) == ["a: null stored, absent requested"]
    assert differences({"a": 1}, {"a": 1.0}) == []


def test_long_values_are_shortened() -> None:
    (line,) = differences({"prompt": "a" * 500}, {"prompt": "b"})
    assert len(line) < 100
    assert "…" in line


def test_versions_and_hardware_name_what_ran() -> None:
    assert {"python", "torch", "transformers"} <= set(versions())
    assert int(hardware()["cores"]) >= 1
    assert canonical(hardware())
    assert arithmetic() == {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
