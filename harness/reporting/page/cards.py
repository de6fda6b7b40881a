"""The page's cards: a sample of a study's pairs and drops, with their counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.reporting.display_names import row_name
from harness.reporting.page.images import Album
from harness.reporting.page.texts import differences, visible
from harness.reporting.page.traces import corruption_text, steps, tree
from harness.reporting.results import StudyResults, finished_record
from harness.reporting.study_row import Row

PAIRS, DROPS = 300, 200
"""Cards of a row at most, divided equally among its seeds and rounds."""
ROWS = 2
"""With more rows than this, each shows fewer cards, so that the page stays small enough to send."""
FILES = ("pairs.jsonl", "drops.jsonl", "items.jsonl")


def pick(
    records: Sequence[dict[str, Any]], most: int, *, spread: str | None = None
) -> list[dict[str, Any]]:
    """At most ``most`` of the records, in order. Records whose item's id hashes lowest come
    first, so that all rows show the same images. ``spread``: a field whose values take turns, so
    that rare ones are included."""
    order = sorted(
        range(len(records)),
        key=lambda index: (hashlib.sha256(str(records[index]["item"]).encode()).digest(), index),
    )
    if spread is not None:
        counts: dict[str, int] = {}
        turns = {}
        for index in order:
            value = str(records[index][spread])
            turns[index] = counts[value] = counts.get(value, -1) + 1
        order.sort(key=lambda index: turns[index])
    return [records[index] for index in sorted(order[:most])]


def limits(study: StudyResults) -> tuple[int, int]:
    """Pairs and dropped prompts of a row at most, in this study's page."""
    rows = max(ROWS, sum(bool(row.rounds) for row in study.rows))
    return PAIRS * ROWS // rows, DROPS * ROWS // rows


def collect(study: StudyResults, album: Album) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups (a row, seed and round whose pairs are made, with all its counts) and their cards, in
    the order in which images were drawn."""
    groups: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []
    stored = study.stored
    most_pairs, most_drops = limits(study)
    for row in study.rows:
        stages = {where: stored.results.pairs(row.label, *where) for where in row.trainings}
        stages = {where: stage for where, stage in stages.items() if stored.done(stage)}
        for (seed, number), stage in stages.items():
            counts = finished_record(stored, stage)["counts"]
            all_pairs, all_drops, items = (stored.lines(stage, name) for name in FILES)
            pairs = pick(all_pairs, max(1, most_pairs // len(stages)))
            drops = pick(all_drops, max(1, most_drops // len(stages)), spread="reason")
            positions = {str(item["id"]): index for index, item in enumerate(items)}
            shas = {str(item["id"]): str(item["sha256"]) for item in items}
            lines = sorted(
                [*pairs, *drops],
                key=lambda line: (positions.get(line["item"], len(positions)), str(line["key"])),
            )
            cards += [
                _card(line, len(groups), row, shas.get(line["item"]), album) for line in lines
            ]
            reasons = counts["drops_by_reason"].items()
            groups.append(
                {
                    "run": row_name(row.label),
                    "seed": seed,
                    "round": number,
                    **{name: counts[name] for name in ("images", "pairs", "dropped")},
                    "reasons": [[visible(reason, 200), count] for reason, count in reasons],
                    "shown_pairs": len(pairs),
                    "shown_drops": len(drops),
                }
            )
    return groups, cards


def _card(
    record: Mapping[str, Any], group: int, row: Row, sha: str | None, album: Album
) -> dict[str, Any]:
    """A pair or drop as JSON for the page."""
    trace = record.get("trace") or {}
    reason = record.get("reason")
    # A drop has its texts in its trace, as far as the method came.
    texts = record if reason is None else trace
    prompt, chosen, rejected = (_text(texts.get(name)) for name in ("prompt", "chosen", "rejected"))
    if prompt is None and reason is not None:
        prompt = _text(trace.get("question"))
    marked: tuple[Any, Any] = (None, None)
    if chosen is not None and rejected is not None:
        marked = differences(chosen.strip(), rejected.strip())
    trace_texts, settings = steps(trace)
    item = str(record["item"])
    image = album.clean(row.pool, item, sha)
    corrupted = None if image is None else album.corrupted(row.pool, item, row.base, trace)
    return {
        "group": group,
        "item": visible(item, 200),
        "kind": visible(str(record["kind"]), 100),
        "reason": None if reason is None else visible(str(reason), 200),
        "prompt": prompt,
        "chosen": marked[0],
        "rejected": marked[1],
        "image": image,
        "corrupted": corrupted,
        "corruption": corruption_text(trace),
        "tree": tree(trace),
        "steps": trace_texts,
        "settings": settings,
    }


def _text(value: Any) -> str | None:
    """A text, or the text of an answer in a trace, made visible."""
    if isinstance(value, Mapping):
        value = value.get("text")
    return visible(value) if isinstance(value, str) else None
