"""Packed folders: the same tables and figures as from the whole folder, and bad ones in a
sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.artifacts.results_folder import Results, read_json, write_json, write_jsonl
from harness.cli.main import main
from harness.errors import UserError
from harness.pipeline.matched_baselines import CAPS as LENGTHS
from harness.reporting import difference
from harness.reporting.figures import draw as figures
from harness.reporting.pack import pack
from harness.reporting.results import load_results
from harness.reporting.stored import CAPS, FILES, FORMAT, FORMAT_KEY, GRADES, REPEATS, open_stored
from harness.reporting.tables import build as tables
from harness.reporting.tables import stage_blocks
from tests.edited_files import OLD_DONE
from tests.reporting.records import write_study


def with_caps(out: Path) -> Path:
    """The study with a stage "caps" for two rows: the words cut at each length, and answers, of
    which sena's first fifteen repeat a sentence."""
    results = Results(out)
    for label, seed, number in (("untrained", 0, 0), ("sena", 0, 1), ("sena", 1, 1)):
        grades = pd.read_parquet(
            results.grades(label, seed, number, "synthetic_chair") / "grades.parquet"
        )
        counts = grades[
            ["question", "cluster", *(name for name in grades if name.startswith("count_"))]
        ]
        parts = [
            counts.assign(cap=cap, count_words=counts["count_words"].clip(upper=cap or None))
            for cap in (*LENGTHS, 0)
        ]
        folder = results.caps(label, seed, number, "synthetic_chair")
        folder.mkdir(parents=True)
        pd.concat(parts, ignore_index=True).to_parquet(folder / "caps.parquet", index=False)
        write_json(folder / "identity.json", {"format": 1})
        (folder / "DONE").write_text(OLD_DONE)
        answers = results.answers(label, seed, number, "synthetic_chair")
        texts = ["a cup. a cup." if label == "sena" else "a cup. a plate."] * 15
        texts += ["a cup."] * (len(counts) - 15)
        lines = [
            {"id": id, "answer": text} for id, text in zip(counts["question"], texts, strict=True)
        ]
        write_jsonl(answers / "answers.jsonl", lines)
        record = read_json(answers / "record.json")
        record["counts"] = {"questions": 62, "unfinished": 3, "unanswered": 2}
        write_json(answers / "record.json", record)
    return out


pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "whole"
    with_caps(write_study(out, seeds=(0, 1), images=60, labels=("untrained", "sena")))
    write_study(out / "inner", seeds=(0,), images=20, labels=("untrained", "sena"))
    tables.write(out)
    figures.write(out)
    return out


@pytest.fixture(scope="module")
def packed_once(whole: Path) -> Path:
    out = whole.with_name("packed")
    pack(whole, out)
    return out


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def test_the_table_and_figures_are_those_of_the_whole_folder(whole: Path, packed: Path) -> None:
    for name in ("table.md", "table.csv"):
        assert (packed / name).read_bytes() == (whole / name).read_bytes()
        (packed / name).unlink()
    tables.write(packed)
    for name in ("table.md", "table.csv", "table.tex", "table.html", "summary.tex", "leaks.csv"):
        assert (packed / name).read_bytes() == (whole / name).read_bytes(), name
    shutil.rmtree(packed / "figures")
    again = {path.name: path.read_bytes() for path in figures.write(packed)}
    there = {path.name: path.read_bytes() for path in (whole / "figures").iterdir()}
    assert again == there
    assert {"at-several-lengths.csv", "at-several-lengths.png", "training.pdf"} <= set(there)


def test_repeated_sentences_and_unfinished_answers_are_packed(whole: Path, packed: Path) -> None:
    for out in (whole, packed):
        block = stage_blocks.answers_block(load_results(out))
        texts: dict[str, list[str]] = {heading: [] for heading in block.header}
        for row in block.rows:
            for heading, text in zip(block.header, row, strict=True):
                texts[heading].append(text)
        assert texts["run"] == ["untrained", "sena"]
        assert texts["CHAIR repeated %"] == ["0.0", "25.0"]  # 15 of 60
        assert texts["CHAIR unfinished %"] == ["5.0", "5.0"]  # 3 of 60 that were answered
        assert texts["POPE unfinished %"] == ["not recorded", "not recorded"]


def test_a_pack_of_an_earlier_version_opens_without_repeated_sentences(packed: Path) -> None:
    table = pq.read_table(packed / CAPS)
    assert REPEATS in table.column_names
    pq.write_table(table.drop_columns([REPEATS]), packed / CAPS)
    manifest = read_json(packed / "packed.json")
    manifest["files"][CAPS] = hashlib.sha256((packed / CAPS).read_bytes()).hexdigest()
    write_json(packed / "packed.json", manifest)
    block = stage_blocks.answers_block(load_results(packed))
    place = block.header.index("CHAIR repeated %")
    assert {row[place] for row in block.rows} == {"not recorded"}


def test_leaked_images_can_be_left_out_of_a_packed_folder(whole: Path, packed: Path) -> None:
    left = [tables.load(out, exclude_leaks=True) for out in (whole, packed)]
    assert left[0].leaks.found == left[1].leaks.found != ()
    assert left[0].table == left[1].table != tables.load(whole).table


