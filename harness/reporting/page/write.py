"""Writes page.html: a study's table, figures, pairs, drops and questions with their images, in one
HTML file; and index.html: several studies, each with its facts, primary metrics and a link to its
own page.

It needs no network and no weights. Texts of models and data are untrusted: jinja2 escapes them, the
script inserts them as text, and the page's content security policy allows only its own style,
script and data URIs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting import published_values
from harness.reporting.comparison import CONTROL_FIELDS, MetricResult
from harness.reporting.display_names import display_name
from harness.reporting.figures.draw import caption
from harness.reporting.page import head, questions
from harness.reporting.page.cards import collect, limits
from harness.reporting.page.images import Album, data_uri
from harness.reporting.page.texts import visible
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables import summary
from harness.reporting.tables.cells import Block
from harness.reporting.tables.html import block_fragment

HERE = Path(__file__).parent
FIGURE = "before-and-after"
ROOM = 1150
"""Pixels for a table, so that it fits a window of 1280 pixels and a printed page."""
FACTS = ("Base", "Pool", "Training seeds", "Rounds", "Test images")
"""The facts of a study in the index."""


def write(
    out: Path,
    *,
    exclude_leaks: bool = False,
    comparison: tables.ComparedStudy | None = None,
    own: bool = False,
) -> Path:
    """Write ``page.html`` into a results folder, from its files and its pool; return its path.
    ``exclude_leaks``: its table without leaked images. ``comparison``: what ``tables.load``
    returned, to save its time. ``own``: the folder is the user's own, so the pools and bases that
    its study.json names are opened (:class:`harness.reporting.page.images.Album`).

    Raises:
        UserError: the folder holds no study, is packed, or a file is broken.
    """
    Results(out).check_whole("the page shows images, answers and pairs")
    path = out / "page.html"
    comparison = comparison or tables.load(out, exclude_leaks=exclude_leaks)
    write_bytes(path, build(out, comparison, own=own).encode())
    return path


def build(out: Path, comparison: tables.ComparedStudy | None = None, *, own: bool = False) -> str:
    """The page. Equal files give an equal page."""
    comparison = comparison or tables.load(out)
    study, table = comparison.study, comparison.table
    album = Album(own=own)
    groups, cards = collect(study, album)
    question_entries = questions.collect(study, comparison.cells, album)
    css, *scripts = (
        (HERE / name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "questions.js")
    )
    script = "\n".join(scripts)
    names = [visible(display_name(benchmark.name), 200) for benchmark in study.benchmarks]
    names += [""] * (len(table.blocks) - len(names))
    blocks = []
    for block, name in zip(table.blocks, names, strict=True):
        tight, narrow_blocks = narrow(block)
        texts = [Markup(block_fragment(narrow_block, name)) for narrow_block in narrow_blocks]
        blocks.append({"heading": block.heading, "tight": tight, "parts": texts})
    graded = len(study.benchmarks)
    graded += sum(block.heading == published_values.HEADING for block in table.blocks)
    context: dict[str, Any] = {
        "table": table,
        "summary": Markup(block_fragment(table.summary)) if table.summary else "",
        "facts": head.facts(study),
        "legend": head.legend(study, table, comparison.cells),
        "rows": head.rows(study),
        "blocks": blocks[:graded],
        "more": blocks[graded:],
        "figures": figures(out),
        "questions": question_entries,
        "groups": groups,
        "limits": limits(study),
        "notes": tuple(album.notes.values()),
        "css": Markup(css),
        "script": Markup(script),
        "policy": policy(css, script),
        "data": json_island(
            {"groups": groups, "cards": cards, "images": album.uris, "questions": question_entries}
        ),
    }
    return render("page.html.jinja", context)


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of this folder, filled in; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible}
    return environment.get_template(template).render(context)


def narrow(block: Block) -> tuple[bool, list[Block]]:
    """Whether the block's intervals go below their differences, and the block in as many parts as
    fit into ``ROOM``."""
    if sum(_widths(block, tight=False)) <= ROOM:
        return False, [block]
    label, *widths = _widths(block, tight=True)
    count = -(-sum(widths) // (ROOM - label))
    size = -(-len(widths) // count)
    pieces: list[Block] = []
    for start in range(0, len(widths), size):
        cut = slice(start, start + size)
        lines = tuple(replace(line, cells=line.cells[cut]) for line in block.lines)
        heading = block.heading + (f", part {len(pieces) + 1} of {count}" if count > 1 else "")
        pieces.append(replace(block, heading=heading, columns=block.columns[cut], lines=lines))
    return True, pieces


def _widths(block: Block, *, tight: bool) -> list[int]:
    """About how many pixels the row's names and each column need: 8 a letter of a number, 7 of a
    heading's longest word, 6 of a difference with its interval."""
    names = [*block.corner.split(), *(word for line in block.lines for word in line.head.split())]
    widths = [max(8 * max(map(len, names)), 8 * 16) + 24]
    for column, heading in enumerate(block.columns):
        need = 7 * max(map(len, heading.text.split()))
        for cell in (line.cells[column] for line in block.lines):
            words = cell.value.split() if len(cell.value) > 12 else [cell.value]
            changes = cell.change.split(" ", 1) if tight else [cell.change]
            need = max(need, 8 * max(map(len, words), default=0), 6 * max(map(len, changes)))
        widths.append(need + 24)
    return widths


