"""The package ``selfsight``: what a wheel holds, and its use from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import selfsight
results = selfsight.load({reference!r})
print(sorted(results.grades["benchmark"].unique())[0], len(selfsight.table({reference!r})) > 0)
"""


def test_a_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("harness", "methods", "benchmarks")
        for path in (ROOT / top).rglob("__init__.py")
    } - {"harness/cli/selfsight"}
    expected = {"selfsight", *(f"selfsight._src.{name.replace('/', '.')}" for name in packages)}
    assert set(project["tool"]["setuptools"]["packages"]) == expected


def python(code: list[str], folder: Path, sources: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    done = subprocess.run(
        [sys.executable, *code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
def test_python_reads_a_results_folder_from_anywhere(tmp_path: Path) -> None:
    """The folder has a package of a generic name, which must not be taken for ours."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise ImportError('not ours')")
    code = USE.format(reference=str(ROOT / "results" / "reference"))
    printed = python(["-c", code], tmp_path, ROOT / "harness" / "cli")
    assert printed.split() == ["synthetic_chair", "True"]


RUN = """
import selfsight
print("once")
few = {"limit": 2, "only": "untrained", "benchmarks": ["synthetic_pope"], "log_to": ["none"]}
try:
    selfsight.run("compare", out="out", **few, seeds="2.5")
except Exception as error:
    print(error)
selfsight.run("compare", out="out", **few, jobs=2, exclude_leaks=True)
"""


@pytest.mark.thorough
def test_a_script_runs_a_study_in_processes_with_the_command_lines_options(tmp_path: Path) -> None:
    """The script has no ``if __name__ == "__main__"``, so each worker would run it, too."""
    (tmp_path / "script.py").write_text(RUN)
    printed = python(["script.py"], tmp_path, ROOT / "harness" / "cli")
    assert printed.count("once") == 1
    assert "Argument --seeds: invalid int value: '2.5'" in printed
    assert (tmp_path / "out" / "table.md").is_file()


@pytest.mark.thorough
def test_the_command_exports_from_anywhere(tmp_path: Path) -> None:
    code = "import selfsight, sys; sys.exit(selfsight.main())"
    arguments = ["export", "synthetic_pope", "--limit", "3", "--out", "questions"]
    python(["-c", code, *arguments], tmp_path, ROOT / "harness" / "cli")
    assert (tmp_path / "questions" / "questions.jsonl").is_file()


@pytest.mark.slow
def test_a_wheel_works_alone(tmp_path: Path) -> None:
    """Built, unpacked and used without the checkout. Needs pip and its build environment."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    if subprocess.run(build, capture_output=True).returncode:
        pytest.skip("pip cannot build a wheel here")
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(target)], check=True)
    code = "import selfsight, sys; sys.exit(selfsight.main())"
    arguments = ["export", "synthetic_pope", "--limit", "3", "--out", "questions"]
    python(["-c", code, *arguments], tmp_path, target)
    assert (tmp_path / "questions" / "questions.jsonl").is_file()