def test_no_difference_to_the_whole_folder(whole: Path, packed: Path) -> None:
    said = difference.between(whole, packed)
    assert "Settings that differ: none." in said
    assert "hardware that differ: none." in said
    assert " 0 differ" in said


def test_files_carry_the_format_and_are_few(packed: Path) -> None:
    inner = packed / "inner"
    for out in (packed, inner):
        for name in FILES:
            assert pq.read_schema(out / name).metadata == {FORMAT_KEY: str(FORMAT).encode()}
        assert read_json(out / "packed.json")["format"] == FORMAT
        names = {path.name for path in out.iterdir() if path.is_file()}
        assert names == {*FILES, "study.json", "packed.json", "table.md", "table.csv"}
    assert len([*(packed / "figures").iterdir()]) == 3


def test_an_unfinished_study_is_packed_and_what_is_missing_is_said(tmp_path: Path) -> None:
    out = write_study(
        tmp_path / "cut",
        seeds=(0,),
        images=20,
        absent=("sima/seed0/round1/grades/synthetic_chair",),
    )
    (said,) = pack(out)
    assert (
        "not finished (1 missing: sima, seed 0, round 1: synthetic_chair is not graded yet)" in said
    )
    tables.write(out)
    assert (tmp_path / "cut-packed" / "table.md").read_text() == (out / "table.md").read_text()


def test_nothing_graded_is_not_packed(tmp_path: Path) -> None:
    out = write_study(tmp_path / "new", seeds=(0,), images=20, labels=("untrained",))
    shutil.rmtree(out / "runs")
    with pytest.raises(UserError, match=r"Nothing in .* is graded yet"):
        pack(out)


def test_packing_again_replaces_the_packed_folder(whole: Path, packed: Path) -> None:
    (packed / "inner" / GRADES).write_bytes(b"")
    pack(whole / "inner", packed / "inner")
    tables.load(packed / "inner")


def test_where_packing_is_refused(whole: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a packed results folder .* cannot be packed again"):
        pack(packed, tmp_path / "twice")
    with pytest.raises(UserError, match="only reads"):
        pack(whole, whole)
    other = write_study(tmp_path / "other", seeds=(0,), images=20)
    with pytest.raises(UserError, match="holds a study that is not packed"):
        pack(whole, other)
    with pytest.raises(UserError, match=r"holds no study\.json"):
        pack(tmp_path)


def test_another_format_is_named(packed: Path) -> None:
    manifest = read_json(packed / "packed.json")
    write_json(packed / "packed.json", manifest | {"format": FORMAT + 1})
    with pytest.raises(UserError, match=f"format {FORMAT + 1}, this version reads format {FORMAT}"):
        tables.load(packed)


def test_a_benchmark_that_one_side_lacks_is_named(packed: Path) -> None:
    study = read_json(packed / "study.json")
    del study["sha256"]  # as earlier versions wrote it
    more = [*study["benchmarks"], {**study["benchmarks"][0], "name": "coco_chair"}]
    write_json(packed / "study.json", {**study, "benchmarks": more})
    with pytest.raises(
        UserError, match=r"study\.json names coco_chair but the packed files lack it"
    ):
        tables.load(packed)
    write_json(packed / "study.json", {**study, "benchmarks": study["benchmarks"][1:]})
    with pytest.raises(UserError, match="packed files hold synthetic_chair but"):
        tables.load(packed)


def test_a_manifest_with_other_questions_is_named(packed: Path) -> None:
    manifest = read_json(packed / "packed.json")
    manifest["benchmarks"]["synthetic_pope"]["questions"] += 1
    write_json(packed / "packed.json", manifest)
    with pytest.raises(UserError, match=r"240 questions of synthetic_pope, packed\.json names 241"):
        tables.load(packed)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_missing_file_is_named(packed: Path, name: str) -> None:
    content = (packed / name).read_bytes()
    (packed / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{name} is cut or changed"):
        figures.write(packed)
    (packed / name).unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        figures.write(packed)


def test_broken_json_is_named(packed: Path) -> None:
    (packed / "packed.json").write_text(json.dumps({"format": FORMAT}))
    with pytest.raises(UserError, match="lacks benchmarks, files, leaks"):
        tables.load(packed)
    (packed / "packed.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        tables.load(packed)


@pytest.mark.parametrize(
    "command",
    [
        ("page", "--out"),
        ("run", "smoke", "--out"),
        ("plan", "smoke", "--out"),
        ("cross-check",),
        ("pack",),
    ],
)
def test_commands_that_need_the_whole_folder_say_so(
    packed: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(packed.rglob("*"))
    assert main([*command, str(packed)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is a packed results folder without answers, pairs and images" in said
    assert sorted(packed.rglob("*")) == before


def test_the_figures_command_says_what_it_leaves_out(
    packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", "--out", str(packed / "inner")]) == 0
    assert (
        "no answers and no images, so the figures examples-* and noise are not drawn"
        in capsys.readouterr().out
    )


def test_a_stage_that_is_not_packed_is_not_done(packed: Path) -> None:
    stored = open_stored(packed)
    assert not stored.done(Results(packed).train("nobody", 0, 1))
    assert stored.identity(Results(packed).train("nobody", 0, 1)) is None
