"""Writes the preference pairs of one training as a data set folder for the Hugging Face hub, with
the columns that trl's trainers read: images, prompt, chosen, rejected.

The texts are in trl's conversational vision format: a message is ``{"role", "content"}``, its
content a list of parts ``{"type", "text"}``, the image a part without text before the question
(https://huggingface.co/docs/trl/dataset_formats). Images are PNG, with the pixels that the method
saw. Names and settings on the card are texts of users, so they are escaped."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from harness.artifacts.results_folder import Results, read_jsonl, write_bytes
from harness.data.open_pool import open_pool
from harness.data.pool import Pool, pixels_sha
from harness.errors import UserError, unknown
from harness.reporting.model_cards import fill, listed
from harness.reporting.stored import open_stored
from methods.interface import PreferencePair

PAIRS_A_FILE = 500
"""Pairs in one Parquet file. All its images are in memory at once."""

LICENCE = "unknown"
"""The hub's name for a licence that nobody stated."""


@dataclass(frozen=True, kw_only=True)
class TrainedRound:
    """One round of one training: a row of the study, a seed, a round."""

    label: str
    seed: int
    round: int

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}, round {self.round}"


def export_pairs(
    folder: Path, label: str, out: Path, *, seed: int | None, round: int, own: bool
) -> str:
    """Write the pairs of a row of the study in ``folder`` to ``out``; return a sentence.

    ``seed``: None, the row's first. ``own``: whether pools that are files may be opened.

    Raises:
        UserError: there is no such row, seed or round, its pairs are not made or are none, its
            images are not available or have changed, or ``out`` is not empty.
    """
    Results(folder).check_whole("it has no pairs to export")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder as --out.")
    stored = open_stored(folder)
    run, trained_round = _find_round(stored.study()["runs"], label, seed, round)
    stage = Results(folder).pairs(trained_round.label, trained_round.seed, trained_round.round)
    record, identity = stored.record(stage), stored.identity(stage)
    if record is None or identity is None or not stored.done(stage):
        raise UserError(f"The pairs of {trained_round} are not made yet; run the study first.")
    stage = stored.folder(stage)
    pairs = [PreferencePair.from_json(row) for row in read_jsonl(stage / "pairs.jsonl")]
    if not pairs:
        raise UserError(f"{trained_round} made no pair, so there is nothing to export.")
    spec = str(record["pool"]["name"])
    if not (own or spec.partition(":")[0] == "synthetic"):
        raise UserError(
            f"The images are in the pool {spec}, which is not opened. Give --own if this results"
            " folder is your own: then the pool that it names is read."
        )
    hashes = {item["id"]: item["sha256"] for item in read_jsonl(stage / "items.jsonl")}
    pool = open_pool(spec)
    size = 0
    for start in range(0, len(pairs), PAIRS_A_FILE):
        content = _parquet(pairs[start : start + PAIRS_A_FILE], pool, hashes)
        write_bytes(out / "data" / f"train-{start // PAIRS_A_FILE:05d}.parquet", content)
        size += len(content)
    write_bytes(out / "README.md", card(trained_round, run, identity, record, pairs).encode())
    return (
        f"{out}: {len(pairs)} pairs of {trained_round}, {size / 2**20:.1f} MiB, and a card"
        " (README.md)."
    )


def _find_round(
    runs: Sequence[Mapping[str, Any]], label: str, seed: int | None, round: int
) -> tuple[Mapping[str, Any], TrainedRound]:
    """The run of the study and what is exported of it."""
    trained = [run for run in runs if run["rounds"]]
    row_runs = [run for run in trained if run["label"] == label]
    if not row_runs:
        raise unknown("trained row", label, dict.fromkeys(run["label"] for run in trained))
    seeds = {int(run["seed"]): run for run in row_runs}
    seed = min(seeds) if seed is None else seed
    if seed not in seeds:
        known_seeds = ", ".join(map(str, seeds))
        raise UserError(
            f"{label} has no training seed {seed}; give one of {known_seeds} as --seed."
        )
    rounds = int(seeds[seed]["rounds"])
    if not 1 <= round <= rounds:
        raise UserError(f"{label} has no round {round}; give a --round from 1 to {rounds}.")
    return seeds[seed], TrainedRound(label=label, seed=seed, round=round)


