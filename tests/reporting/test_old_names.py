"""Results folders with the names of earlier versions open like new ones, whole and packed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.reporting import old_names
from harness.reporting.difference import between
from harness.reporting.pack import pack
from harness.reporting.stored import open_stored
from harness.reporting.study_row import VariedSetting
from harness.reporting.tables import build as tables
from tests.edited_files import OLD_DONE
from tests.reporting.records import write_study

OLD = {"synthetic_chair": "world_chair", "synthetic_pope": "world_pope"}
VARIED = "sena recipe.alignment_weight=0"


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a varied row and a reference row."""
    out = write_study(tmp_path_factory.mktemp("new") / "study", seeds=(0,), images=30)
    study = read_json(Results(out).study)
    for run in study["runs"]:
        run |= {"base": "synthetic", "varied": None}
        if run["label"] == "sima":
            run |= {"label": "gt_dpo", "method": "gt_dpo", "role": "reference"}
    sena = next(run for run in study["runs"] if run["label"] == "sena")
    varied = {"row": "sena", "field": "recipe.alignment_weight", "value": 0}
    sena["settings"] = {"recipe": {"alignment_weight": 1.0}}
    study["runs"].append({**sena, "label": VARIED, "varied": varied})
    write_json(Results(out).study, study)
    (out / "runs" / "sima").rename(out / "runs" / "gt_dpo")
    shutil.copytree(out / "runs" / "sena", out / "runs" / VARIED)
    for name in OLD:
        folder = Results(out).questions(name)
        write_json(folder / "identity.json", {"stage": "export", "benchmark": name})
        (folder / "DONE").write_text(OLD_DONE)
    return out


@pytest.fixture
def old(new: Path, tmp_path: Path) -> Path:
    """The same study with the old names, in JSON and as folders."""
    out = Path(shutil.copytree(new, tmp_path / "old"))
    words = {present: name for name, present in old_names.WORDS.items()}

    def renamed(text: str) -> str:
        for present, name in words.items():
            text = text.replace(present, name)
        return text

    for path in [*out.rglob("*.json")]:
        text = renamed(path.read_text())
        text = text.replace('"base": "synthetic"', '"base": "embedded"')
        text = text.replace('"pool": "synthetic"', '"pool": "world"')
        text = text.replace('"name": "synthetic"', '"name": "world"')
        text = text.replace('"role": "matched"', '"role": "derived"')
        path.write_text(text.replace('"role": "reference"', '"role": "bound"'))
    study = read_json(Results(out).study)
    for run in study["runs"]:
        del run["varied"]
    write_json(Results(out).study, study)
    folders = [path for path in out.rglob("*") if path.is_dir() and renamed(path.name) != path.name]
    for path in sorted(folders, key=lambda path: -len(path.parts)):
        path.rename(path.with_name(renamed(path.name)))
    for path in [*out.glob("questions/*/images.jsonl")]:
        path.rename(path.with_name("pictures.jsonl"))
    assert (out / "runs" / "truth_dpo" / "seed0" / "round1" / "grades" / "world_chair").is_dir()
    return out


@pytest.mark.thorough
def test_an_old_folder_has_the_table_of_the_new_one(new: Path, old: Path) -> None:
    expected, comparison = tables.load(new), tables.load(old)
    assert comparison.table == expected.table
    assert comparison.leaks == expected.leaks
    assert comparison.leaks.found
    varied = comparison.study.row(VARIED).varied
    assert varied == VariedSetting("sena", "recipe.alignment_weight", "0")
    assert "alignment_weight" in read_json(Results(new).study)["runs"][1]["settings"]["recipe"]
    text = between(new, old)
    assert "Settings that differ: none." in text
    assert "0 differ" in text


@pytest.mark.thorough
def test_an_old_folder_is_packed_with_the_new_names(new: Path, old: Path, tmp_path: Path) -> None:
    pack(old, tmp_path / "packed")
    assert tables.load(tmp_path / "packed").table == tables.load(new).table
    assert "world" not in (tmp_path / "packed" / "study.json").read_text()


@pytest.mark.thorough
def test_an_old_packed_folder_opens(new: Path, tmp_path: Path) -> None:
    """A packed folder with old names in its files, as version 1 of the format wrote them."""
    packed = tmp_path / "packed"
    pack(new, packed)
    expected = tables.load(packed).table
    for name in ("stages", "questions"):
        path = packed / f"{name}.parquet"
        frame = pd.read_parquet(path)
        for present, word in ((new, old) for old, new in old_names.WORDS.items()):
            for column in frame.select_dtypes(exclude="bool"):
                frame[column] = frame[column].str.replace(present, word, regex=False)
        frame.to_parquet(path, index=False)
    manifest = read_json(packed / "packed.json")
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((packed / name).read_bytes()).hexdigest()
    benchmarks = manifest["benchmarks"]
    manifest["benchmarks"] = {OLD[name]: entry for name, entry in benchmarks.items()}
    asked = manifest["leaks"]["asked"]
    manifest["leaks"]["asked"] = {OLD[name]: count for name, count in asked.items()}
    for leak in manifest["leaks"]["found"]:
        leak |= {"benchmark": OLD[leak["benchmark"]], "picture": leak.pop("image")}
    write_json(packed / "packed.json", manifest)
    assert "world_chair" in (packed / "packed.json").read_text()
    assert open_stored(packed).questions("synthetic_chair")["max_new_tokens"] == [8]
    assert tables.load(packed).table == expected


def test_ordinary_words_stay() -> None:
    value = {"text": "the world embedded", "base": "embedded world", "my_truth_dpo": "truth_dpo x"}
    assert old_names.present(value) == {**value, "my_truth_dpo": "gt_dpo x"}
