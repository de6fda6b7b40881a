"""Pools, through the command line: a data set of the hub is pinned, and what is wrong with a pool
is said before any model is loaded; so with the other layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models.hub.conftest import TOKEN, Desk
from tests.tiny_models import picture
from tests.toy_method import save_pictures

pytestmark = pytest.mark.thorough
STUDY = "tests/models/hub/study.py"


def data_set(folder: Path, count: int = 6, broken: int = -1, **columns: list[Any]) -> Path:
    """A repository with one parquet file of images; the ``broken`` one is none."""
    pictures = []
    for index in range(count):
        content = io.BytesIO()
        picture(index).save(content, format="PNG")
        pictures.append(
            {
                "bytes": b"no image" if index == broken else content.getvalue(),
                "path": f"{index}.png",
            }
        )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"image": pictures, **columns}), folder / "data" / "train-00000-of-00001.parquet"
    )
    return folder


def pairs(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "runs/toy/seed0/round1/pairs/record.json").read_text()))


def test_a_hub_data_set_is_a_pool_pinned_to_its_commit(
    desk: Desk, base: Path, tmp_path: Path
) -> None:
    commit = desk.hub.add("org/data", data_set(desk.work / "data"), kind="datasets")
    asked = ("run", STUDY, "--base", base, "--only", "toy", "--pool")
    said = desk.harness(*asked, "hub:org/data", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert TOKEN not in said.out + said.err
    assert pairs(tmp_path / "out")["pool"]["name"] == f"hub:org/data@{commit}"
    # Drawn by the seed: the commit's name draws the same images.
    again = desk.harness(
        "plan", *asked[1:], f"hub:org/data@{commit}:train", "--out", tmp_path / "out"
    )
    assert "nothing is left to do" in " ".join(again.out.split()), again
    asked_for = len(desk.hub.asked)
    offline = desk.harness(
        "plan", *asked[1:], "hub:org/data", "--out", tmp_path / "out", HF_HUB_OFFLINE="1"
    )
    assert "nothing is left to do" in " ".join(offline.out.split()), offline
    assert len(desk.hub.asked) == asked_for
    # Another state of the data set is another pool.
    desk.hub.add("org/data", data_set(desk.work / "data2", broken=0), kind="datasets")
    assert "pool: " in desk.refused(*asked, "hub:org/data", "--out", tmp_path / "out")
    # Offline the commit before is not taken for the one that is asked for.
    offline = desk.harness("plan", *asked[1:], f"hub:org/data@{'0' * 40}", HF_HUB_OFFLINE="1")
    assert offline.code == 2
    assert f"is in the local cache, but not at its commit {'0' * 40}; go online." in offline.err


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (
            "hub:org/no-data",
            "there is no such repository, or it is private: check the id, or log in",
        ),
        ("hub:org/shut", "it is gated: accept its terms on its page and log in"),
        ("hub:org/plain@v7", "it has no revision 'v7': give one of its commits, tags or branches"),
        (
            "hub:org/plain:test",
            (
                "Unknown split \"test\". Should be one of ['train']; check the name, revision and"
                " split."
            ),
        ),
        ("hub:org/words", "has no column image; its columns are sentence."),
        ("hub:nothing", "must be hub:<org>/<name>[/<configuration>][@<revision>][:<split>]"),
    ],
)
def test_a_data_set_that_is_no_pool_is_said_before_any_work(
    desk: Desk, base: Path, pool: str, words: str, tmp_path: Path
) -> None:
    desk.hub.gate("org/shut", "datasets")
    desk.hub.add("org/plain", data_set(desk.work / "plain"), kind="datasets")
    (desk.work / "words" / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"sentence": ["a"]}), desk.work / "words" / "data" / "train-00000-of-00001.parquet"
    )
    desk.hub.add("org/words", desk.work / "words", kind="datasets")
    said = desk.refused(
        "run", STUDY, "--base", base, "--only", "toy", "--pool", pool, "--out", tmp_path / "out"
    )
    assert words in said
    assert TOKEN not in said
    assert not list(tmp_path.glob("out/runs/*"))


def llava(folder: Path, rows: list[dict[str, Any]]) -> str:
    save_pictures(folder / "images", 4)
    (folder / "detail.json").write_text(json.dumps(rows))
    return f"llava:{folder / 'detail.json'}:{folder / 'images'}"


def entry(id: str, image: str) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "What is there?\n<image>"},
        {"from": "gpt", "value": "A ball."},
    ]
    return {"id": id, "image": image, "conversations": turns}


def coco(folder: Path, images: list[dict[str, Any]], notes: list[dict[str, Any]]) -> str:
    save_pictures(folder / "images", 4)
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return f"coco:{folder / 'captions.json'}:{folder / 'images'}"


def manifest(folder: Path, rows: list[dict[str, Any]]) -> str:
    save_pictures(folder, 4)
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "pool.jsonl")


NOTE = {"image_id": 1, "caption": "A ball."}
WRONG: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "llava-missing": (
        lambda at: llava(at, [entry("a", "00.png"), entry("b", "98.png"), entry("c", "99.png")]),
        ["2 of the 3 images of the pool", "such as", "98.png; finish the download"],
    ),
    "llava-outside": (
        lambda at: llava(at, [entry("a", "../detail.json")]),
        ["the image '../detail.json' leads out of the folder of images"],
    ),
    "llava-absolute": (
        lambda at: llava(at, [entry("a", "/etc/hostname")]),
        ["'/etc/hostname' leads out of"],
    ),
    "coco-missing": (
        lambda at: coco(at, [{"id": 1, "file_name": "97.png"}], [NOTE]),
        ["1 of the 1 images of the pool", "97.png"],
    ),
    "coco-outside": (
        lambda at: coco(at, [{"id": 1, "file_name": "../x.png"}], [NOTE]),
        ["'../x.png' leads out of"],
    ),
    "coco-twice": (
        lambda at: coco(
            at, [{"id": 1, "file_name": "00.png"}, {"id": 1, "file_name": "01.png"}], [NOTE]
        ),
        ["the id 1 is there twice"],
    ),
    "coco-same-file": (
        lambda at: coco(
            at, [{"id": 1, "file_name": "00.png"}, {"id": 2, "file_name": "00.png"}], [NOTE]
        ),
        ["the image '00.png' is there twice"],
    ),
    "coco-strange": (
        lambda at: coco(
            at, [{"id": 1, "file_name": "00.png"}], [{"image_id": 5, "caption": "A cup."}]
        ),
        ["a caption is of the image 5, which is not among its images"],
    ),
    "manifest-twice": (
        lambda at: manifest(at, [{"image": "00.png"}, {"image": "00.png"}]),
        ["line 2: the id '00.png' is there already"],
    ),
    "manifest-missing": (
        lambda at: manifest(at, [{"image": "96.png"}]),
        ["line 1: there is no image '96.png'"],
    ),
    "mix-form": (
        lambda at: f"mix:{manifest(at, [{'image': '00.png'}])}=half",
        ["must be <pool>=<weight>"],
    ),
    "mix-inner": (
        lambda at: "mix:" + llava(at, [entry("a", "95.png")]) + "=1",
        ["1 of the 1 images of the pool"],
    ),
    "nowhere": (lambda at: str(at / "nowhere.jsonl"), ["There is no pool"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_pool_is_said_before_any_work(
    desk: Desk, base: Path, name: str, tmp_path: Path
) -> None:
    make, words = WRONG[name]
    pool = make(tmp_path)
    said = desk.refused(
        "run", STUDY, "--base", base, "--only", "toy", "--pool", pool, "--out", tmp_path / "out"
    )
    for word in words:
        assert word in said
    assert not list(tmp_path.glob("out/runs/*"))


def test_a_method_that_needs_a_question_and_a_pool_that_has_none(
    desk: Desk, base: Path, tmp_path: Path
) -> None:
    pool = save_pictures(tmp_path / "pictures", 4)
    said = desk.refused(
        "run", STUDY, "--base", base, "--only", "csr", "--pool", pool, "--out", tmp_path / "out"
    )
    assert "csr needs question with each image" in said
    assert not list(tmp_path.glob("out/runs/*"))


@pytest.mark.slow
def test_a_broken_picture_is_named_before_a_model_is_loaded(
    desk: Desk, base: Path, tmp_path: Path
) -> None:
    pool = save_pictures(tmp_path / "pictures", 4)
    (pool / "02.png").write_bytes((pool / "02.png").read_bytes()[:60])
    said = desk.harness(
        "plan", STUDY, "--base", base, "--only", "toy", "--pool", pool, "--out", tmp_path / "out"
    )
    assert said.code == 0, said.err
    assert (
        f"1 of 4 images drawn from {pool} cannot be read and are left out, such as 02.png: "
        in " ".join(said.out.split())
    )
    (pool / "02.png").unlink()
    data = data_set(tmp_path / "data", count=4, broken=3)
    said = desk.harness(
        "run",
        STUDY,
        "--base",
        base,
        "--only",
        "toy",
        "--pool",
        f"hub:{data}",
        "--out",
        tmp_path / "out",
    )
    assert said.code == 0, said.err
    [broken] = pairs(tmp_path / "out")["counts"]["unreadable_images"]
    first, rest = said.out.split("/7] ", 1)  # the first line about a stage
    assert (
        f"cannot be read and are left out, such as {broken['id']}: not an image that PIL can open."
        in first
    )
    assert "untrained" in rest
