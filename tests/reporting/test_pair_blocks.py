"""The blocks about pairs, on records written by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness.artifacts.results_folder import Results, write_json
from harness.reporting.results import StudyResults
from harness.reporting.stored import Stored
from harness.reporting.study_row import Row
from harness.reporting.tables.stage_blocks import pair_blocks
from tests.edited_files import OLD_DONE

ONE = {"pairs": 10, "chosen_words": 4.0, "rejected_words": 6.0, "chosen_shorter": 0.5}
TRUE = {"chosen_errors": 1.0, "rejected_errors": 2.0, "judged": 8, "right": 0.75}
CRITIC = {
    "compared": 20,
    "asked": 40,
    "pairs": 10,
    "verdict_rate": 1.0,
    "greedy_wins": 0.6,
    "first_wins": 0.5,
    "inconsistent": None,
}


def study(out: Path, told: dict[int, dict[str, Any]]) -> StudyResults:
    for seed, record in told.items():
        folder = Results(out).pairs("sima", seed, 1)
        write_json(folder / "record.json", record)
        (folder / "DONE").write_text(OLD_DONE)
    row = Row(
        label="sima", base="b", method="sima", pool="p", needs=(), images=1, rounds=1, seeds=(0, 1)
    )
    return cast(StudyResults, SimpleNamespace(rows=(row,), stored=Stored(out)))


def test_means_over_seeds_and_what_is_unknown(tmp_path: Path) -> None:
    records = {
        0: {"quality": {"answer": {**ONE, **TRUE}}, "report": CRITIC},
        1: {
            "quality": {"answer": {**ONE, **TRUE, "pairs": 30, "right": None}},
            "report": {**CRITIC, "greedy_wins": 0.8},
        },
    }
    quality, critic = pair_blocks(study(tmp_path, records))
    assert quality.rows == (("sima", "answer", "20", "4.0", "6.0", "50.0", "1.00", "2.00", "75.0"),)
    assert critic.rows == (("sima", "20", "100.0", "70.0", "50.0", "-"),)


def test_records_that_tell_nothing_make_no_block(tmp_path: Path) -> None:
    assert pair_blocks(study(tmp_path, {0: {}})) == ()
