"""The committed reference comparison: its table comes from its records, its base is the shipped
one, and the README shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from harness.artifacts.results_folder import read_json
from harness.models.base_cards import find_base
from harness.pipeline.stage_identity import untrained
from harness.reporting.tables import build as tables

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"


def test_the_table_is_recomputed_from_the_records(tmp_path: Path) -> None:
    out = tmp_path / "reference"
    shutil.copytree(REFERENCE, out)
    for name in ("table.md", "table.csv"):
        (out / name).unlink()
    tables.write(out)
    again, kept = pd.read_csv(out / "table.csv"), pd.read_csv(REFERENCE / "table.csv")
    pd.testing.assert_frame_equal(again, kept, rtol=1e-9, atol=1e-9)
    assert (out / "table.md").read_text() == (REFERENCE / "table.md").read_text()


def test_the_reference_was_made_with_the_shipped_base() -> None:
    models = {
        read_json(path).get("model")
        for path in REFERENCE.glob("runs/untrained/seed0/round0/answers/*/identity.json")
    }
    assert models == {untrained(find_base("synthetic")).id}


def test_the_readme_shows_the_reference_numbers() -> None:
    """Every CHAIR-i cell of the reference table stands in the README as it stands in the table."""
    lines = (REFERENCE / "table.md").read_text().splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("| run | CHAIR-s"))
    rows = [line for line in lines[head + 2 :] if line.startswith("| ")][:3]
    readme = (ROOT / "README.md").read_text()
    assert [row.split("|")[1].strip() for row in rows] == ["untrained", "sena", "sima"]
    for row in rows:
        assert row.split("|")[3].strip() in readme
