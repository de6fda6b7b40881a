"""What pyproject.toml asks for is what the code imports, and constraints.txt pins it within
range."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
MODULES = {"pillow": "PIL"}
"""The module of a package, where it has another name."""
OPTIONAL = {"bitsandbytes", "nltk", "ray", "tensorboard", "trackio", "wandb"}
"""Imported only where the user asks for them; a sentence names the package that is missing."""
UNSEEN = {"pyarrow"}
"""Required though no file need import it: pandas reads Parquet with pyarrow."""


def imported() -> set[str]:
    """Top-level modules that harness, methods and benchmarks import, at any depth of a file.

    The ``via_`` files run in a toolkit's environment, or ask for one.
    """
    found: set[str] = set()
    for package in ("harness", "methods", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name.startswith("via_") or "lmms_eval" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names) - {"harness", "methods", "benchmarks"}


@pytest.mark.thorough
def test_every_requirement_is_imported_and_every_import_is_required() -> None:
    asked = {MODULES.get(one.name, one.name) for one in ASKED}
    found = imported()
    assert found - OPTIONAL - asked == set()
    assert asked - UNSEEN - found == set()


def test_every_requirement_has_a_lowest_version_and_a_pin_in_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for one in ASKED:
        assert [part for part in one.specifier if part.operator == ">="], (
            f"{one}: no lowest version"
        )
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


def test_the_citation_names_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    cited = dict(line.split(": ", 1) for line in lines if line[:1].isalpha() and ": " in line)
    project = PROJECT["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
