"""What a study lacks: found before the first stage, and only where it matters."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.artifacts.results_folder import Results
from harness.engine.clip_scorer import SCORERS
from harness.models.base_cards import BASES, BaseCard
from harness.pipeline import preflight, shipped_rates
from harness.pipeline.context import Context
from harness.study import compare
from harness.study.study import Run
from harness.training.placement import Placement
from methods.catalogue import METHODS
from tests.pipeline.toy_study import a_study, do
from tests.toy_method import card_of, save_pictures

pytestmark = pytest.mark.usefixtures("small")


def says(findings: list[preflight.Finding]) -> str:
    return " | ".join(f"{finding.about}: {finding.says}" for finding in findings)


def test_a_study_that_lacks_nothing_has_no_finding_and_a_finished_one_needs_nothing(
    card: BaseCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = str(save_pictures(tmp_path / "pool", 8))
    study, out = a_study(pool), tmp_path / "out"
    assert preflight.of_study(Context(study, Results(out))) == []
    do(study, out)
    gone = replace(card, source=tmp_path / "gone")
    monkeypatch.setitem(BASES, "tiny", gone)
    shutil.rmtree(tmp_path / "pool")
    assert preflight.of_study(Context(study, Results(out))) == []


def test_a_pool_that_is_too_small_or_without_a_field_is_found(tmp_path: Path) -> None:
    pool = str(save_pictures(tmp_path / "pool", 4))
    findings = preflight.of_study(Context(a_study(pool, rounds=2), Results(tmp_path / "out")))
    assert "2 rounds of 8 fresh ones need 16" in says(findings)
    sima = Run(label="sima", base="tiny", method=METHODS["sima"].synthetic, pool=pool, images=2)
    study = replace(a_study(pool), runs=(*a_study(pool).runs[:1], sima))
    findings = preflight.of_study(Context(study, Results(tmp_path / "out")))
    assert "sima needs question and reference with each image" in says(findings)


def test_a_missing_scorer_is_found_before_the_rows_in_front_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(SCORERS["synthetic-clip"], source=tmp_path / "gone")
    monkeypatch.setitem(SCORERS, "synthetic-clip", missing)  # type: ignore[misc]
    study = compare.study(limit=2)
    findings = preflight.of_runs(study.runs, tmp_path, Placement())
    assert [finding.about for finding in findings] == ["row csr"]
    assert "is not at" in findings[0].says


def test_a_training_that_does_not_fit_on_the_gpu_is_found() -> None:
    runs = compare.study(base="llava-1.5-7b", limit=2).runs
    gib = 2**30
    findings = preflight.of_training(runs, Placement(), memory=80 * gib)
    assert [finding.about for finding in findings] == ["row sena", "rows sima, csr"]
    assert "the GPU has 80; take LoRA (--lora)" in says(findings)
    assert preflight.of_training(runs, Placement(), memory=141 * gib) == []
    assert preflight.of_training(runs, Placement(optimizer="adamw8bit"), memory=80 * gib) == []
    published = compare.study(base="llava-1.5-7b", limit=2, profile="published", only=["csr"]).runs
    assert preflight.of_training(published, Placement(), memory=80 * gib) == []
    assert "take more GPUs" in says(preflight.of_training(published, Placement(), memory=8 * gib))


class Usage(NamedTuple):
    free: float


def test_a_disk_that_is_too_small_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = compare.study(base="llava-1.5-7b", limit=2, seeds=1).runs
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=20 * 2**30))
    assert "writes about 41 GiB, and 20 GiB are free" in says(
        preflight.of_disk([(run, run.last) for run in runs], tmp_path / "new" / "out")
    )
    assert preflight.of_disk([(run, 0) for run in runs], tmp_path) == []  # all are trained
    adapted = compare.study(base="llava-1.5-7b", limit=2, seeds=1, profile="published").runs
    lora = [(run, 3) for run in adapted if run.label in ("sima", "csr")]
    assert preflight.of_disk(lora, tmp_path) == []  # adapters alone are kept
    monkeypatch.setitem(BASES, "tiny", card_of(tmp_path))
    unknown = [(replace(run, base="tiny"), run.last) for run in runs]
    assert preflight.of_disk(unknown, tmp_path) == []  # a base of unknown size


def test_a_list_of_findings_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    long = preflight.Finding("base", "This is lacking; do that. " * 20)
    monkeypatch.setenv("COLUMNS", "60")
    lines = preflight.listed([long, long])
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("  1. base: This")
    assert str(preflight.problem([long])) == long.says
    assert "2 things are lacking" in str(preflight.problem([long, long]))


def test_every_stage_of_the_reference_has_a_shipped_rate() -> None:
    import pandas as pd

    stages = pd.read_parquet("results/reference/rounds/stages.parquet")
    records = [json.loads(text) for text in stages["record"].dropna()]
    rates = shipped_rates.summarize(records)["rates"]
    shipped = shipped_rates.shipped_rates().rates
    assert {(rate["stage"], rate["base"], rate["name"]) for rate in rates} <= set(shipped)
    assert ("pairs", "synthetic", "csr") in shipped
