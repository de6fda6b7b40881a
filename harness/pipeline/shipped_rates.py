"""Speeds of the synthetic base, so that a fresh clone can estimate; a machine's own records replace
them.

    python -m harness.pipeline.shipped_rates FOLDER     writes them again from a packed folder

They come from three rounds with controls on a machine that had nothing else to do (November 2026).
The machine of today's results/reference/rounds was shared, so its speeds are not shipped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from harness.artifacts.results_folder import write_json

PATH = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class ShippedRates:
    """Seconds an image or question."""

    hardware: Mapping[str, Any]
    """As in a stage's record."""
    rates: Mapping[tuple[str, str, str], float]
    """By stage, base, and method or benchmark: the median."""

    @property
    def origin(self) -> str:
        return (
            f"from the shipped reference ({self.hardware['processor']},"
            f" {self.hardware['cores']} cores)"
        )


@cache
def shipped_rates() -> ShippedRates:
    stored = json.loads(PATH.read_text(encoding="utf-8"))
    rates = {(row["stage"], row["base"], row["name"]): row["seconds"] for row in stored["rates"]}
    return ShippedRates(hardware=stored["hardware"], rates=rates)


def summarize(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of the JSON file from a study's stage records. A record that was copied from
    another row counts once."""
    measured_records = [
        record
        for record in records
        if record.get("base") and record.get("items") and "reused_from" not in record
    ]
    kinds = sorted(
        {(record["stage"], record["base"], record["name"]) for record in measured_records}
    )
    rows = []
    for kind in kinds:
        alike = [
            row for row in measured_records if (row["stage"], row["base"], row["name"]) == kind
        ]
        seconds = median(row["seconds"] / row["items"] for row in alike)
        stage, base, name = kind
        rows.append({"stage": stage, "base": base, "name": name, "seconds": round(seconds, 6)})
    return {"hardware": measured_records[0]["hardware"], "rates": rows}


def main(folder: Path) -> None:
    import pandas as pd  # takes a second, and estimates need none of it

    stages = pd.read_parquet(folder / "stages.parquet")
    write_json(PATH, summarize(json.loads(text) for text in stages["record"].dropna()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
