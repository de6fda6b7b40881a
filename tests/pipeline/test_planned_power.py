"""What a planned study can show: made spreads, stored tables, the shipped spreads, the words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.pipeline import planned_power, shipped_spreads
from harness.pipeline.planned_power import nearest, stored_spreads
from harness.pipeline.shipped_spreads import ORIGIN, MethodSpread, pooled
from harness.reporting.power import Spread, detectable_difference
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from harness.study import compare
from harness.study.study import Study
from tests.reporting.records import write_study

ROOT = Path(__file__).parents[2]


def thousand(_benchmark: str) -> int:
    return 1000


def a_study(seeds: int, **options: object) -> Study:
    return compare.study(seeds=seeds, only=["sena", "sima"], **options)  # type: ignore[arg-type]


def a_spread(training: float, round: int = 1, origin: str = "one") -> MethodSpread:
    spread = Spread(training=training, images=4.0, interaction=2.0)
    return MethodSpread(
        base="b", benchmark="chair", metric="chair_i", round=round, spread=spread, origin=origin
    )


def test_spreads_are_pooled_by_their_variances() -> None:
    pooled_spread = pooled([a_spread(3.0).spread, a_spread(4.0).spread])
    assert pooled_spread.training == pytest.approx(math.sqrt(12.5))
    assert (pooled_spread.images, pooled_spread.interaction) == (4.0, 2.0)


def test_own_spreads_go_before_shipped_ones_and_near_rounds_before_far_ones() -> None:
    first, third, shipped = a_spread(1.0), a_spread(2.0, 3), a_spread(3.0, 2, ORIGIN)
    key = ("b", "chair", "chair_i")
    assert nearest([first, third, shipped], key, 5) == [third]
    assert nearest([first, third, shipped], key, 2) == [first, third]
    assert nearest([shipped], key, 1) == [shipped]
    assert nearest([first], ("other", "chair", "chair_i"), 1) == []


def test_a_plan_says_what_the_study_can_show(tmp_path: Path) -> None:
    lines = planned_power.lines(a_study(3), tmp_path, thousand)
    assert len(lines) == 6
    assert lines[0].startswith("With 3 seeds the study finds these differences")
    spread = next(
        item.spread
        for item in shipped_spreads.shipped_spreads()
        if (item.metric, item.round) == ("chair_i", 1)
    )
    difference = detectable_difference(spread, seeds=3, images=1000)
    assert f"CHAIR-i, 1,000 images: {difference:.1f} points; 2 points need 3 seeds" in lines[2]
    assert "2 points need more images" in lines[1]
    assert "the shipped reference" in lines[-1]


def test_one_seed_cannot_speak_of_the_method(tmp_path: Path) -> None:
    lines = planned_power.lines(a_study(1), tmp_path, thousand)
    assert "one training cannot speak of the method" in lines[0]
    assert all("points need" in line and "points; " not in line for line in lines[1:5])


def test_a_study_that_can_show_little_says_so_first(tmp_path: Path) -> None:
    assert "can show little" in planned_power.lines(a_study(2), tmp_path, lambda _: 20)[0]
    assert "can show little" not in " ".join(planned_power.lines(a_study(3), tmp_path, thousand))


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    study = a_study(3)
    other = replace(study, runs=tuple(replace(run, base="llava-1.5-7b") for run in study.runs))
    lines = planned_power.lines(other, tmp_path, thousand)
    assert len(lines) == 1
    assert "synthetic CHAIR / CHAIR-i" in lines[0]
    assert "is not known" in lines[0]


def test_the_spreads_of_a_stored_table_promise_what_the_table_says(tmp_path: Path) -> None:
    out = tmp_path / "earlier"
    write_study(out, seeds=(0, 1, 2), images=40)
    tables.write(out)
    table = pd.read_csv(out / "table.csv")
    cells = table[(table["role"] == "method") & (table["about"] == "method") & table["last"]]
    cells = cells[cells["detectable"] > 0]
    assert len(cells)
    stored = json.loads((out / "study.json").read_text())
    base = stored["runs"][0]["base"]
    spreads = list(stored_spreads(tmp_path, base))
    assert {spread.origin for spread in spreads} == {str(out)}
    for _, cell in cells.iterrows():
        promised = {
            detectable_difference(spread.on_images(40), seeds=3, images=40)
            for spread in spreads
            if (spread.benchmark, spread.metric) == (cell["benchmark"], cell["metric"])
        }
        # The table's own number differs where a part of the spread was cut at zero.
        assert any(value == pytest.approx(cell["detectable"], rel=0.1) for value in promised)
    assert [spread.on_images(10).training for spread in spreads] == pytest.approx(
        [2 * spread.on_images(40).training for spread in spreads]
    )
    assert [spread.on_images(400) for spread in spreads] == [spread.spread for spread in spreads]
    assert list(stored_spreads(tmp_path, "another")) == []
    (out / "packed.json").write_text("{}")  # a copy would count the study twice
    assert list(stored_spreads(tmp_path, base)) == []
    (out / "packed.json").unlink()
    (out / "table.csv").write_text("label,benchmark\nsena,synthetic_chair\n")
    assert list(stored_spreads(tmp_path, base)) == []


@pytest.mark.thorough
def test_the_shipped_spreads_are_those_of_the_reference() -> None:
    """Write them again: python -m harness.pipeline.shipped_spreads results/reference/rounds"""
    study = load_results(ROOT / "results" / "reference" / "rounds")
    labels = {row.label for row in study.rows if row.role in ("method", "baseline")}
    study = replace(study, grades=study.grades[study.grades["label"].isin(labels)])
    recomputed = shipped_spreads.summarize(study)
    stored = json.loads(shipped_spreads.PATH.read_text(encoding="utf-8"))
    assert len(stored) == len(recomputed) == 8
    for row, other in zip(stored, recomputed, strict=True):
        assert row.pop("spread") == pytest.approx(other.pop("spread"), abs=2e-4)
        assert row == other
