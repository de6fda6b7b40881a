"""The card of a trained model: README.md in its folder, in the hub's form (front matter, then what a reader must know).

Everything on it comes from the files of the run: identities, counts and records; nothing is claimed that was not measured there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.bases import BASES
from harness.store import read_json, write_bytes


def write(model: Path, *, identity: Mapping[str, Any], record: Mapping[str, Any], pairs: Path) -> None:
    """Write ``README.md`` into a trained model's folder. ``identity`` and ``record`` are the training stage's; ``pairs`` is the
    folder of the round's pairs."""
    write_bytes(
        model / "README.md", card(identity, record, read_json(pairs / "identity.json"), read_json(pairs / "record.json")).encode()
    )


def card(identity: Mapping[str, Any], record: Mapping[str, Any], made: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
    """The card's text; ``made`` and ``counted`` are the pairs' identity and record."""
    base = BASES.get(str(identity["base"]))
    source = str(base.source) if base is not None and isinstance(base.source, str) else str(identity["base"])
    licence = None if base is None else base.licence
    method = dict(made["method"])
    name, counts, training = str(method.pop("name")), counted["counts"], record.get("training", {})
    front: dict[str, Any] = {
        "base_model": source,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["selfsight", name],
    }
    if licence:
        front["license"] = licence
    pool = counted.get("pool", {})
    drops = ", ".join(f"{reason} {count}" for reason, count in counts.get("drops_by_reason", {}).items())
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        "",
        f"# {_plain(name)}, round {identity['round']}, seed {identity['seed']}",
        "",
        f"A model trained by SelfSight from `{_plain(source)}`"
        + (f" (commit `{base.revision}`)" if base is not None and base.revision else "")
        + f" with the method {_plain(name)}, on preference pairs that the model of the round before made itself.",
        "",
        "| | |",
        "| :-- | :-- |",
        *(
            f"| {what} | {_plain(value)} |"
            for what, value in (
                ("started from (fingerprint)", identity["model"]),
                ("pairs (fingerprint)", identity["pairs"]),
                ("pool", f"{pool.get('name', 'unknown')}, fingerprint {pool.get('fingerprint', 'unknown')}"),
                ("pictures, pairs made, dropped", f"{counts['images']}, {counts['pairs']}, {counts['dropped']}"),
                ("drops by reason", drops or "none"),
                (
                    "optimiser steps, pairs used, visits",
                    ", ".join(str(training.get(key)) for key in ("steps", "pairs_used", "visits")),
                ),
                ("seconds", record.get("seconds")),
                ("hardware", ", ".join(f"{key} {value}" for key, value in record.get("hardware", {}).items())),
                ("versions", ", ".join(f"{key} {value}" for key, value in record.get("versions", {}).items())),
            )
        ),
        "",
        "## Settings",
        "",
        "How pairs were made:",
        "",
        *_block(method),
        "",
        "How they became this model:",
        "",
        *_block(identity["recipe"]),
        "",
        "## Licences",
        "",
        f"The weights derive from `{_plain(source)}`"
        + (f", licensed {licence}: its terms hold for this model too." if licence else "; its licence holds for this model too.")
        + " The pictures of the pool have licences of their own, which this card does not know.",
        "",
        "Nothing on this card says how good the model is: see the table of the study it belongs to.",
        "",
    ]
    return "\n".join(lines)


def _block(settings: object) -> list[str]:
    # A fence longer than any inside: settings may hold a user's prompts.
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}json", *text.split("\n"), fence]


def _plain(value: object) -> str:
    """Text that stays one cell of a table and holds no markup."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
