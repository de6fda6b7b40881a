"""What the page shows of a run's pairs and drops: a sample of records as cards, with the words
marked that differ.

All texts come from models and data: they are made visible (control characters as signs) here and
escaped where they are put."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from harness.artifacts.results_folder import Results, read_json, read_jsonl
from harness.reporting.page.images import Album
from harness.reporting.results import Records, Row

PAIRS, DROPS = 300, 200
"""Cards of a row at most, shared evenly by its seeds and rounds."""
ROWS = 2
"""With more rows than these each shows fewer, so that a page of many rows stays one that can be
sent."""
LONGEST = 6000
"""Characters of one text at most."""

STEPS = {
    "asked": "asked itself",
    "checked": "checked the question",
    "question": "question taken",
    "description": "described the image",
    "first": "first answer",
    "enhanced": "enhanced answer",
    "rejected": "answer on the corrupted image",
}
"""SENA's steps in words; other methods' traces are shown by their own names."""
MOST_STEPS = 60
ON_THE_CARD = ("prompt", "chosen")

_JOINERS = "\u200c\u200d"  # part of how Persian, Hindi and emoji are written
_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’-]\w+)*|[^\w\s])\s*")


def visible(text: str, longest: int = LONGEST) -> str:
    """The text with what would hide or reorder it (control, direction and unassigned characters) as
    signs, cut if very long."""
    shown = "".join(
        char if char.isprintable() or char == "\n" else _sign(char) for char in text[:longest]
    )
    return shown + (f"… ({len(text):,} characters)" if len(text) > longest else "")


def _sign(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    if char in "\t\r":
        return " "
    return chr(0x2400 + ord(char)) if ord(char) < 32 else f"⟨U+{ord(char):04X}⟩"


def differences(chosen: str, rejected: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Both texts in pieces ``[text, differs]`` that join to the text; pieces that differ are words
    the other side lacks there."""
    sides = [_words(text) for text in (chosen, rejected)]
    before, after = ([word.strip() for word in words] for words in sides)
    matcher = SequenceMatcher(None, before, after)
    marked: tuple[list[list[Any]], list[list[Any]]] = ([], [])
    for op, *bounds in matcher.get_opcodes():
        for words, pieces, start, end in zip(sides, marked, bounds[::2], bounds[1::2], strict=True):
            if run := "".join(words[start:end]):
                pieces.extend(_piece(run, op != "equal"))
    return marked


def _words(text: str) -> list[str]:
    found = _WORD.findall(text)
    return found or ([text] if text else [])


def _piece(run: str, differs: bool) -> Iterator[list[Any]]:
    """White space at the ends of a mark stays outside it."""
    core = run.strip()
    if not differs or not core:
        yield [run, False]
        return
    before, after = run[: len(run) - len(run.lstrip())], run[len(run.rstrip()) :]
    yield from (
        [text, mark] for text, mark in ((before, False), (core, True), (after, False)) if text
    )


def steps(trace: Mapping[str, Any]) -> tuple[list[list[str]], list[str]]:
    """A trace as ``[name, text, note]`` for each text on the way, and its numbers and settings as
    ``name value``."""
    texts: list[list[str]] = []
    settings: list[str] = []
    names = STEPS if "asked" in trace else {}
    for key, value in trace.items():
        if is_tree(value):
            continue  # shown as one
        if key not in ON_THE_CARD or not isinstance(value, str):
            _step(names.get(key) or key.replace("_", " "), value, texts, settings, key in names)
    if len(texts) > MOST_STEPS:
        settings.append(f"and {len(texts) - MOST_STEPS:,} more texts")
    return texts[:MOST_STEPS], settings


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
        texts.append([name, visible(value["text"]), ", ".join(_told(value))])
    elif isinstance(value, Mapping) and isinstance(
        value.get("prompt"), str
    ):  # asked of the model, as SIMA's critic is
        texts.append([f"{name}: what was asked", visible(value["prompt"]), ", ".join(_told(value))])
        if isinstance(value.get("text"), str):
            texts.append([f"{name}: what was said", visible(value["text"]), ""])
    elif _is_columns(value):
        rows = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        for index, row in enumerate(rows):
            if isinstance(row["text"], str) and row["text"]:  # the root of a tree has none
                texts.append([f"{name} {index}", visible(row["text"]), ", ".join(_told(row))])
    elif isinstance(value, Mapping | list) and depth < 4 and len(value) <= 100:
        inner = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
        for key, part in inner:
            _step(f"{name} {str(key).replace('_', ' ')}", part, texts, settings, is_text, depth + 1)
    elif isinstance(value, str) and (is_text or " " in value):
        texts.append([name, visible(value), ""])
    elif value is not None:
        settings.append(visible(f"{name} {_plain(value)}", 300))


