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
"""The field of a question's id, and that of its answer."""
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
    name = next((name for name in TEXTS if name in row), "id")
    for field in (name, TEXTS[name]):
        if field not in row:
            return None, f"has no {field!r}"
    ids = _ids(row, name)
    answer = _only(row[TEXTS[name]]) if name == "doc_id" else row[TEXTS[name]]
    for field, value in ((name, ids[0] if ids else row[name]), (TEXTS[name], answer)):
        if not isinstance(value, str) or (field == name and not ids):
            kind = "no text" if value is None else f"a {type(value).__name__}"
            return None, f"has {kind} as its {field!r}"
    model = next((row[each] for each in MODELS if row.get(each) is not None), None)
    for field, value in ((name, ids[0]), (TEXTS[name], answer), ("model", model)):
        if isinstance(value, str) and not storable(value):
            return None, f"has half a character (a lone surrogate) in its {field!r}"
    unanswered = bool(row.get("unanswered"))
    return {"ids": ids, "answer": answer, "model": model, "unanswered": unanswered}, ""


def _ids(row: Mapping[str, Any], name: str) -> list[str]:
    """The ids that the line's question may have; empty: its id is no id."""
    value = row[name]
    if name == "id":
        return [value] if isinstance(value, str) else []
    if name == "question_id":
        return [str(value)] if isinstance(value, str) or type(value) is int else []
    if type(value) is not int:
        return []
    document = row["doc"] if isinstance(row.get("doc"), dict) else dict[str, Any]()
    # One of the two alone: the other may be the number of another question.
    own = [str(document[key]) for key in ("question_id", "id") if document.get(key) is not None]
    del own[1:]
    # POPE's questions have one number in each of three settings.
    own += [f"{document['category']}/{id}" for id in own if document.get("category")]
    return [f"{value:06d}", *own]


def _only(value: Any) -> Any:
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
    found: Sequence[Path] = [
        *(path for path in (folder / benchmark, folder / f"{benchmark}.jsonl") if path.exists()),
        *sorted(folder.rglob(f"*_samples_{task}.jsonl")),
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{folder} has the answers to {benchmark} {len(found)} times, such as {found[0]} and"
            f" {found[1]}; keep one."
        )
    raise UserError(
        f"{folder} has no answers to {benchmark}; it must hold {benchmark}/ (of the command"
        f" answer), {benchmark}.jsonl or *_samples_{task}.jsonl (of lmms-eval), or leave the"
        " benchmark out."
    )
