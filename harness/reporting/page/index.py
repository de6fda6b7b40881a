"""Writes index.html: several studies on one page, each with its facts, primary metrics and a link
to its own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting.comparison import CONTROL_FIELDS, MetricResult
from harness.reporting.page import head
from harness.reporting.page import write as page
from harness.reporting.results import load_results
from harness.reporting.tables import summary
from harness.reporting.tables.html import block_fragment

FACTS = ("Base", "Pool", "Training seeds", "Rounds", "Test images")


def write(folders: Sequence[Path], *, own: bool = False) -> Path:
    """Write ``index.html`` into the folder that holds all these results folders; return its path.
    Studies without a page get one first; a packed study has none. ``own``: as in
    :func:`harness.reporting.page.write.write`.

    Raises:
        UserError: a folder holds no study, or a file is broken.
    """
    root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    root = root.parent if root in [folder.absolute() for folder in folders] else root
    studies = []
    for folder in folders:
        if not Results(folder).packed.exists() and not (folder / "page.html").exists():
            page.write(folder, own=own)
        studies.append(_study(folder, root))
    css = (page.HERE / "page.css").read_text(encoding="utf-8")
    context = {"studies": studies, "css": Markup(css), "policy": page.policy(css, "")}
    path = root / "index.html"
    write_bytes(path, page.render("index.html.jinja", context).encode())
    return path


def _study(folder: Path, root: Path) -> dict[str, Any]:
    """What the page shows of a study."""
    study = load_results(folder)
    facts = [(name, text) for name, text in head.facts(study) if name in FACTS]
    place = folder.absolute().relative_to(root)
    links = [
        (text, quote(str(place / name)))
        for name, text in (("page.html", "its page"), ("table.md", "table"), ("figures", "figures"))
        if (folder / name).exists()
    ]
    cells = stored_cells(folder / "table.csv")
    return {
        "name": study.name if study.name == place.name else f"{study.name} ({place})",
        "question": study.question,
        "facts": facts,
        "links": links,
        "block": Markup(block_fragment(summary.block(study, cells))) if cells else None,
    }


def stored_cells(path: Path) -> list[MetricResult]:
    """The results of a ``table.csv``; empty where there is none."""
    if not path.exists():
        return []
    names = {field.name: field.type for field in fields(MetricResult)}
    texts = {name: str for name, kind in names.items() if kind == "str"}
    frame = pd.read_csv(path, dtype=texts)
    frame = frame[[name for name in names if name in frame]]
    frame[[*texts]] = frame[[*texts]].fillna("")
    cells = []
    for line in frame.to_dict("records"):
        given: dict[str, Any] = {str(name): value for name, value in line.items()}
        for name in CONTROL_FIELDS:
            text = given.get(name)
            given[name] = tuple(text.split("; ")) if isinstance(text, str) else ()
        cells.append(MetricResult(**given))
    return cells
