"""A trained model carries a card that tells what it was made from, and nothing that was not measured."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness import runner
from harness.bases import BASES, find_base
from harness.model_card import card
from harness.progress import Display
from harness.study import Run, Study
from methods.untrained import Untrained
from tests.toys import Toy, Words, save_base, save_pictures


def test_a_run_writes_a_card_and_its_model_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "llava"))
    pictures = str(save_pictures(tmp_path / "pictures", 6))
    baseline = Run(label="untrained", base="tiny", method=Untrained())
    toy = Run(label="toy", base="tiny", method=Toy(), pool=pictures, images=6)
    study = Study(name="carded", question="Does it run?", runs=(baseline, toy), benchmarks=(Words(pictures=1),))
    runner.run(study, tmp_path / "out", Display(io.StringIO()))
    train = tmp_path / "out" / "runs" / "toy" / "seed0" / "round1" / "train"
    text = (train / "model" / "README.md").read_text(encoding="utf-8")
    pairs = json.loads((train.parent / "pairs" / "record.json").read_text())
    assert text.startswith('---\nlibrary_name: "transformers"\n')
    for said in (
        pairs["pool"]["fingerprint"],
        f"{pairs['counts']['pairs']}, {pairs['counts']['dropped']} |",
        '"lr": 0.001',
        "Licences",
    ):
        assert said in text
    # The model's folder is a base of its own: as a ready-made row it answers as it did in its run.
    found = find_base(str(train / "model"))
    rows = (baseline, Run(label="ready made", base=str(train / "model"), method=Untrained()))
    runner.run(
        Study(name="rows", question="?", runs=rows, benchmarks=(Words(pictures=1),)), tmp_path / "rows", Display(io.StringIO())
    )
    mine, its = (
        [json.loads(line)["answer"] for line in (folder / "answers" / "words" / "answers.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "rows" / "runs" / "ready made" / "seed0" / "round0", train.parent)
    )
    assert mine == its
    assert found.family == "llava-1.5"
    study_json = json.loads((tmp_path / "rows" / "study.json").read_text())
    assert study_json["runs"][1]["base"] == str(train / "model")


def test_the_card_of_a_known_base_names_its_licence_and_markup_stays_text() -> None:
    identity = {"base": "llava-1.5-7b", "model": "ab", "pairs": "cd", "round": 2, "seed": 0, "recipe": {"lr": 1e-6}}
    made = {"method": {"name": "sena", "prompts": {"ask": "``` <script> |"}}}
    counts = {"images": 3, "pairs": 2, "dropped": 1, "drops_by_reason": {"a|b <i>": 1}}
    text = card(identity, {"training": {"steps": 1}}, made, {"counts": counts, "pool": {"name": "x|y", "fingerprint": "ef"}})
    assert 'license: "llama2"' in text
    assert "llava-hf/llava-1.5-7b-hf" in text
    assert "a\\|b &lt;i&gt;" in text
    assert "````json" in text
    assert "x\\|y" in text
