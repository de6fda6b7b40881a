"""The trace of a pair or drop for the page: the texts in between, settings, and CSR's search
tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.reporting.page.texts import visible

STEPS = {
    "asked": "asked itself",
    "checked": "checked the question",
    "question": "question used",
    "description": "described the image",
    "first": "first answer",
    "enhanced": "enhanced answer",
    "rejected": "answer on the corrupted image",
}
"""SENA's steps in words. Other methods' steps are shown by their own names."""
MAX_STEPS = 60
ON_THE_CARD = ("prompt", "chosen")


def steps(trace: Mapping[str, Any]) -> tuple[list[list[str]], list[str]]:
    """A trace as ``[name, text, note]`` for each text, and its numbers and settings as ``name
    value``."""
    texts: list[list[str]] = []
    settings: list[str] = []
    names = STEPS if "asked" in trace else {}
    for key, value in trace.items():
        if is_tree(value):
            continue  # shown as a tree
        if key not in ON_THE_CARD or not isinstance(value, str):
            _step(names.get(key) or key.replace("_", " "), value, texts, settings, key in names)
    if len(texts) > MAX_STEPS:
        settings.append(f"and {len(texts) - MAX_STEPS:,} more texts")
    return texts[:MAX_STEPS], settings


def _step(
    name: str,
    value: Any,
    texts: list[list[str]],
    settings: list[str],
    is_text: bool,
    depth: int = 0,
) -> None:
    name = visible(name, 120)
    if isinstance(value, Mapping) and isinstance(value.get("text"), str) and "prompt" not in value:
        texts.append([name, visible(value["text"]), ", ".join(_notes(value))])
    elif isinstance(value, Mapping) and isinstance(value.get("prompt"), str):
        # A question to the model, such as those of SIMA's critic.
        texts.append([f"{name}: prompt", visible(value["prompt"]), ", ".join(_notes(value))])
        if isinstance(value.get("text"), str):
            texts.append([f"{name}: answer", visible(value["text"]), ""])
    elif _is_columns(value):
        rows = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        for index, row in enumerate(rows):
            if isinstance(row["text"], str) and row["text"]:  # a tree's root has no text
                texts.append([f"{name} {index}", visible(row["text"]), ", ".join(_notes(row))])
    elif isinstance(value, Mapping | list) and depth < 4 and len(value) <= 100:
        inner = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
        for key, item in inner:
            _step(f"{name} {str(key).replace('_', ' ')}", item, texts, settings, is_text, depth + 1)
    elif isinstance(value, str) and (is_text or " " in value):
        texts.append([name, visible(value), ""])
    elif value is not None:
        settings.append(visible(f"{name} {_plain(value)}", 300))


def _is_columns(value: Any) -> bool:
    """Whether this is a table of texts, stored as columns of equal length (CSR's search tree)."""
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), list):
        return False
    return all(
        isinstance(column, list) and len(column) == len(value["text"]) for column in value.values()
    )


def is_tree(value: Any) -> bool:
    """Whether this is a search tree, stored as columns with each node's ``parent`` (below 0 for the
    root)."""
    return _is_columns(value) and isinstance(value.get("parent"), list)


def tree(trace: Mapping[str, Any]) -> list[list[Any]]:
    """The first search tree of a trace, depth first: ``[depth, sentence, note, path]`` for each
    node except the root.

    ``path``: "chosen", "rejected" or "both" if the node leads to an answer of the pair, else "".
    The note has both rewards of the sentence: its score in the search (the model's
    log-probabilities) and its relevance to the image."""
    nodes = next((value for value in trace.values() if is_tree(value)), None)
    if nodes is None:
        return []
    parents = nodes["parent"]
    children: dict[int, list[int]] = {}
    for index, parent in enumerate(parents):
        # A parent precedes its children. Anything else is no tree and might not end.
        if index and isinstance(parent, int) and 0 <= parent < index:
            children.setdefault(parent, []).append(index)
    chosen, rejected = (_path(parents, trace.get(side)) for side in ("chosen", "rejected"))
    sides = {(True, True): "both", (True, False): "chosen", (False, True): "rejected"}
    rows: list[list[Any]] = []
    open_nodes = [(index, 1) for index in reversed(children.get(0, []))]
    while open_nodes:
        index, depth = open_nodes.pop()
        sentence = visible(str(nodes["text"][index])) or "(the end)"
        path = sides.get((index in chosen, index in rejected), "")
        rows.append([depth, sentence, ", ".join(_node_notes(nodes, index)), path])
        open_nodes += [(child, depth + 1) for child in reversed(children.get(index, []))]
    return rows


def _path(parents: Sequence[Any], end: Any) -> set[int]:
    """The nodes from the root to this one."""
    path: set[int] = set()
    while isinstance(end, int) and 0 < end < len(parents) and end not in path:
        path.add(end)
        end = parents[end]
    return path


def _node_notes(nodes: Mapping[str, Any], index: int) -> Iterator[str]:
    for name, words in (("score", "own score"), ("relevance", "relevance to the image")):
        if name in nodes:
            yield visible(f"{words} {_plain(nodes[name][index])}", 120)
    if nodes.get("final", [0] * (index + 1))[index]:
        yield "an end"
    elif not nodes.get("kept", [1] * (index + 1))[index]:
        yield "not continued"


def _notes(answer: Mapping[str, Any]) -> Iterator[str]:
    for key, value in answer.items():
        if key == "finished":
            yield "ended by itself" if value is True else "cut at the token limit"
        elif key == "n_tokens":
            yield f"{_plain(value)} tokens"
        elif key not in ("text", "prompt") and value is not None:
            yield visible(f"{key.replace('_', ' ')} {_plain(value)}", 120)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def corruption_text(trace: Mapping[str, Any]) -> str:
    """``diffusion, step 420``; "": the method corrupts nothing."""
    kind, step = trace.get("corruption"), trace.get("noise_step")
    if kind is None:
        return ""
    return visible(str(kind) if step is None else f"{kind}, step {step}", 100)
