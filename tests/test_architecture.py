"""The rules of ARCHITECTURE.md, checked by reading the source."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FLOORS = (
    ("cli",),
    ("pipeline",),
    ("study", "synthetic"),
    ("training", "engine", "data", "reporting"),
    ("models",),
    ("artifacts",),
)
"""The rooms of harness/, from the top floor down. A room imports from lower floors only."""
ROOMS = [room for rooms in FLOORS for room in rooms]
SAME_FLOOR = {("reporting", "data")}
"""Arrows allowed between rooms of one floor: (importing, imported)."""
FLAT = {"__init__.py", "__main__.py", "errors.py"}
"""The only files directly in harness/."""

TOOLKITS = {"lmms_eval": "via_lmms_eval", "vlmeval": "via_vlmevalkit"}
CHILDREN = tuple(f"{name}_child.py" for name in TOOLKITS.values())
"""Programs that run in a toolkit's own environment; nothing here imports them."""

WRITES = set("write_text write_bytes mkdir rename unlink rmtree touch makedirs symlink_to".split())
"""Calls that leave something on the disk. ``save_pretrained`` and ``savefig`` get a folder."""
WRITERS = (
    "harness/artifacts/",
    "harness/training/",
    "harness/reporting/",
    "harness/synthetic/",
)
"""Rooms that may write: artifacts owns the results folder; the others write where they are told."""


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
    """Each call: the function's name, whether it is an attribute (``path.mkdir``), the node."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr, True, node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, False, node


def opens_to_write(call: ast.Call) -> bool:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [part.value for part in arguments if isinstance(part, ast.Constant)]
    return any(
        isinstance(text, str) and set(text) <= set("wxa+bt") and set(text) & set("wxa+")
        for text in texts
    )


def room_of(name: str) -> str | None:
    """The room of a file of harness/ (``harness/cli/main.py``: cli); None for the flat files."""
    parts = name.split("/")
    return parts[1] if parts[0] == "harness" and len(parts) > 2 else None


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def broken_rules(path: Path) -> list[str]:
    """The rules that this file breaks, in words."""
    name, broken = where(path), []
    package, room = name.split("/")[0], room_of(name)
    if package == "harness" and room is None and path.name not in FLAT:
        broken.append(f"rule 3: {name} lies flat in harness/")
    for module in imports(path):
        parts = module.split(".")
        if package != "harness" and parts[0] in PACKAGES and parts[0] != package:
            broken.append(f"rule 1: {package} imports {module}")
        if package == "benchmarks" and parts[0] == "torch" and path.name not in CHILDREN:
            broken.append("rule 1: benchmarks imports torch")
        if (
            name.startswith("methods/")
            and name.count("/") > 1
            and parts[0] == "methods"
            and len(parts) > 2
            and (ROOT / "methods" / parts[1]).is_dir()
            and parts[1] != path.parent.name
        ):
            broken.append(f"rule 2: {name} imports {module}")
        if room and parts[0] == "harness" and parts[1:] and parts[1] in ROOMS and parts[1] != room:
            down = floor_of(parts[1]) > floor_of(room)
            if not down and (room, parts[1]) not in SAME_FLOOR:
                broken.append(f"rule 3: {name} imports {module}: the arrow does not go down")
        if parts[0] in TOOLKITS and not path.name.startswith(TOOLKITS[parts[0]]):
            broken.append(f"rule 5: {name} imports {module}")
        if parts[-2:] == ["importlib", "import_module"]:
            broken.append(f"rule 6: {name} imports by string")
    for function, attribute, node in calls(path):
        if package == "harness" and not name.startswith(WRITERS):
            writes = (attribute and function in WRITES) or (
                function == "open" and opens_to_write(node)
            )
            if writes:
                broken.append(f"rule 4: {name}, line {node.lineno}: {function} writes a file")
        if function == "import_module":
            broken.append(f"rule 6: {name}, line {node.lineno}: import by string")
    return broken + size_rules(path)


def size_rules(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"rule 7: {where(path)} has {len(lines)} lines"] if len(lines) > 400 else []


@pytest.mark.parametrize("path", FILES, ids=where)
def test_a_file_keeps_the_rules(path: Path) -> None:
    assert broken_rules(path) == []


@pytest.mark.parametrize("path", TESTS, ids=where)
def test_tests_keep_the_size_limit(path: Path) -> None:
    assert size_rules(path) == []


def module_of(path: Path) -> str:
    return where(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(group)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def test_no_modules_import_each_other() -> None:
    """Rule 3: no circle; imports inside functions count too."""
    modules = {module_of(path): path for path in FILES}
    graph: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        graph[module] = {
            name
            for target in imports(path)
            for name in (target, target.rpartition(".")[0])
            if name in modules and name != module and modules[name].name != "__init__.py"
        }
    assert circles(graph) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_class_and_no_file_name_stands_twice_in_the_harness() -> None:
    """Rule 8."""
    harness = [path for path in FILES if where(path).startswith("harness/")]
    classes = Counter(
        node.name
        for path in harness
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    names = Counter(path.name for path in harness if path.name not in ("__init__.py",))
    assert [name for name, count in (classes + names).items() if count > 1] == []


def test_every_room_is_in_the_picture() -> None:
    """ARCHITECTURE.md names every room and every file of methods/ and benchmarks/ folders."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "harness").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", text)] == []


def test_packages_resolve_inside_this_repository() -> None:
    """Rule 9: the package names are generic, so another installation could shadow them."""
    for package in PACKAGES:
        file = importlib.import_module(package).__file__
        assert file is not None
        assert ROOT in Path(file).resolve().parents


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("methods/a.py", "import harness.artifacts.results_folder", "rule 1"),
        ("methods/a.py", "from benchmarks import interface", "rule 1"),
        ("benchmarks/a.py", "def f():\n    import torch.nn", "rule 1"),
        ("harness/a.py", "x = 1", "rule 3"),
        ("harness/models/a.py", "from harness.engine.engine import Engine", "rule 3"),
        ("harness/training/a.py", "def f():\n    import harness.data.pool", "rule 3"),
        ("harness/pipeline/a.py", "from harness.cli import main", "rule 3"),
        ("harness/pipeline/a.py", "path.write_text('a')", "rule 4"),
        ("harness/pipeline/a.py", "path.open('wb')", "rule 4"),
        ("harness/pipeline/a.py", "open(path, mode='a')", "rule 4"),
        ("benchmarks/pope.py", "import lmms_eval", "rule 5"),
        ("harness/models/a.py", "importlib.import_module('x')", "rule 6"),
        ("harness/models/a.py", "x = 1\n" * 401, "rule 7"),
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


def test_methods_do_not_import_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for method in ("sena", "sima"):
        (tmp_path / "methods" / method).mkdir(parents=True)
    path = tmp_path / "methods" / "sena" / "a.py"
    path.write_text("from methods.sima import prompts")
    assert broken_rules(path) == ["rule 2: methods/sena/a.py imports methods.sima.prompts"]


def test_a_relative_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "methods").mkdir()
    path = tmp_path / "methods" / "a.py"
    path.write_text("from . import interface")
    with pytest.raises(AssertionError, match="rule 6"):
        broken_rules(path)
