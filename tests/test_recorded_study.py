"""A small comparison gives the recorded texts, pairs and grades on every processor and with any
number of threads.

Log-probabilities and weights are not compared: they differ in their last digits.
``python -m tests.test_recorded_study`` writes the record again, from the code as it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.artifacts.fingerprint import canonical
from harness.artifacts.results_folder import read_jsonl
from harness.study import compare
from tests.running import run_study

RECORD = Path(__file__).with_name("recorded_study.json")
COUNT = 8
"""Pool images and questions' images a benchmark."""

KEPT = {
    "answers.jsonl": ("id", "answer"),
    "pairs.jsonl": ("key", "item", "prompt", "chosen", "rejected", "aligned", "kind"),
    "drops.jsonl": ("key", "item", "reason", "kind"),
    "questions.jsonl": ("id", "text"),
}
"""What of each file is text."""


def results(out: Path) -> dict[str, list[Any]]:
    """The texts of every file below ``out``, and every question's grade, by the file's path."""
    found: dict[str, list[Any]] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name in KEPT:
            found[name] = [[row[field] for field in KEPT[path.name]] for row in read_jsonl(path)]
        elif path.name == "grades.parquet":
            found[name] = json.loads(pd.read_parquet(path).to_json(orient="records"))
    return found


def small_study(out: Path) -> dict[str, list[Any]]:
    """The default comparison, all three methods, trained, answered and graded, on the development
    split."""
    study = compare.study(images=COUNT, limit=COUNT, seeds=1, split="dev", name="recorded")
    run_study(study, out)
    return results(out)


def hashes(found: Mapping[str, list[Any]]) -> dict[str, str]:
    return {
        name: hashlib.sha256(canonical(rows).encode()).hexdigest()[:16]
        for name, rows in found.items()
    }


@pytest.mark.equality
def test_a_small_comparison_has_the_recorded_texts_pairs_and_grades(tmp_path: Path) -> None:
    found = small_study(tmp_path)
    assert all(
        found[f"runs/{label}/seed0/round1/pairs/pairs.jsonl"]
        for label in compare.trained_rows("method")
    )
    assert hashes(found) == json.loads(RECORD.read_text(encoding="utf-8"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = hashes(small_study(Path(folder)))
    RECORD.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{RECORD.name}: {len(made)} files\n")
