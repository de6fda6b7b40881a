"""Pools: the same images for every method, fresh ones each round, undeclared fields hidden,
mistakes named."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from harness.data.open_pool import open_pool
from harness.data.pool import other_id, pixels_sha
from harness.errors import UserError
from methods.interface import Field
from tests.tiny_models import picture
from tests.toy_method import save_pictures

IMAGE: frozenset[Field] = frozenset({"image"})


def manifest(folder: Path, rows: list[object]) -> Path:
    save_pictures(folder / "pictures", 4)
    path = folder / "pool.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def test_rounds_are_fresh_and_the_draw_is_a_function_of_seed_and_round(tmp_path: Path) -> None:
    pool = open_pool(str(save_pictures(tmp_path, 12)))
    first, second, third = (pool.draw(4, 0, round) for round in (1, 2, 3))
    assert sorted(first.ids + second.ids + third.ids) == sorted(pool.ids)
    assert open_pool(str(tmp_path)).draw(4, 0, 2) == second
    assert pool.draw(4, 1, 1).ids != first.ids
    assert pool.draw(2, 0, 1).ids == first.ids[:2]  # fewer images are the first of the same order
    assert first.fingerprint(IMAGE) != second.fingerprint(IMAGE)


def test_another_picture_in_the_pool_leaves_the_order_of_the_rest(tmp_path: Path) -> None:
    before = open_pool(str(save_pictures(tmp_path, 8))).draw(8, 0, 1).ids
    picture(99).save(tmp_path / "new.png")
    after = open_pool(str(tmp_path)).draw(9, 0, 1).ids
    assert tuple(id for id in after if id != "new.png") == before


def test_hashes_are_of_pixels_not_of_files(tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    drawn = open_pool(str(tmp_path)).draw(2, 0, 1)
    assert {one.sha256 for one in drawn.images} == {pixels_sha(image)}
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    assert open_pool(str(tmp_path)).draw(2, 0, 1).fingerprint(IMAGE) != drawn.fingerprint(IMAGE)


def test_texts_count_for_the_methods_that_are_shown_them(tmp_path: Path) -> None:
    before, after = (
        open_pool(
            str(manifest(tmp_path / text, [{"image": "pictures/00.png", "question": text}]))
        ).draw(1, 0, 1)
        for text in ("what ?", "where ?")
    )
    assert before.fingerprint(IMAGE) == after.fingerprint(IMAGE)
    assert before.fingerprint(IMAGE | {"question"}) != after.fingerprint(IMAGE | {"question"})


def test_a_broken_picture_is_named_skipped_and_not_replaced(tmp_path: Path) -> None:
    save_pictures(tmp_path, 4)
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    whole = (tmp_path / "00.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    drawn = open_pool(str(tmp_path)).draw(6, 0, 1)
    assert len(drawn.ids) == 4
    assert {id for id, _ in drawn.skipped} == {"broken.jpg", "half.png"}
    assert all(why for _, why in drawn.skipped)


def test_a_pool_of_broken_pictures_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(
        UserError,
        match=r"None of the 1 images .* can be read; the first: broken\.jpg: not an image",
    ):
        open_pool(str(tmp_path)).draw(1, 0, 1)


def test_a_picture_bomb_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pictures(tmp_path, 1)
    Image.new("RGB", (80, 80)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # 60 x 60 passes, 80 x 80 does not
    drawn = open_pool(str(tmp_path)).draw(2, 0, 1)
    assert drawn.ids == ("00.png",)
    assert "DecompressionBomb" in drawn.skipped[0][1]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 8)).save(path)
    pool = open_pool(str(tmp_path))
    assert pool.image(path.name).mode == "RGB"


def test_undeclared_fields_are_hidden(tmp_path: Path) -> None:
    row = {"id": "x", "image": "pictures/00.png", "question": "what ?", "reference": "a ball"}
    pool = open_pool(str(manifest(tmp_path, [row])))
    assert pool.fields == {"image", "question", "reference"}
    (bare,) = pool.items(["x"], frozenset({"image"}))
    assert (bare.question, bare.reference) == (None, None)
    (asked,) = pool.items(["x"], frozenset({"image", "question"}))
    assert (asked.question, asked.reference) == ("what ?", None)
    (full,) = pool.items(["x"], frozenset({"image", "question", "reference"}))
    assert full.reference == "a ball"
    assert pixels_sha(full.image) == pixels_sha(picture(0))


def test_a_method_that_needs_questions_refuses_pictures_alone(tmp_path: Path) -> None:
    pool = open_pool(str(save_pictures(tmp_path, 1)))
    pool.check(frozenset({"image"}), "sena")
    with pytest.raises(
        UserError, match=r"sima needs question and reference .* has image only; give a \.jsonl"
    ):
        pool.check(frozenset({"image", "question", "reference"}), "sima")


def test_a_field_some_lines_lack_does_not_count(tmp_path: Path) -> None:
    rows: list[object] = [
        {"image": "pictures/00.png", "question": "what ?"},
        {"image": "pictures/01.png"},
    ]
    assert open_pool(str(manifest(tmp_path, rows))).fields == {"image"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", r"line 2: not readable JSON"),
        ("[1]", r"line 2: no image"),
        ({"image": 3}, r"line 2: no image"),
        ({"image": "pictures/01.png", "qestion": "?"}, r"line 2: unknown 'qestion'"),
        ({"image": "pictures/01.png", "question": 3}, r"line 2: question must be text"),
        ({"image": "pictures/99.png"}, r"line 2: there is no image 'pictures/99.png'"),
        ({"image": "pictures/00.png"}, r"line 2: the id 'pictures/00.png' is there already"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(tmp_path: Path, line: object, words: str) -> None:
    path = manifest(tmp_path, [{"image": "pictures/00.png"}, line])
    with pytest.raises(UserError, match=words) as caught:
        open_pool(str(path))
    assert "pool.jsonl" in str(caught.value)


def test_what_is_no_pool_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give synthetic, an existing folder"):
        open_pool(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="holds no image"):
        open_pool(str(tmp_path))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        open_pool(str(tmp_path / "empty.jsonl"))
    with pytest.raises(UserError, match="known: synthetic"):
        open_pool("synthetic:test")
    for empty in ("", " ", "mix:=1"):
        with pytest.raises(UserError, match="The pool's name is empty"):
            open_pool(empty)
    for nameless in ("hub:", "hub::train", "hub:@main"):
        with pytest.raises(UserError, match="names no data set"):
            open_pool(nameless)
    (tmp_path / "a.json").write_text("[]")
    for layout in ("llava", "coco"):
        with pytest.raises(UserError, match="both there"):
            open_pool(f"{layout}:{tmp_path / 'a.json'}:")
    with pytest.raises(UserError, match=r"UTF-8 cannot hold the pool's path '.*caf\\udce9'"):
        open_pool(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))


def test_too_many_rounds_for_the_pool_are_a_problem(tmp_path: Path) -> None:
    pool = open_pool(str(save_pictures(tmp_path, 5)))
    with pytest.raises(UserError, match="holds 5 images; 2 rounds of 3 fresh ones need 6"):
        pool.draw(3, 0, 2)


def test_a_picture_that_vanishes_during_the_run_is_a_problem(tmp_path: Path) -> None:
    pool = open_pool(str(save_pictures(tmp_path, 1)))
    (tmp_path / "00.png").unlink()
    with pytest.raises(UserError, match="has changed during the run"):
        pool.items(pool.ids, frozenset())


def test_the_synthetic_pool() -> None:
    pool = open_pool("synthetic")
    drawn = pool.draw(3, 0, 1)
    (item,) = pool.items(drawn.ids[:1], frozenset({"image", "question", "reference"}))
    assert item.image.size == (60, 60)
    assert item.question
    assert item.reference
    assert open_pool("synthetic:dev").draw(3, 0, 1).ids != drawn.ids
    assert pool.ground_truth is not None
    assert item.reference is not None
    assert (
        pool.ground_truth.errors(item.id, [item.reference])[0]
        < pool.ground_truth.errors(item.id, [item.reference * 2 + "a red boat ."])[0]
    )


def test_only_the_synthetic_pool_has_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="oracle needs ground_truth"):
        open_pool(str(save_pictures(tmp_path, 1))).check(
            frozenset({"image", "ground_truth"}), "oracle"
        )


def test_another_picture_is_one_of_the_round_by_the_items_id_alone(tmp_path: Path) -> None:
    pool = open_pool(str(save_pictures(tmp_path, 9)))
    among = pool.draw(6, 0, 1).ids
    named = {id: other_id(id, among) for id in among}
    assert all(other in among and other != id for id, other in named.items())
    assert len(set(named.values())) > 1
    for item in pool.items(
        among[2:4], frozenset({"image"}), among
    ):  # which others share the call does not matter
        assert item.another is not None
        assert item.another().tobytes() == pool.image(named[item.id]).tobytes()
    assert pool.items(among[:1], frozenset({"image"}), among[:1])[0].another is None
