"""The rules of ARCHITECTURE.md, kept by reading the source (rules 1 to 8)."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods", "benchmarks")
TOOLKITS = {"lmms_eval": "via_lmms_eval", "vlmeval": "via_vlmevalkit"}
# A program that runs in a toolkit's environment, never imported here.
CHILDREN = tuple(f"{name}_child.py" for name in TOOLKITS.values())
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Writes of pathlib, shutil and os that leave something on the disk. ``save_pretrained`` and
# ``savefig`` are given a folder.
WRITES = {
    "write_text",
    "write_bytes",
    "mkdir",
    "rename",
    "unlink",
    "rmtree",
    "touch",
    "makedirs",
    "symlink_to",
}
# These own no run data: they write where they are told to (a trainer its stage's folder, a report
# its table, the world its weights), or their folder lies outside results/.
WRITERS = (
    "harness/artifacts/results_folder.py",
    "harness/training/",
    "harness/reporting/",
    "harness/synthetic/",
)


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, at any depth; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"rule 6: {where(path)}, line {node.lineno}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def calls(path: Path) -> Iterator[tuple[str, bool, ast.Call]]:
    """The name of every function called, and whether it is called as an attribute
    (``path.mkdir``)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            method = isinstance(node.func, ast.Attribute)
            yield (
                (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id),
                method,
                node,
            )


def opens_to_write(call: ast.Call) -> bool:
    texts = [
        part.value
        for part in [*call.args, *(word.value for word in call.keywords)]
        if isinstance(part, ast.Constant)
    ]
    return any(
        isinstance(text, str) and set(text) <= set("wxa+bt") and set(text) & set("wxa+")
        for text in texts
    )


def broken_rules(path: Path) -> list[str]:
    """The rules this file breaks, in words."""
    name, found = where(path), []
    floor = name.split("/")[0]
    for module in imports(path):
        top = module.split(".")[0]
        if floor != "harness" and top in PACKAGES and top != floor:
            found.append(f"rule 1: {floor} imports {module}")
        if floor == "benchmarks" and top == "torch" and path.name not in CHILDREN:
            found.append("rule 1: benchmarks imports torch")
        parts = module.split(".")
        if (
            name.startswith("methods/")
            and name.count("/") > 1
            and parts[:1] == ["methods"]
            and len(parts) > 2
        ):
            family = {"sena", "sima", "csr"}
            if parts[1] in family - {name.split("/")[1]} and name.split("/")[1] in family:
                found.append(f"rule 2: one method imports another: {module}")
        if floor == "harness" and "catalogue" in parts and not name.startswith("harness/studies/"):
            found.append(f"rule 3: a catalogue is read outside studies/: {module}")
        if top in TOOLKITS and not path.name.startswith(TOOLKITS[top]):
            found.append(f"rule 5: the toolkit {top} is imported outside {TOOLKITS[top]}*.py")
        if f"{parts[-1]}.py" in CHILDREN:
            found.append(f"rule 5: {module} runs in a toolkit's environment; it is not imported")
    for called, method, node in calls(path):
        if called in {"import_module", "__import__", "eval", "exec"} and not (
            called == "eval" and method
        ):
            found.append(f"rule 6: {called} by string, line {node.lineno}")
        writes = (method and called in WRITES) or (called == "open" and opens_to_write(node))
        if floor == "harness" and writes and not name.startswith(WRITERS):
            found.append(f"rule 4: {called} outside store.py, line {node.lineno}")
    if (lines := path.read_text(encoding="utf-8").count("\n")) > 400:
        found.append(f"rule 7: {lines} lines")
    return found


@pytest.mark.parametrize("path", FILES, ids=where)
def test_a_file_keeps_the_rules(path: Path) -> None:
    assert broken_rules(path) == []


def test_tests_are_under_the_line_limit_too() -> None:
    assert [
        where(path) for path in (ROOT / "tests").rglob("*.py") if path.read_text().count("\n") > 400
    ] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_resolve_here(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None
    assert ROOT in Path(found).resolve().parents


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("methods/a.py", "import harness.artifacts.results_folder", "rule 1"),
        ("methods/a.py", "from benchmarks import interface", "rule 1"),
        ("benchmarks/a.py", "def f():\n    import torch.nn", "rule 1"),
        ("methods/sena/a.py", "from methods.sima import prompts", "rule 2"),
        ("harness/pipeline/runner.py", "from methods.catalogue import METHODS", "rule 3"),
        ("harness/pipeline/runner.py", "from benchmarks import catalogue", "rule 3"),
        ("harness/pipeline/tasks.py", "path.write_text('a')", "rule 4"),
        ("harness/pipeline/tasks.py", "path.open('wb')", "rule 4"),
        ("harness/pipeline/tasks.py", "open(path, mode='a')", "rule 4"),
        ("benchmarks/pope.py", "import lmms_eval", "rule 5"),
        ("harness/a.py", "importlib.import_module('x')", "rule 6"),
        ("harness/a.py", "x = 1\n" * 401, "rule 7"),
    ],
)
def test_a_broken_rule_is_found(
    name: str, source: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert [line for line in broken_rules(path) if line.startswith(rule)]


def test_a_relative_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "methods").mkdir()
    path = tmp_path / "methods" / "a.py"
    path.write_text("from . import interface")
    with pytest.raises(AssertionError, match="rule 6"):
        broken_rules(path)
