"""Leakage: the same pixels and nearly the same images are found, disjoint splits of the world are
not taken for leaks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.synthetic.suite import synthetic_item
from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import Results, Stage, read_jsonl, write_jsonl
from harness.data.open_pool import open_pool
from harness.data.pool import difference_hash, pixels_sha
from harness.errors import UserError
from harness.reporting import leakage
from harness.reporting.comparison import compare
from harness.reporting.figures import draw as figures
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from tests.pipeline.answer_files import export
from tests.reporting.records import write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, seeds=(0,), images=60)


def plant(out: Path, hash: str, sha: str = "f" * 64) -> None:
    """Another image among sena's drawn ones."""
    path = Results(out).pairs("sena", 0, 1) / "items.jsonl"
    write_jsonl(path, [*read_jsonl(path), {"id": "planted", "sha256": sha, "dhash": hash}])


def flipped(hash: str, bits: int) -> str:
    return f"{int(hash, 16) ^ (2**bits - 1):016x}"


def found(out: Path) -> leakage.Leaks:
    return leakage.find(load_results(out))


def test_exact_and_near_images_are_counted_and_listed(study: Path) -> None:
    near = read_jsonl(Results(study).questions("synthetic_chair") / "images.jsonl")[7]
    plant(study, flipped(near["dhash"], leakage.NEAR))
    tables.write(study)
    listed = pd.read_csv(study / "leaks.csv")
    chair = listed[listed["benchmark"] == "synthetic_chair"].set_index("cluster")
    assert dict(chair["kind"]) == {"p3": "exact", "p7": "near"}
    assert chair.loc["p7", "distance"] == leakage.NEAR
    assert chair.loc["p7", "item"] == "planted"
    assert chair.loc["p3", "labels"] == "sena / sima"
    assert "synthetic CHAIR 1 exact, 1 near, of 60 images" in (study / "table.md").read_text()


def test_one_bit_more_is_another_image(study: Path) -> None:
    near = read_jsonl(Results(study).questions("synthetic_chair") / "images.jsonl")[7]
    plant(study, flipped(near["dhash"], leakage.NEAR + 1))
    assert {leak.cluster for leak in found(study).found} == {"p3"}


def test_blank_images_are_not_near_each_other(study: Path) -> None:
    path = Results(study).questions("synthetic_chair") / "images.jsonl"
    rows = read_jsonl(path)
    rows[9]["dhash"] = "0" * 16
    write_jsonl(path, rows)
    plant(study, "0" * 16)
    assert {leak.cluster for leak in found(study).found if leak.benchmark == "synthetic_chair"} == {
        "p3"
    }


@pytest.mark.thorough
def test_without_leaks_everything_is_recomputed_from_the_others(study: Path) -> None:
    whole = compare(load_results(study))
    text = tables.write(study, exclude_leaks=True)
    records, leaks = leakage.load_with_leaks(study, exclude_leaks=True)
    pope = {leak.cluster for leak in leaks.found if leak.benchmark == "synthetic_pope"}
    assert pope == {"p3"}
    assert not (records.grades["cluster"] == "p3").any()
    cells = compare(records)
    assert {cell.images for cell in cells} == {59}
    grades = load_results(study).grades
    other_grades = grades[
        (grades["label"] == "sena")
        & (grades["benchmark"] == "synthetic_pope")
        & (grades["cluster"] != "p3")
    ]
    accuracy = next(cell for cell in cells if (cell.label, cell.metric) == ("sena", "accuracy"))
    assert accuracy.value == pytest.approx(
        100 * other_grades["count_right"].sum() / other_grades["count_read"].sum()
    )
    assert [cell.difference for cell in cells] != [cell.difference for cell in whole]
    flat = " ".join(text.split())
    assert (
        "Leaked images are left out of every row, with all their questions: synthetic CHAIR 1 of 60"
        in flat
    )
    assert "59 images" in flat
    assert figures.write(study, exclude_leaks=True)


def test_nothing_left_is_a_problem(study: Path) -> None:
    every = [{"id": str(i), "sha256": f"{i:064x}", "dhash": ""} for i in range(60)]
    write_jsonl(Results(study).pairs("sena", 0, 1) / "items.jsonl", every)
    assert tables.write(study)
    with pytest.raises(UserError, match="nothing is left without the leaks"):
        tables.write(study, exclude_leaks=True)


def test_a_folder_without_hashes_says_so(study: Path) -> None:
    (Results(study).questions("synthetic_chair") / "images.jsonl").unlink()
    flat = " ".join(tables.write(study).split())
    assert (
        "synthetic CHAIR 1 exact, unknown near, of 60 images; synthetic POPE 1 exact, 0 near, of 60"
        in flat
    )
    assert "stored without perceptual hashes: synthetic CHAIR." in flat


def saved_again(image: Image.Image) -> Iterator[Image.Image]:
    for quality in (90, 70):
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        yield Image.open(content)
    yield image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)


def test_an_image_saved_again_is_near_and_disjoint_splits_are_not() -> None:
    """The threshold's two sides, on a sample of the world: the numbers of ``leakage.NEAR`` are of
    20,000 images."""
    dev_images = [synthetic_item("dev", index)[1] for index in range(40)]
    hashes = [int(difference_hash(image), 16) for image in dev_images]
    again = [
        (int(difference_hash(other), 16) ^ hash).bit_count()
        for image, hash in zip(dev_images, hashes, strict=True)
        for other in saved_again(image)
    ]
    assert np.mean(np.array(again) <= leakage.NEAR) > 0.85
    pool = [int(difference_hash(synthetic_item("pool", index)[1]), 16) for index in range(300)]
    assert min((a ^ b).bit_count() for a in hashes for b in pool) > leakage.NEAR


def test_a_hash_is_of_pixels_and_not_of_their_format() -> None:
    image = synthetic_item("dev", 0)[1]
    content = io.BytesIO()
    image.save(content, "PNG")
    again = Image.open(content)
    assert difference_hash(again) == difference_hash(image)
    assert pixels_sha(again) == pixels_sha(image)
    assert len(difference_hash(image)) == 16
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (80, 1)))
    assert difference_hash(ramp) == "f" * 16
    assert difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == "0" * 16


def test_the_stages_store_the_hashes(tmp_path: Path) -> None:
    from benchmarks.synthetic import suite

    stage = Stage(tmp_path / "questions", {"stage": "export", "format": 1})
    export(stage, suite.pope("dev", limit=3))
    rows = read_jsonl(stage.folder / "images.jsonl")
    assert {row["sha256"] for row in rows} == {
        path.stem for path in (stage.folder / "images").iterdir()
    }
    for row in rows:
        assert row["dhash"] == difference_hash(
            Image.open(stage.folder / "images" / f"{row['sha256']}.png")
        )
    drawn = open_pool("synthetic").draw(2, seed=0, round=1)
    assert [image.dhash for image in drawn.images] == [
        difference_hash(open_pool("synthetic").image(image.id)) for image in drawn.images
    ]


def test_a_hash_changes_no_identity() -> None:
    """What was made before hashes were stored is continued, not refused."""
    drawn = open_pool("synthetic").draw(2, seed=0, round=1)
    assert drawn.fingerprint(frozenset({"image"})) == fingerprint(
        [[image.id, image.sha256] for image in drawn.images]
    )
