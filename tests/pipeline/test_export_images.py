"""Benchmark images on their way into an export: read as stored, counted, bounded, and the same when
read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.catalogue import BENCHMARKS
from harness.data.image_file import read_image, treatments
from harness.errors import UserError
from harness.pipeline import exchange
from tests.benchmarks import official_files


def export(folder: Path, out: Path) -> Path:
    exchange.export(BENCHMARKS["pope"].factory("test", None, folder), out, split="test", limit=None)
    return out


def test_images_are_exported_as_stored_and_told(tmp_path: Path) -> None:
    folder = official_files.pope(tmp_path / "coco")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGBA", (16, 12), (200, 0, 0, 0))
    image.save(folder / "val2014" / official_files.name(1), format="PNG", exif=exif)
    out = export(folder, tmp_path / "questions")
    counts = json.loads((out / "record.json").read_text())["counts"]
    assert counts == {"images_read_as_stored": {"orientation": 1, "transparency": 1}}
    exported = [read_image(path) for path in (out / "images").iterdir()]
    assert all(treatments(image) == () for image in exported)
    (ours,) = (image for image in exported if image.size == (16, 12))
    assert np.asarray(ours)[0, 0].tolist() == [200, 0, 0]


def test_a_paletted_images_transparency_is_not_applied_later(tmp_path: Path) -> None:
    folder = official_files.pope(tmp_path / "coco")
    path = folder / "val2014" / official_files.name(1)
    Image.new("P", (16, 12)).save(path, format="PNG", transparency=0)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    out = export(folder, tmp_path / "questions")
    exported = [read_image(path) for path in (out / "images").iterdir()]
    (ours,) = (image for image in exported if image.size == (16, 12))
    assert (np.asarray(ours) == expected).all()


def test_a_narrow_image_is_refused_at_export_by_its_name(tmp_path: Path) -> None:
    folder = official_files.pope(tmp_path / "coco")
    name = official_files.name(2)
    Image.new("RGB", (300, 1)).save(folder / "val2014" / name)
    with pytest.raises(UserError, match=f"{name} has 300 x 1 pixels: one side is more than 200"):
        export(folder, tmp_path / "questions")