def figures(out: Path) -> list[tuple[str, str, str]]:
    """The study's figures as (name, data URI, caption), "before and after" first."""
    paths = sorted(
        (out / "figures").glob("*.png"), key=lambda path: (path.stem != FIGURE, path.stem)
    )
    return [
        (
            path.stem.replace("-", " ").replace("_", " "),
            data_uri("image/png", path.read_bytes()),
            caption(path.stem),
        )
        for path in paths
    ]


def json_island(value: object) -> Markup:
    """JSON for a script element, without ``<``, ``>`` and ``&``, which could end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def policy(css: str, script: str) -> str:
    """The content security policy: nothing from outside, no style and script except these."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src"
        f" 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )


def write_index(folders: Sequence[Path], *, own: bool = False) -> Path:
    """Write ``index.html`` into the folder that holds all these results folders; return its path.
    Studies without a page get one first; a packed study has none. ``own``: as in :func:`write`.

    Raises:
        UserError: a folder holds no study, or a file is broken.
    """
    root = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    root = root.parent if root in [folder.absolute() for folder in folders] else root
    studies = []
    for folder in folders:
        if not Results(folder).packed.exists() and not (folder / "page.html").exists():
            write(folder, own=own)
        studies.append(_study(folder, root))
    css = (HERE / "page.css").read_text(encoding="utf-8")
    context = {"studies": studies, "css": Markup(css), "policy": policy(css, "")}
    path = root / "index.html"
    write_bytes(path, render("index.html.jinja", context).encode())
    return path


def _study(folder: Path, root: Path) -> dict[str, Any]:
    """What the page shows of a study."""
    study = load_results(folder)
    facts = [(name, text) for name, text in head.facts(study) if name in FACTS]
    path = folder.absolute().relative_to(root)
    links = [
        (text, quote(str(path / name)))
        for name, text in (("page.html", "its page"), ("table.md", "table"), ("figures", "figures"))
        if (folder / name).exists()
    ]
    cells = stored_cells(folder / "table.csv")
    return {
        "name": study.name if study.name == path.name else f"{study.name} ({path})",
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
        values: dict[str, Any] = {str(name): value for name, value in line.items()}
        for name in CONTROL_FIELDS:
            text = values.get(name)
            values[name] = tuple(text.split("; ")) if isinstance(text, str) else ()
        cells.append(MetricResult(**values))
    return cells