def _is_columns(value: Any) -> bool:
    """Whether this is a table of texts kept as columns of one length, such as CSR's tree (its rows
    are named from 0)."""
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), list):
        return False
    return all(
        isinstance(column, list) and len(column) == len(value["text"]) for column in value.values()
    )


def is_tree(value: Any) -> bool:
    """Whether this is a search tree kept as columns, a node's ``parent`` among them (the root's is
    below 0)."""
    return _is_columns(value) and isinstance(value.get("parent"), list)


def tree(trace: Mapping[str, Any]) -> list[list[Any]]:
    """The first search tree of a trace, such as CSR's, depth first: ``[depth, sentence, note,
    path]`` a node but the root.

    ``path``: "chosen", "rejected" or "both" where the node lies on the way to an answer of the
    pair, "" elsewhere. The note has both of a sentence's rewards: its score in the search (the
    model's own log-probabilities) and its relevance to the image."""
    found = next((value for value in trace.values() if is_tree(value)), None)
    if found is None:
        return []
    parents = found["parent"]
    children: dict[int, list[int]] = {}
    for place, parent in enumerate(parents):
        # A parent stands before its children; anything else is no tree, and would have no end.
        if place and isinstance(parent, int) and 0 <= parent < place:
            children.setdefault(parent, []).append(place)
    paths = [_path(parents, trace.get(side)) for side in ("chosen", "rejected")]
    rows: list[list[Any]] = []
    open_nodes = [(place, 1) for place in reversed(children.get(0, []))]
    while open_nodes:
        place, depth = open_nodes.pop()
        chosen, rejected = (place in path for path in paths)
        side = (
            "both"
            if chosen and rejected
            else "chosen"
            if chosen
            else "rejected"
            if rejected
            else ""
        )
        rows.append(
            [
                depth,
                visible(str(found["text"][place])) or "(the end)",
                ", ".join(_node(found, place)),
                side,
            ]
        )
        open_nodes += [(child, depth + 1) for child in reversed(children.get(place, []))]
    return rows


def _path(parents: Sequence[Any], end: Any) -> set[int]:
    """The nodes from the root to this one."""
    found: set[int] = set()
    while isinstance(end, int) and 0 < end < len(parents) and end not in found:
        found.add(end)
        end = parents[end]
    return found


def _node(found: Mapping[str, Any], place: int) -> Iterator[str]:
    for name, words in (("score", "own score"), ("relevance", "relevance to the image")):
        if name in found:
            yield visible(f"{words} {_plain(found[name][place])}", 120)
    if found.get("final", [0] * (place + 1))[place]:
        yield "an end"
    elif not found.get("kept", [1] * (place + 1))[place]:
        yield "not continued"


def _told(answer: Mapping[str, Any]) -> Iterator[str]:
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


def pick(
    records: Sequence[Mapping[str, Any]], most: int, *, spread: str | None = None
) -> list[int]:
    """Indices of at most ``most`` records, in order: those whose image's id hashes lowest, so
    that all runs show the same images. With ``spread`` the values of that field take turns, so
    that a rare reason is there."""
    order = sorted(
        range(len(records)),
        key=lambda index: (hashlib.sha256(str(records[index]["item"]).encode()).digest(), index),
    )
    if spread is not None:
        turns: dict[str, int] = {}
        turn = {}
        for index in order:
            value = str(records[index][spread])
            turn[index] = turns[value] = turns.get(value, -1) + 1
        order.sort(key=lambda index: turn[index])
    return sorted(order[:most])


