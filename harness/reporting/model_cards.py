"""The card of a trained model or adapter: README.md in its folder, in the hub's form (front matter,
then Markdown).

Everything on it comes from the run's files. Names, pools and reasons are texts of users and data,
so they are escaped. The results are added with the study's table
(harness/reporting/model_card_results.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.artifacts.results_folder import read_json, write_bytes
from harness.models.base_cards import BASES
from harness.reporting.display_names import RESULTS, UNGRADED
from harness.reporting.tables.text import escape

HUB_LICENCES = ("apache-2.0", "llama2", "mit")
"""Licences by the hub's names. Another licence is "other" there, with its name beside."""


def write(
    train: Path, *, identity: Mapping[str, Any], record: Mapping[str, Any], pairs: Path
) -> None:
    """Write ``README.md`` into a training's ``model/`` and ``adapter/``, where they exist.
    ``identity`` and ``record`` are the training's, ``pairs`` is the folder of the round's
    pairs."""
    pairs_identity = read_json(pairs / "identity.json")
    pairs_record = read_json(pairs / "record.json")
    for kind in ("model", "adapter"):
        folder = train / kind
        if folder.is_dir():
            adapter = read_json(folder / "adapter_config.json") if kind == "adapter" else None
            text = card(identity, record, pairs_identity, pairs_record, adapter)
            write_bytes(folder / "README.md", text.encode())


def card(
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
    pairs_identity: Mapping[str, Any],
    pairs_record: Mapping[str, Any],
    adapter: Mapping[str, Any] | None = None,
) -> str:
    """The card's text. ``identity`` and ``record`` are the training's; ``adapter`` is the adapter's
    adapter_config.json, None for a merged model."""
    base = BASES.get(str(identity["base"]))
    on_hub = base is not None and isinstance(base.source, str)
    source = str(base.source if base and on_hub else identity["base"])
    licence = base.licence if base is not None else None
    settings = dict(pairs_identity["method"])
    method = str(settings.pop("name"))
    text = fill(
        "model_card.md.jinja",
        identity=identity,
        adapter=adapter,
        base=base,
        source=source,
        method=method,
        settings=settings,
        front=_front_matter(source, method, licence, adapter),
        facts=_facts(identity, record, pairs_record),
    )
    return f"{text}{RESULTS}\n{UNGRADED}\n"


def fill(template: str, **values: Any) -> str:
    """A template of this folder, filled in; it marks which texts are escaped, and how."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {"md": escape, "code": _code, "json": json.dumps, "json_block": _json_block}
    environment.filters |= filters
    return environment.get_template(template).render(values)


def listed(values: Mapping[str, Any]) -> str:
    """``torch 2.13.0, numpy 2.3.0``."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _facts(
    identity: Mapping[str, Any], record: Mapping[str, Any], pairs_record: Mapping[str, Any]
) -> dict[str, object]:
    """The lines of the card's table."""
    counts, training = pairs_record["counts"], record.get("training", {})
    numbers = (counts["images"], counts["pairs"], counts["dropped"])
    pool = pairs_record.get("pool", {})
    facts: dict[str, object] = {
        "started from (fingerprint)": identity["model"],
        "pairs (fingerprint)": identity["pairs"],
    }
    if "weights" in record:
        facts["trained weights (fingerprint)"] = record["weights"]
    if (share := training.get("update_kept")) is not None:
        facts["update that is left in the stored precision"] = f"{100 * share:.1f} %"
    if training.get("trainer") == "trl":
        facts["trained by"] = "trl's DPOTrainer"
    return facts | {
        "pool": f"{pool.get('name', 'unknown')}, fingerprint {pool.get('fingerprint', 'unknown')}",
        "images, pairs made, dropped": ", ".join(map(str, numbers)),
        "drops by reason": listed(counts.get("drops_by_reason", {})) or "none",
        "optimizer steps, pairs used, visits": ", ".join(
            str(training.get(key)) for key in ("steps", "pairs_used", "visits")
        ),
        "seconds": record.get("seconds"),
        "hardware": listed(record.get("hardware", {})),
        "versions": listed(record.get("versions", {})),
    }


def _front_matter(
    source: str, method: str, licence: str | None, adapter: Mapping[str, Any] | None
) -> str:
    """The hub's metadata as YAML. The base is named only if it is on the hub."""
    data: dict[str, Any] = {}
    if source.count("/") == 1:
        data |= {"base_model": source, "base_model_relation": "adapter" if adapter else "finetune"}
    if licence in HUB_LICENCES:
        data["license"] = licence
    elif licence:
        data |= {"license": "other", "license_name": licence}
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["selfsight", method, *(["lora"] if adapter else [])],
        **data,
    ).to_yaml()


def _json_block(settings: object) -> str:
    """The settings as a fenced block of JSON, which they cannot end."""
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    fence = "```"
    while fence in text:  # settings may hold a user's prompts
        fence += "`"
    return f"{fence}json\n{text}\n{fence}"


def _code(text: str) -> str:
    """The text as a code span, which it cannot end."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