def _parquet(pairs: Sequence[PreferencePair], pool: Pool, hashes: Mapping[str, str]) -> bytes:
    items = dict.fromkeys(pair.item for pair in pairs)
    encoded = {item: _png(pool, item, hashes.get(item)) for item in items}
    rows = [
        {
            "images": [{"bytes": encoded[pair.item], "path": None}],
            "prompt": [_message("user", {"type": "image", "text": None}, _text(pair.prompt))],
            "chosen": [_message("assistant", _text(pair.chosen))],
            "rejected": [_message("assistant", _text(pair.rejected))],
        }
        for pair in pairs
    ]
    buffer = io.BytesIO()
    # Small groups of rows: the hub's viewer and a streaming reader load one group at a time.
    pq.write_table(
        pa.Table.from_pylist(rows, schema=_schema()), buffer, compression="zstd", row_group_size=100
    )
    return buffer.getvalue()


def _message(role: str, *contents: Mapping[str, str | None]) -> dict[str, Any]:
    return {"role": role, "content": list(contents)}


def _text(text: str) -> dict[str, str | None]:
    return {"type": "text", "text": text}


def _png(pool: Pool, id: str, sha: str | None) -> bytes:
    if id not in pool.ids:
        raise UserError(f"The pool {pool.spec} no longer has the image {id!r}; restore it.")
    image = pool.image(id)
    if pixels_sha(image) != sha:
        raise UserError(
            f"The image {id} of the pool {pool.spec} has changed since the pairs were made; restore"
            " it."
        )
    content = io.BytesIO()
    rgb = image.convert("RGB")
    rgb.info.clear()  # EXIF and the like would be applied a second time by a reader
    rgb.save(content, format="PNG")
    return content.getvalue()


def _schema() -> pa.Schema:
    """Columns with the types that the datasets library reads back as images and messages."""
    content_type = pa.struct([("type", pa.string()), ("text", pa.string())])
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(content_type))]))
    images = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    text = {"dtype": "string", "_type": "Value"}
    listed = [{"role": text, "content": [{"type": text, "text": text}]}]
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), (messages, listed))
    types = {"images": (images, [{"_type": "Image"}])} | columns
    features = {"info": {"features": {name: feature for name, (_, feature) in types.items()}}}
    return pa.schema(
        [(name, type) for name, (type, _) in types.items()],
        metadata={"huggingface": json.dumps(features)},
    )


def card(
    trained_round: TrainedRound,
    run: Mapping[str, Any],
    identity: Mapping[str, Any],
    record: Mapping[str, Any],
    pairs: Sequence[PreferencePair],
) -> str:
    """The data set card, README.md. ``run`` is the study's; ``identity`` and ``record`` are the
    stage's that made the pairs."""
    settings = dict(identity["method"])
    method, counts = str(settings.pop("name")), record["counts"]
    facts = {
        "base": identity.get("base", "unknown"),
        "model that made the pairs (fingerprint)": identity["model"],
        "pool": f"{record['pool']['name']}, fingerprint {record['pool']['fingerprint']}",
        "images drawn": counts["images"],
        "pairs": len(pairs),
        "pairs by kind": listed(counts.get("pairs_by_kind", {})),
        "prompts dropped": counts["dropped"],
        "drops by reason": listed(counts.get("drops_by_reason", {})) or "none",
        "pairs with an image alignment term in training": sum(pair.aligned for pair in pairs),
        "versions": listed(record.get("versions", {})),
    }
    files = {"split": "train", "path": "data/train-*.parquet"}
    data = DatasetCardData(
        license=LICENCE,
        task_categories=["image-text-to-text"],
        tags=["selfsight", method, "dpo", "preference", "trl"],
        size_categories=[_size_category(len(pairs))],
        configs=[{"config_name": "default", "data_files": [files]}],
    )
    return fill(
        "data_card.md.jinja",
        front=data.to_yaml(),
        training=str(trained_round),
        method=method,
        facts=facts,
        settings=settings,
        recipe=run.get("recipe"),
    )


def _size_category(count: int) -> str:
    """The hub's size category."""
    limits = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
    return next((name for limit, name in limits.items() if count < limit), "100K<n<1M")
