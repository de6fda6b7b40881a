"""Runs a program of ours in a toolkit's own environment. ``request.json`` goes in and
``reply.json`` comes out, both in one folder; nothing else passes between the two."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def find_python(kit: str, session: str, variable: str) -> Path:
    """The interpreter of the toolkit's environment: the one that the environment variable
    ``variable`` names, else that of the nox session.

    Raises:
        ValueError: there is none.
    """
    python_path = os.environ.get(variable)
    pattern = f".nox/{session.replace('_', '?')}*/bin/python"
    pythons = [Path(python_path)] if python_path else sorted(ROOT.glob(pattern))
    if not pythons or not pythons[0].is_file():
        problem = f"{kit} is not installed"
        if python_path:
            problem = f"{variable} names {python_path}, which is no file"
        raise ValueError(
            f"{problem}; make its environment with: python -m nox -s {session} (or name in"
            f" {variable} a Python that has it)."
        )
    return pythons[0]


def run(
    kit: str,
    step: str,
    command: list[str],
    folder: Path,
    request: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Any:
    """Run ``command FOLDER`` in ``folder`` on the request, and return the reply.

    Raises:
        ValueError: the program failed; its last words are in the sentence.
    """
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    completed = subprocess.run(
        [*command, str(folder)],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    reply = folder / "reply.json"
    if completed.returncode or not reply.is_file():
        lines = [
            line for line in (completed.stderr or completed.stdout).splitlines() if line.strip()
        ]
        last_lines = " | ".join(lines[-3:])[-600:] or f"status {completed.returncode}"
        raise ValueError(f"{kit} failed at {step} ({last_lines}); stored answers are kept.")
    return json.loads(reply.read_text(encoding="utf-8"))
