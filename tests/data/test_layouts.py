"""Pools in the layouts of the papers' data: texts beside images, hub data sets, mixtures; what is
missing is named at once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data.open_pool import open_pool
from harness.data.pool import pixels_sha
from harness.errors import UserError
from tests.tiny_models import picture
from tests.toy_method import save_pictures

ALL = frozenset({"image", "question", "reference"})


def llava(tmp_path: Path, rows: list[Any]) -> str:
    save_pictures(tmp_path / "train2017", 4)
    (tmp_path / "detail.json").write_text(json.dumps(rows))
    return f"llava:{tmp_path / 'detail.json'}:{tmp_path / 'train2017'}"


def entry(
    id: str, image: str | None, question: str = "What is there?\n<image>", answer: str = "A ball."
) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": answer},
        {"from": "human", "value": "And then?"},
    ]
    return {"id": id, **({"image": image} if image else {}), "conversations": turns}


def test_llava_instruct_gives_the_first_question_and_answer(tmp_path: Path) -> None:
    pool = open_pool(
        llava(
            tmp_path,
            [
                entry("a", "00.png"),
                entry("text", None),
                entry("b", "01.png"),
                entry("a", "00.png", "Why?"),
            ],
        )
    )
    assert pool.ids == ("a", "b", "a#3")
    assert pool.fields == ALL
    first, _, again = pool.items(pool.ids, ALL)
    assert (first.question, first.reference, again.question) == (
        "What is there?",
        "A ball.",
        "Why?",
    )
    assert pixels_sha(first.image) == pixels_sha(picture(0))
    assert len(pool.draw(3, 0, 1).ids) == 3


def test_coco_captions_are_the_reference(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 2)
    notes = [
        {"image_id": 7, "caption": "A ball. "},
        {"image_id": 8, "caption": "A cup."},
        {"image_id": 7, "caption": "Red."},
    ]
    file = tmp_path / "captions.json"
    images = [{"id": 7, "file_name": "00.png"}, {"id": 8, "file_name": "01.png"}]
    file.write_text(json.dumps({"images": images, "annotations": notes}))
    pool = open_pool(f"coco:{file}:{tmp_path / 'images'}")
    assert pool.fields == {"image", "reference"}
    assert [item.reference for item in pool.items(pool.ids, ALL)] == ["A ball.\nRed.", "A cup."]


def test_a_missing_picture_is_named_when_the_pool_is_opened(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"1 of the 2 images .* are missing, such as .*99\.png; finish the download",
    ):
        open_pool(llava(tmp_path, [entry("a", "00.png"), entry("b", "99.png")]))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "a", "image": "00.png"}], "entry 0: an entry is"),
        ([entry("a", "00.png", question="<image>")], "the question must be text that is not empty"),
        (
            [
                {
                    **entry("a", "00.png"),
                    "conversations": [{"from": "gpt", "value": "x"}, {"from": "gpt", "value": "x"}],
                }
            ],
            "begins with",
        ),
        ([entry("a", None)], "holds no image"),
        ([3], "entry 0"),
        ({}, "must be a list"),
    ],
)
def test_entries_that_are_none_are_named(rows: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        open_pool(llava(tmp_path, rows))


def test_files_that_are_not_there_or_no_json(tmp_path: Path) -> None:
    spec = llava(tmp_path, [])
    (tmp_path / "detail.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        open_pool(spec)
    (tmp_path / "detail.json").write_text("{}")
    with pytest.raises(UserError, match="no COCO captions file"):
        open_pool(spec.replace("llava:", "coco:"))
    with pytest.raises(UserError, match="must be llava:<json file>:<folder of images>"):
        open_pool("llava:nowhere.json:nothing")


def parquet(folder: Path, columns: dict[str, list[Any]], name: str = "train-00000.parquet") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(len(next(iter(columns.values())))):
        content = io.BytesIO()
        picture(index).save(content, format="PNG")
        pictures.append({"bytes": content.getvalue(), "path": f"{index}.png"})
    pq.write_table(pa.table({"image": pictures, **columns}), folder / name)
    return f"hub:{folder}"


def test_a_hub_data_set_is_a_pool(tmp_path: Path) -> None:
    pool = open_pool(
        parquet(
            tmp_path, {"question": ["what ?", "who ?"], "answers": [["a ball", "ball"], ["a cup"]]}
        )
    )
    assert pool.fields == ALL
    items = pool.items(pool.ids, ALL)
    assert [(item.question, item.reference) for item in items] == [
        ("what ?", "a ball"),
        ("who ?", "a cup"),
    ]
    assert pixels_sha(items[1].image) == pixels_sha(picture(1))
    assert pool.draw(2, 0, 1).images[0].sha256
    with pytest.raises(UserError, match="holds no test-"):
        open_pool(f"hub:{tmp_path}:test")


def test_a_cell_that_is_no_text_matters_to_methods_that_need_it(tmp_path: Path) -> None:
    texts = ["<image>\nWhat?", "a <image> b", None, " ", "Who?"]
    pool = open_pool(parquet(tmp_path, {"question": texts, "caption": [[], ["x"], None, [""], []]}))
    drawn = pool.draw(5, 0, 1)
    assert drawn.fingerprint(frozenset({"image"}))
    questions = {image.id: image.question for image in drawn.images}
    assert [questions[id] for id in pool.ids] == ["What?", None, None, None, "Who?"]
    with pytest.raises(UserError, match=r"3 of 5 drawn images, .* have no usable question"):
        drawn.fingerprint(frozenset({"image", "question"}))
    with pytest.raises(UserError, match="no usable reference, which the method needs"):
        drawn.fingerprint(frozenset({"image", "reference"}))


def test_a_hub_column_of_lists_is_no_column_of_images(tmp_path: Path) -> None:
    content = {"bytes": b"", "path": "a.png"}
    pq.write_table(pa.table({"image": [[content]]}), tmp_path / "train-0.parquet")
    with pytest.raises(UserError, match=r"its column image holds .*not one image a row"):
        open_pool(f"hub:{tmp_path}")


def test_a_mixture_keeps_its_proportions_in_every_round(tmp_path: Path) -> None:
    for name, count in (("ocr", 9), ("gqa", 9), ("few", 3)):
        save_pictures(tmp_path / name, count)
    pool = open_pool(f"mix:{tmp_path / 'ocr'}=2,{tmp_path / 'gqa'}=2,{tmp_path / 'few'}=1")
    rounds = [pool.draw(5, 3, round).ids for round in (1, 2, 3)]
    for ids in rounds:
        assert sorted(id.partition("/")[0] for id in ids) == ["few", "gqa", "gqa", "ocr", "ocr"]
    assert len({id for ids in rounds for id in ids}) == 15
    assert {pool.draw(5, seed, 1).ids for seed in range(4, 8)} != {rounds[0]}
    alone = open_pool(str(tmp_path / "ocr")).draw(2, 3, 1).ids
    assert [id for id in rounds[0] if id.startswith("ocr")] == [f"ocr/{id}" for id in alone]
    with pytest.raises(UserError, match=r"in its proportions; 4 rounds of 5 fresh ones need 20"):
        pool.draw(5, 3, 4)


def test_a_mixture_has_the_fields_that_all_its_parts_have(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "plain", 2)
    texts = llava(tmp_path, [entry("a", "00.png"), entry("b", "01.png")])
    assert open_pool(f"mix:{texts}=1,{folder}=1").fields == {"image"}
    for text, words in (
        (f"{folder}=x", "must be <pool>=<weight>"),
        ("synthetic=1", "mixes the synthetic pool"),
        ("gone=1", "no pool 'gone'"),
    ):
        with pytest.raises(UserError, match=words):
            open_pool(f"mix:{text}")


def test_a_manifest_may_state_hashes(tmp_path: Path) -> None:
    save_pictures(tmp_path, 2)
    lines = [{"image": f"0{index}.png", "sha256": pixels_sha(picture(index))} for index in (0, 1)]
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert len(open_pool(str(path)).draw(2, 0, 1).ids) == 2
    picture(5).save(tmp_path / "01.png")
    with pytest.raises(UserError, match=r"'01\.png' differs from the sha256 in its line"):
        open_pool(str(path)).draw(2, 0, 1)
