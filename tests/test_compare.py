"""The comparison's rows: which there are, which a pool can serve, and what is added beside the methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import Problem
from harness.studies import compare
from methods.controls import Control
from tests.toys import save_pictures

CONTROLS = ["sena shuffled", "sena random rejected", "sena sft"]


def labels(**options: object) -> list[str]:
    return [run.label for run in compare.study(**options).runs]  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["embedded", "llava-1.5-7b"])
def test_bounds_and_controls_come_when_they_are_asked_for(base: str) -> None:
    known = list(compare.EMBEDDED if base == "embedded" else compare.PUBLISHED)
    methods = [label for label in known if base != "embedded" or label not in compare.UNTRIED]
    assert {"untrained", "sena", "sima"} <= set(methods)
    assert labels(base=base) == methods
    assert labels(base=base, controls=True) == [*methods, "truth_dpo", "oracle", *CONTROLS]
    assert labels(base=base, only=["sima"]) == ["untrained", "sima"]
    assert labels(base=base, only=["oracle"]) == ["untrained", "oracle"]
    assert labels(base=base, only=["sima"], controls=True) == ["untrained", "sima", "truth_dpo", "oracle", *CONTROLS]


def test_a_row_that_the_pool_cannot_serve_is_left_out_unless_named(tmp_path: Path) -> None:
    folder = str(save_pictures(tmp_path / "pictures", 2))
    assert labels(pool=folder, controls=True) == ["untrained", "sena", *CONTROLS]
    assert labels(pool=folder, only=["sima"]) == ["untrained", "sima"]  # refused by the runner, in words
    manifest = tmp_path / "pool.jsonl"
    manifest.write_text(json.dumps({"image": "pictures/00.png", "question": "what ?", "reference": "a ball ."}))
    assert labels(pool=str(manifest), controls=True) == ["untrained", "sena", "sima", "truth_dpo", *CONTROLS]
    assert labels(only=["csr"]) == ["untrained", "csr"]


def test_controls_are_of_the_row_beside_them() -> None:
    for base in ("embedded", "llava-1.5-7b"):
        rows = {run.label: run.method for run in compare.study(base=base, controls=True).runs}
        for label in CONTROLS:
            method = rows[label]
            assert isinstance(method, Control)
            assert method.inner == rows["sena"]
            assert method.name == label


def test_an_unknown_row_is_told_with_the_nearest() -> None:
    with pytest.raises(Problem, match="did you mean 'oracle'"):
        compare.study(only=["orakle"])
    with pytest.raises(Problem, match="no pool"):
        compare.study(pool="nowhere")
