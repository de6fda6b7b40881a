"""The committed reference: its tables come from its packed numbers, its base is the shipped one,
and the README shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Results
from harness.models.base_cards import find_base, identity_files
from harness.models.checkpoints import weights_fingerprint
from harness.reporting.stored import open_stored
from harness.reporting.tables import build as tables

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
ROUNDS = REFERENCE / "rounds"


BOTH = (
    pytest.param(REFERENCE, id="comparison"),
    pytest.param(ROUNDS, id="rounds", marks=pytest.mark.slow),
    pytest.param(REFERENCE / "ablations", id="ablations", marks=pytest.mark.slow),
)


@pytest.mark.thorough
@pytest.mark.parametrize("kept", BOTH)
def test_the_table_is_recomputed_from_the_packed_numbers(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "reference"
    shutil.copytree(kept, out, ignore=shutil.ignore_patterns("table.*", "ablations", "rounds"))
    tables.write(out)
    again, there = pd.read_csv(out / "table.csv"), pd.read_csv(kept / "table.csv")
    pd.testing.assert_frame_equal(again, there, rtol=1e-9, atol=1e-9)
    assert (out / "table.md").read_text() == (kept / "table.md").read_text()


def test_the_reference_was_made_with_the_shipped_base() -> None:
    for out in (REFERENCE, ROUNDS, REFERENCE / "ablations"):
        stored, answers = (
            open_stored(out),
            Results(out).answers("untrained", 0, 0, "synthetic_chair").parent,
        )
        identities = [
            stored.identity(folder) for folder in stored.stages() if folder.parent == answers
        ]
        assert len(identities) == 4
        card = find_base("synthetic")
        assert isinstance(card.source, Path)
        # When the ablations were made, an identity held the weights and the settings alone.
        settings: dict[str, object] = {"files": identity_files(card)}
        if out == REFERENCE / "ablations":
            settings = {"weights": weights_fingerprint(card.source)}
        expected = fingerprint({**card.settings, **settings})
        assert {identity["model"] for identity in identities if identity} == {expected}


def test_the_readme_shows_the_reference_numbers() -> None:
    """Every row of the reference's summary stands in the README, but for the share of yes."""
    lines = (REFERENCE / "table.md").read_text().splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("| row | CHAIR-s"))
    assert "POPE yes ratio" in lines[head].split("|")[6]
    readme = (ROOT / "README.md").read_text()
    rows = 0
    for line in lines[head + 2 :]:
        if not line.startswith("| "):
            break
        if line.startswith("| *"):
            continue
        cells = line.split("|")
        assert " |" + "|".join((*cells[2:6], *cells[7:])) in readme, line
        rows += 1
    assert rows == 15


def test_results_stay_light() -> None:
    """Few files and at most 4 MB are committed below results/: three packed studies, benches."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert 30 < len(paths) <= 46
    assert sum(path.stat().st_size for path in paths) <= 4e6
