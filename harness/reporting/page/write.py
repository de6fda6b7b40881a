"""One HTML file to look at what was made: the question, the table, the figure, and the pairs and
drops with their images.

It needs no network and no weights. All text of models and data is untrusted: jinja2 escapes it, the
script puts it in as text, and the page's own content security policy allows nothing but its two
inline files and data URIs."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting.page import questions as browser
from harness.reporting.page.cards import collect, limits, visible
from harness.reporting.page.images import Album, data_uri
from harness.reporting.results import shown
from harness.reporting.tables import build as tables
from harness.reporting.tables.html import block_fragment

HERE = Path(__file__).parent
FIGURE = "before-and-after"


def write(out: Path, *, exclude_leaks: bool = False, made: tables.Comparison | None = None) -> Path:
    """Write ``page.html`` into a study's folder from its records, figures and pool; its path.
    ``exclude_leaks``: its table without the images that are in the training pool too. ``made`` is
    what ``tables.load`` gave, where it was called already.

    Raises:
        UserError: the folder holds no study, or a record is broken.
    """
    Results(out).check_whole("the page shows images, answers and pairs")
    path = out / "page.html"
    write_bytes(path, build(out, exclude_leaks=exclude_leaks, made=made).encode())
    return path


def build(out: Path, *, exclude_leaks: bool = False, made: tables.Comparison | None = None) -> str:
    """The page. Equal records and images give an equal page."""
    made = made or tables.load(out, exclude_leaks=exclude_leaks)
    records, table = made.records, made.table
    album = Album()
    groups, cards = collect(records, Results(out), album)
    questions = browser.collect(records, Results(out), made.cells, album)
    css, *scripts = (
        (HERE / name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "questions.js")
    )
    script = "\n".join(scripts)
    names = [visible(shown(one.name), 200) for one in records.benchmarks]
    context: dict[str, Any] = {
        "table": table,
        "blocks": [
            Markup(block_fragment(one, name))
            for one, name in zip(table.blocks, names, strict=False)
        ],
        "more": [Markup(block_fragment(one)) for one in table.blocks[len(names) :]],
        "figures": figures(out),
        "questions": questions,
        "groups": groups,
        "limits": limits(records),
        "notes": tuple(album.notes.values()),
        "css": Markup(css),
        "script": Markup(script),
        "policy": policy(css, script),
        "data": island(
            {"groups": groups, "cards": cards, "pictures": album.uris, "questions": questions}
        ),
    }
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible}
    return environment.get_template("page.html.jinja").render(context)


def figures(out: Path) -> list[tuple[str, str]]:
    """The study's figures as (name, data URI), before and after first."""
    paths = sorted(
        (out / "figures").glob("*.png"), key=lambda path: (path.stem != FIGURE, path.stem)
    )
    return [
        (path.stem.replace("-", " ").replace("_", " "), data_uri("image/png", path.read_bytes()))
        for path in paths
    ]


def island(value: object) -> Markup:
    """JSON that stands in a script element: no ``<``, ``>`` or ``&`` is left that could end it or
    begin another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def policy(css: str, script: str) -> str:
    """The content security policy: nothing from outside, no script or style but these two."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src"
        f" 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
