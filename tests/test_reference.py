"""The committed reference comparison: its table comes from its records, its base is the shipped one, and the README shows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd

from harness.bases import weights_fingerprint
from harness.embedded.train import WEIGHTS
from harness.reporting import tables
from harness.store import read_json

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
    models = {read_json(path).get("model") for path in REFERENCE.glob("runs/untrained/seed0/round0/answers/*/identity.json")}
    assert models == {weights_fingerprint(WEIGHTS / "llava")}


def test_the_readme_shows_the_reference_numbers() -> None:
    """Every CHAIR-i cell of the reference table stands in the README as it stands in the table."""
    rows = [line for line in (REFERENCE / "table.md").read_text().splitlines() if line.startswith("| ") and "±" not in line]
    block = next(place for place, line in enumerate(rows) if "CHAIR-i" in line)
    readme = (ROOT / "README.md").read_text()
    for line in rows[block + 1 :]:
        if not re.match(r"\| (untrained|sena|sima) +\|", line):
            break
        assert line.split("|")[3].strip() in readme
