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

from harness.artifacts.results_folder import read_json, write_bytes
from harness.models.base_cards import BASES
from harness.reporting.model_card_results import RESULTS, UNGRADED
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
    source = str(identity["base"] if base is None else base.source)
    if base is not None and not isinstance(base.source, str):
        source = str(identity["base"])
    commit = base.revision if base is not None else None
    licence = base.licence if base is not None else None
    settings = dict(pairs_identity["method"])
    method = str(settings.pop("name"))
    adapters = "Low-rank adapters" if adapter else "A model"
    licensed = (
        f", licensed {escape(licence)}: its terms hold here too."
        if licence
        else "; its licence holds here too."
    )
    lines = [
        "---",
        _front_matter(source, method, licence, adapter),
        "---",
        "",
        f"# {escape(method)}, round {identity['round']}, seed {identity['seed']}"
        f"{', LoRA adapter' if adapter else ''}",
        "",
        f"{adapters} trained by SelfSight from {_code(source)}"
        f"{f' (commit {_code(commit)})' if commit else ''} with the method {escape(method)}, on"
        " preference pairs made by the model of the round before.",
        "",
        *(_usage(adapter, identity["round"]) if adapter else ()),
        "| | |",
        "| :-- | :-- |",
        *(
            f"| {name} | {escape(str(value))} |"
            for name, value in _facts(identity, record, pairs_record).items()
        ),
        "",
        "## Settings",
        "",
        "Making the pairs:",
        "",
        *json_block(settings),
        "",
        "Training on them:",
        "",
        *json_block(identity["recipe"]),
        "",
        "## Licences",
        "",
        f"The weights derive from {_code(source)}{licensed} The images of the pool have licences of"
        " their own, which are not recorded here.",
    ]
    return "\n".join(lines) + f"\n{RESULTS}\n{UNGRADED}\n"


def _facts(
    identity: Mapping[str, Any], record: Mapping[str, Any], pairs_record: Mapping[str, Any]
) -> dict[str, object]:
    """The lines of the card's table."""
    counts, training = pairs_record["counts"], record.get("training", {})
    numbers = (counts["images"], counts["pairs"], counts["dropped"])
    pool = pairs_record.get("pool", {})

    def listed(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in values.items())

    facts: dict[str, object] = {
        "started from (fingerprint)": identity["model"],
        "pairs (fingerprint)": identity["pairs"],
    }
    if "weights" in record:
        facts["trained weights (fingerprint)"] = record["weights"]
    if (kept := training.get("update_kept")) is not None:
        facts["update that is left in the stored precision"] = f"{100 * kept:.1f} %"
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


def _usage(adapter: Mapping[str, Any], round: int) -> list[str]:
    """What the adapter belongs to, and how it is loaded."""
    parent, revision = str(adapter["base_model_name_or_path"]), adapter.get("revision")
    load = (
        f"AutoModelForImageTextToText.from_pretrained({json.dumps(parent)},"
        f" revision={json.dumps(revision)})"
    )
    text = f"It belongs to {_code(parent)}"
    if revision:
        text += f" at commit {_code(str(revision))}."
    else:
        text += ". selfsight.json holds the fingerprint of that model's weights."
    if Path(parent).name == "adapter":
        text += (
            f" That is the adapter of round {round - 1}: with peft, load the base in float32 and"
            " merge that one first (`merge_and_unload`)."
        )
    elif round > 1:
        text += (
            f" That is the model of round {round - 1}; the folder may hold that round's adapter"
            " instead."
        )
    return [
        f'{text} As a row of a comparison: `python -m harness run compare --row "mine=this'
        ' folder"`. With peft:',
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText",
        "",
        f"base = {load if revision else '...  # the model named above'}",
        'model = PeftModel.from_pretrained(base, "this folder")',
        "```",
        "",
    ]


def json_block(settings: object) -> list[str]:
    """The settings as a fenced block of JSON, which they cannot end."""
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    fence = "```"
    while fence in text:  # settings may hold a user's prompts
        fence += "`"
    return [f"{fence}json", *text.split("\n"), fence]


def _code(text: str) -> str:
    """The text as a code span, which it cannot end."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
