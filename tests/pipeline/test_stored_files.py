"""Stored results that were cut, edited, swapped or deleted are named and never used."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.results_folder import (
    Stage,
    lock,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from harness.cli.main import main
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.pipeline.context import LoadedModel
from harness.pipeline.stage_identity import Checkpoint
from harness.pipeline.verify import verify
from harness.reporting import leakage, pack
from harness.reporting.tables import build
from tests.edited_files import without_hashes
from tests.pipeline.toy_study import a_study, do
from tests.running import run_study
from tests.toy_method import outputs

pytestmark = pytest.mark.usefixtures("small")

ROUND = "runs/toy/seed0/round1"
BASE = "runs/untrained/seed0/round0"
WEIGHTS = f"{ROUND}/train/model/model.safetensors"
NEEDED = {
    "questions/words/questions.jsonl": f"{BASE}/answers",
    "questions/words/images": f"{BASE}/answers",
    "questions/words/identity.json": f"{BASE}/answers",
    f"{ROUND}/pairs/pairs.jsonl": f"{ROUND}/train",
    f"{ROUND}/pairs/items.jsonl": "",
    f"{ROUND}/pairs/identity.json": f"{ROUND}/train",
    f"{ROUND}/pairs/record.json": f"{ROUND}/train",
    f"{ROUND}/pairs/shards/00000.jsonl": "",
    WEIGHTS: f"{ROUND}/answers",
    f"{ROUND}/train/model/config.json": f"{ROUND}/answers",
    f"{ROUND}/train/log.jsonl": "",
    f"{ROUND}/train/DONE": "",
    f"{ROUND}/answers/words/answers.jsonl": f"{ROUND}/grades",
    f"{ROUND}/grades/words/grades.parquet": "",
    f"{ROUND}/grades/words/report.json": "",
}
"""Files of a finished study, and the stage that is deleted, so that `run` needs the file."""


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = (flip, cut, empty, folder, pipe, Path.unlink)


@pytest.fixture
def out(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in NEEDED for damage in (flip, Path.unlink)),
        *((name, damage) for name in [*NEEDED][::4] for damage in (cut, empty, folder, pipe)),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_file_is_named_and_moving_its_stage_away_mends(
    out: Path, undisturbed: Path, pool: str, name: str, damage: Callable[[Path], None]
) -> None:
    if (name, damage) == (f"{ROUND}/train/DONE", Path.unlink):
        return  # the stage is unfinished, and is done again
    path = out / name
    if path.is_dir():
        path = sorted(path.iterdir())[0]
    damage(path)
    summary, broken = verify(out)
    assert [str(path) in sentence for sentence in broken] == [True], (summary, broken)
    shutil.rmtree(out / (NEEDED[name] or "none"), ignore_errors=True)
    with pytest.raises(UserError) as caught:
        do(a_study(pool, rounds=2), out)
    assert str(path) in str(caught.value)
    assert "delete" not in str(caught.value)
    stage = next(up for up in path.parents if (up / "DONE").exists())
    assert f"move {stage} out of the results folder and run again" in str(caught.value)
    shutil.move(stage, out.parent / "aside")
    do(a_study(pool, rounds=2), out)
    assert outputs(out) == outputs(undisturbed)
    assert verify(out)[1] == []


def test_pairs_with_chosen_and_rejected_swapped(out: Path, pool: str) -> None:
    path = out / ROUND / "pairs/pairs.jsonl"
    rows = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in read_jsonl(path)
    ]
    write_jsonl(path, rows)
    shutil.rmtree(out / ROUND / "train")
    with pytest.raises(UserError, match=r"pairs\.jsonl was changed after its stage was finished"):
        do(a_study(pool, rounds=2), out)


def test_an_exported_image_swapped_with_another(out: Path, pool: str) -> None:
    first, second = sorted((out / "questions/words/images").iterdir())[:2]
    shutil.copy(second, first)
    shutil.rmtree(out / BASE / "answers")
    with pytest.raises(UserError, match=first.name):
        do(a_study(pool, rounds=2), out)


def test_a_deleted_identity_lets_no_other_settings_in(out: Path, pool: str) -> None:
    (out / ROUND / "pairs/identity.json").unlink()
    without_hashes(out / ROUND / "pairs")
    with pytest.raises(UserError, match=r"identity\.json is missing, so its settings"):
        do(a_study(pool, rounds=2, tokens=5), out)
    (out / ROUND / "pairs/DONE").unlink()
    with pytest.raises(UserError, match=r"identity\.json is missing, so its settings"):
        do(a_study(pool, rounds=2, tokens=5), out)


def test_a_file_that_is_added_to_a_model_is_named(out: Path, pool: str) -> None:
    added = out / ROUND / "train/model/model.safetensors.index.json"
    added.write_text('{"weight_map": {}}')
    shutil.rmtree(out / ROUND / "answers")
    with pytest.raises(UserError, match=r"index\.json was added"):
        do(a_study(pool, rounds=2), out)


def test_weights_that_are_no_longer_needed_may_be_deleted(out: Path, pool: str) -> None:
    (out / WEIGHTS).unlink()
    assert ": done" not in do(a_study(pool, rounds=2), out)


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda damage: damage.__name__)
def test_a_broken_shard_of_an_unfinished_stage_is_named(
    out: Path, undisturbed: Path, pool: str, damage: Callable[[Path], None]
) -> None:
    stage = out / BASE / "answers/words"
    path = stage / "shards/00001.jsonl"
    (stage / "DONE").unlink()
    damage(path)
    assert len(verify(out)[1]) == 1
    with pytest.raises(UserError, match=r"00001\.jsonl .* (aside|out of the results folder)"):
        do(a_study(pool, rounds=2), out)
    shutil.move(path, out.parent / "aside")
    do(a_study(pool, rounds=2), out)
    assert outputs(out) == outputs(undisturbed)


def test_a_shard_without_its_last_line_is_named(out: Path, pool: str) -> None:
    stage = out / BASE / "answers/words"
    (stage / "DONE").unlink()
    write_jsonl(stage / "shards/00000.jsonl", read_jsonl(stage / "shards/00001.jsonl")[:-1])
    with pytest.raises(UserError, match=r"00000\.jsonl was cut or changed"):
        do(a_study(pool, rounds=2), out)


def test_a_broken_stage_is_not_copied_for_another_row(out: Path, pool: str) -> None:
    flip(out / BASE / "answers/words/answers.jsonl")
    shutil.move(out / BASE / "answers/words", out / BASE / "answers/words.old")
    do(a_study(pool, rounds=2), out)
    assert verify(out)[1] != []
    shutil.rmtree(out / BASE / "answers/words.old")
    assert verify(out)[1] == []


def test_tables_leaks_and_packs_name_what_is_broken(out: Path) -> None:
    build.load(out)
    items, grades = out / ROUND / "pairs/items.jsonl", out / ROUND / "grades/words/grades.parquet"
    write_jsonl(items, read_jsonl(items)[:2])
    for read in (leakage.load_with_leaks, pack.pack):
        with pytest.raises(UserError, match=r"items\.jsonl was cut or changed"):
            read(out)
    flip(grades)
    with pytest.raises(UserError, match=r"grades\.parquet was changed"):
        build.load(out)
    for path in out.rglob("DONE"):
        without_hashes(path.parent)
    cut(grades)
    with pytest.raises(UserError, match=r"grades\.parquet is not readable Parquet"):
        build.load(out)


@pytest.mark.thorough
def test_a_folder_without_hashes_still_opens(out: Path, pool: str, tmp_path: Path) -> None:
    for path in out.rglob("DONE"):
        without_hashes(path.parent)
    assert ": done" not in do(a_study(pool, rounds=2), out)
    summary, broken = verify(out)
    assert not broken
    assert "stages not checked: written before hashes were kept" in summary
    pack.pack(out, tmp_path / "packed")


def test_verify_command(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out)]) == 0
    assert "finished stages compared; no problem." in capsys.readouterr().out
    shutil.move(out / BASE / "answers/words", out / BASE / "answers/\x1b[2J")
    flip(out / BASE / "answers/\x1b[2J/answers.jsonl")
    assert main(["verify", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "answers.jsonl was changed" in shown
    assert "\x1b" not in shown
    assert main(["verify", str(tmp_path / "none")]) == 2


def test_verify_reads_nothing_outside_the_folder(out: Path, tmp_path: Path) -> None:
    stage = out / BASE / "answers/words"
    first, lines = (stage / "DONE").read_text().split("\n", 1)
    for made, words in (
        (
            lines.replace(" record.json", " ../../../../../../../secret"),
            "a file outside its folder",
        ),
        (lines.replace(" record.json", " /etc/passwd"), "a file outside its folder"),
        (lines.replace(" ", "\t"), "is cut or changed"),
    ):
        sha = hashlib.sha256(made.encode()).hexdigest()
        (stage / "DONE").write_text(f"{first.split()[0]} {sha}\n{made}")
        assert words in verify(out)[1][0]
    (tmp_path / "secret").write_text("secret")
    (out / "link").symlink_to(tmp_path / "secret")
    assert "symbolic link that leads out" in verify(out)[1][0]


@pytest.mark.thorough
def test_verify_of_a_packed_folder(out: Path, tmp_path: Path) -> None:
    pack.pack(out, tmp_path / "packed")
    summary, broken = verify(tmp_path / "packed")
    assert not broken
    assert "6 files of 1 packed studies compared" in summary
    flip(tmp_path / "packed/grades.parquet")
    cut(tmp_path / "packed/caps.parquet")
    assert len(verify(tmp_path / "packed")[1]) == 2
    edit(tmp_path / "packed/study.json")
    with pytest.raises(UserError, match=r"study\.json was changed .* get the packed folder again"):
        build.load(tmp_path / "packed")


def test_a_run_draws_while_it_holds_the_folder(out: Path, pool: str) -> None:
    def draw() -> None:
        with pytest.raises(UserError, match="Another process is writing"), lock(out):
            pass
        drawn.append(out)

    drawn: list[Path] = []
    run_study(a_study(pool, rounds=2), out, draw=draw)
    assert drawn == [out]


def test_a_cut_study_json_is_written_anew(out: Path, undisturbed: Path, pool: str) -> None:
    cut(out / "study.json")
    with pytest.raises(UserError) as caught:
        build.load(out)
    assert "delete" not in str(caught.value)
    assert f"move {out / 'study.json'} aside and run again" in str(caught.value)
    do(a_study(pool, rounds=2), out)
    assert (out / "study.json").read_bytes() == (undisturbed / "study.json").read_bytes()


def test_an_edited_study_json_is_named_and_written_anew(
    out: Path, undisturbed: Path, pool: str
) -> None:
    edit(out / "study.json")
    summary, broken = verify(out)
    assert [f"{out / 'study.json'} was changed" in words for words in broken] == [True], summary
    with pytest.raises(UserError, match=r"study\.json was changed .* run again"):
        build.load(out)
    do(a_study(pool, rounds=2), out)
    assert (out / "study.json").read_bytes() == (undisturbed / "study.json").read_bytes()
    assert verify(out)[1] == []
    content = read_json(out / "study.json")
    del content["sha256"]  # as earlier versions wrote it
    write_json(out / "study.json", content)
    summary, broken = verify(out)
    assert (broken, "1 study.json files not checked" in summary) == ([], True)
    build.load(out)


def edit(study: Path) -> None:
    study.write_text(study.read_text().replace('"rounds": 2', '"rounds": 1'))


def test_an_adapter_beside_no_model_is_compared_when_it_is_read(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "train", {"stage": "train"})
    stage.open()
    weights = stage.folder / "adapter" / "adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(64))
    (weights.parent / "adapter_config.json").write_text("{}")
    stage.finish({})
    flip(weights)
    checkpoint = Checkpoint(card=BASES["synthetic"], id="", weights=stage.folder / "model")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors was changed"):
        LoadedModel().load(checkpoint)