def limits(records: Records) -> tuple[int, int]:
    """Pairs and dropped prompts that a row of this study shows at most."""
    rows = max(ROWS, sum(bool(row.rounds) for row in records.rows))
    return PAIRS * ROWS // rows, DROPS * ROWS // rows


def collect(
    records: Records, results: Results, album: Album
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups (a finished row, seed and round, with its true counts) and their cards, in the order
    the images were drawn."""
    groups: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []
    most_pairs, most_drops = limits(records)
    for row in records.rows:
        places = [(seed, number) for seed in row.seeds for number in range(1, row.rounds + 1)]
        places = [place for place in places if (results.pairs(row.label, *place) / "DONE").exists()]
        for seed, number in places:
            folder = results.pairs(row.label, seed, number)
            read = {
                name: read_jsonl(path) if (path := folder / name).exists() else [] for name in FILES
            }
            counts = read_json(folder / "record.json")["counts"]
            pairs, drops = (
                [
                    read[name][index]
                    for index in pick(read[name], max(1, most // len(places)), spread=spread)
                ]
                for name, most, spread in (
                    ("pairs.jsonl", most_pairs, None),
                    ("drops.jsonl", most_drops, "reason"),
                )
            )
            drawn = {
                str(item["id"]): (place, str(item["sha256"]))
                for place, item in enumerate(read["items.jsonl"])
            }
            made = [*pairs, *drops]
            made.sort(
                key=lambda one: (drawn.get(one["item"], (len(drawn), ""))[0], str(one["key"]))
            )
            cards += [
                _card(one, len(groups), row, (drawn.get(one["item"]) or (0, None))[1], album)
                for one in made
            ]
            groups.append(
                {
                    "run": row.label,
                    "seed": seed,
                    "round": number,
                    "pictures": counts["images"],
                    "pairs": counts["pairs"],
                    "dropped": counts["dropped"],
                    "reasons": [
                        [visible(reason, 200), count]
                        for reason, count in counts["drops_by_reason"].items()
                    ],
                    "shown_pairs": len(pairs),
                    "shown_drops": len(drops),
                }
            )
    return groups, cards


FILES = ("pairs.jsonl", "drops.jsonl", "items.jsonl")


def _card(
    record: Mapping[str, Any], group: int, row: Row, sha: str | None, album: Album
) -> dict[str, Any]:
    trace = record.get("trace") or {}
    reason = record.get("reason")
    # A drop's texts lie in its trace, as far as it came.
    texts = record if reason is None else trace
    prompt, chosen, rejected = (_text(texts.get(name)) for name in ("prompt", "chosen", "rejected"))
    if prompt is None and reason is not None:
        prompt = _text(trace.get("question"))
    marked: tuple[Any, Any] = (None, None)
    if chosen is not None and rejected is not None:
        marked = differences(chosen.strip(), rejected.strip())
    told, settings = steps(trace)
    item = str(record["item"])
    picture = album.clean(row.pool, item, sha)
    return {
        "group": group,
        "item": visible(item, 200),
        "kind": visible(str(record["kind"]), 100),
        "reason": None if reason is None else visible(str(reason), 200),
        "prompt": prompt,
        "chosen": marked[0],
        "rejected": marked[1],
        "picture": picture,
        "corrupted": (
            album.corrupted(row.pool, item, row.base, trace) if picture is not None else None
        ),
        "corruption": corruption_text(trace),
        "tree": tree(trace),
        "steps": told,
        "settings": settings,
    }


def corruption_text(trace: Mapping[str, Any]) -> str:
    """``diffusion, step 420``; empty where the method corrupts nothing."""
    kind, step = trace.get("corruption"), trace.get("noise_step")
    return (
        visible(f"{kind}, step {step}" if step is not None else str(kind), 100)
        if kind is not None
        else ""
    )


def _text(value: Any) -> str | None:
    """A text, or the text of an answer in a trace, made visible."""
    if isinstance(value, Mapping):
        value = value.get("text")
    return visible(value) if isinstance(value, str) else None
