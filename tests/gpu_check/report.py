"""What the check writes: how each part ended as JSON, and one Markdown file made from all figures.

Figures are lines of gpu-check.jsonl, each with its ``part`` and one of: a ``table`` with a ``row``
and ``cells`` (a later line of the same row adds to it), a ``note`` (a sentence), or a ``block`` (a
Markdown text with a ``title``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass(kw_only=True)
class State:
    """How a part stands: waiting, running, done, failed, ran over or left out; seconds, and why."""

    name: str
    title: str
    state: str = "waiting"
    seconds: float = 0.0
    limit: float = 0.0
    why: str = ""


def write(out: Path, about: str, states: Sequence[State]) -> None:
    """Write gpu-check.json and gpu-check.md anew, each by a rename."""
    content = {"about": about, "parts": [asdict(state) for state in states]}
    replace(out / "gpu-check.json", json.dumps(content, indent=1) + "\n")
    replace(out / "gpu-check.md", markdown(about, states, read(out)))


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.rename(path)


def read(out: Path) -> list[Line]:
    """The figures so far; a line that was cut while it was written is left out."""
    path, found = out / "gpu-check.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def markdown(about: str, states: Sequence[State], lines: Sequence[Line]) -> str:
    """The whole file: how the parts ended, then a section for each."""
    text = ["# GPU check", "", f"{about}.", ""]
    text += ["| part | state | seconds | of |", "| :-- | :-- | --: | --: |"]
    for state in states:
        limit = f"{state.limit:.0f}" if state.limit else ""
        text.append(f"| {state.title} | {state.state} | {state.seconds:.0f} | {limit} |")
    for state in states:
        mine = [line for line in lines if line["part"] == state.name]
        if not mine and not state.why:
            continue
        text += ["", f"## {state.title}"]
        if state.why:
            text += ["", f"**{state.state}**", "", "```text", state.why.rstrip(), "```"]
        text += section(mine)
    return "\n".join([*text, ""])


def section(lines: Sequence[Line]) -> list[str]:
    """Tables, notes and blocks in the order in which each began."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    order: list[tuple[str, Line]] = []
    for line in lines:
        if "table" not in line:
            order.append(("", line))
            continue
        if line["table"] not in tables:
            order.append((line["table"], line))
        rows = tables.setdefault(line["table"], {})
        rows.setdefault(line["row"], {}).update(line["cells"])
    text: list[str] = []
    for table, line in order:
        if table:
            text += ["", f"### {table}", "", *table_of(tables[table])]
        elif "note" in line:
            text += ["", line["note"]]
        else:
            text += ["", f"### {line['title']}", "", line["block"].rstrip()]
    return text


def table_of(rows: dict[str, dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    text = ["| | " + " | ".join(columns) + " |", "| :-- |" + " --: |" * len(columns)]
    for name, cells in rows.items():
        shown = " | ".join(cell(cells.get(column)) for column in columns)
        text.append(f"| {name} | {shown} |")
    return text


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")
