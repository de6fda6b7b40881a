"""A line of an answers file, in the formats that other programs write, and where the answers to a
benchmark lie in a folder.

- Ours: ``{"id", "answer"}``; ``"model"`` and ``"unanswered"`` are optional.
- LLaVA's evaluation scripts: ``{"question_id", "text"}``, with ``"model_id"``. The question files
  must have had our ids.
- lmms-eval's samples (``--log_samples``): ``{"doc_id", "filtered_resps", "doc"}``. ``doc_id`` is
  the number of the question in ``lmms_eval:<task>``; elsewhere the document's own id counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.artifacts.fingerprint import storable
from harness.errors import UserError

TEXTS = {"id": "answer", "question_id": "text", "doc_id": "filtered_resps"}
"""The answer's field, by the name of the id's field."""
MODELS = ("model", "model_id")


def parse(line: str) -> tuple[dict[str, Any] | None, str]:
    """The line as ``{"ids", "answer", "model", ...}``, or None and what is wrong with it. ``ids``:
    the ids that the question may have here, the likeliest first."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, "is not JSON"
    if not isinstance(row, dict):
        return None, "is not an object"
    id_field = next((id_field for id_field in TEXTS if id_field in row), "id")
    for field in (id_field, TEXTS[id_field]):
        if field not in row:
            return None, f"has no {field!r}"
    ids = _ids(row, id_field)
    answer = _unwrap(row[TEXTS[id_field]]) if id_field == "doc_id" else row[TEXTS[id_field]]
    for field, value in ((id_field, ids[0] if ids else row[id_field]), (TEXTS[id_field], answer)):
        if not isinstance(value, str) or (field == id_field and not ids):
            kind = "no text" if value is None else f"a {type(value).__name__}"
            return None, f"has {kind} as its {field!r}"
    model = next((row[key] for key in MODELS if row.get(key) is not None), None)
    for field, value in ((id_field, ids[0]), (TEXTS[id_field], answer), ("model", model)):
        if isinstance(value, str) and not storable(value):
            return None, f"has half a character (a lone surrogate) in its {field!r}"
    unanswered = bool(row.get("unanswered"))
    return {"ids": ids, "answer": answer, "model": model, "unanswered": unanswered}, ""


def _ids(row: Mapping[str, Any], id_field: str) -> list[str]:
    """The ids that the line's question may have; empty: its id is no id."""
    value = row[id_field]
    if id_field == "id":
        return [value] if isinstance(value, str) else []
    if id_field == "question_id":
        return [str(value)] if isinstance(value, str) or type(value) is int else []
    if type(value) is not int:
        return []
    document = row["doc"] if isinstance(row.get("doc"), dict) else dict[str, Any]()
    # One of the two alone: the other may be the number of another question.
    ids = [str(document[key]) for key in ("question_id", "id") if document.get(key) is not None]
    del ids[1:]
    # POPE's questions have one number in each of three settings.
    ids += [f"{document['category']}/{id}" for id in ids if document.get("category")]
    return [f"{value:06d}", *ids]


def _unwrap(value: Any) -> Any:
    """The one response of a list, however deep it lies."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def find(folder: Path, benchmark: str) -> Path:
    """The answers to a benchmark: a folder that ``answer`` wrote, or a file.

    Raises:
        UserError: there are none, or several.
    """
    task = benchmark.removeprefix("lmms_eval.")
    paths: Sequence[Path] = [
        *(path for path in (folder / benchmark, folder / f"{benchmark}.jsonl") if path.exists()),
        *sorted(folder.rglob(f"*_samples_{task}.jsonl")),
    ]
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise UserError(
            f"{folder} has the answers to {benchmark} {len(paths)} times, such as {paths[0]} and"
            f" {paths[1]}; keep one."
        )
    raise UserError(
        f"{folder} has no answers to {benchmark}; it must hold {benchmark}/ (of the command"
        f" answer), {benchmark}.jsonl or *_samples_{task}.jsonl (of lmms-eval), or leave the"
        " benchmark out."
    )
