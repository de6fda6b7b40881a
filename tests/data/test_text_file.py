"""Texts and names of pools: encodings, nulls, blanks, surrogates, special tokens; linked, hidden
and unusual files of a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.data.open_pool import open_pool
from harness.data.text_file import read_text
from harness.errors import UserError
from tests.tiny_models import picture
from tests.toy_method import save_pictures


def manifest(folder: Path, content: bytes) -> str:
    picture(0).save(folder / "a.png")
    (folder / "pool.jsonl").write_bytes(content)
    return str(folder / "pool.jsonl")


def llava(folder: Path, question: Any, answer: Any = "A ball.", image: Any = "a.png") -> str:
    picture(0).save(folder / "a.png")
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    rows = [{"id": "x", "image": image, "conversations": turns}]
    (folder / "d.json").write_text(json.dumps(rows))
    return f"llava:{folder / 'd.json'}:{folder}"


def coco(folder: Path, caption: Any, name: Any = "a.png") -> str:
    picture(0).save(folder / "a.png")
    images, notes = [{"id": 1, "file_name": name}], [{"image_id": 1, "caption": caption}]
    (folder / "c.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return f"coco:{folder / 'c.json'}:{folder}"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_utf8_is_read_with_or_without_mark_and_with_any_line_end(
    tmp_path: Path, start: bytes, end: bytes
) -> None:
    line = '{"image": "a.png", "question": " Où? "}'.encode()
    assert open_pool(manifest(tmp_path, start + line + end)).read("a.png").question == "Où?"


def test_a_pipe_in_the_place_of_a_pool_s_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"cannot be read \(it is no plain file\)"):
        read_text(tmp_path / "pipe.jsonl")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "a.png", "question": "Où?"}'.encode("cp1252"), "line 2: not UTF-8 text"),
        (b'{"image": "a.png", "question": "  "}', "line 2: question must be text that is not"),
        (b'{"image": "a.png", "question": "\\ud83d"}', "line 2: question holds half of a char"),
        (b'{"image": "caf\\udce9.png"}', "line 2: image holds half of a character"),
        (b'{"image": "a.png", "id": "\\ud83d"}', "line 2: id holds half of a character"),
        (b'{"image": "a.png", "question": "<image>\\nWhat?"}', "line 2: question holds '<image>'"),
        (b'{"image": "a.png", "reference": "x<|im_end|>"}', "line 2: reference holds"),
        (b'{"image": "' + b"a" * 5000 + b'"}', "line 2: there is no image"),
        (b'{"image": ' + b"[" * 100_000, "line 2: not readable JSON"),
        (b'{"image": ' + b"1" * 5000 + b"}", "line 2: not readable JSON"),
    ],
)
def test_a_manifests_bad_text_is_named_with_its_line(
    tmp_path: Path, line: bytes, words: str
) -> None:
    with pytest.raises(UserError, match=f"pool.jsonl, {words}"):
        open_pool(manifest(tmp_path, b'{"image": "a.png", "id": "first"}\n' + line))


def test_utf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        open_pool(manifest(tmp_path, '{"image": "a.png"}'.encode("utf-16")))


def test_llava_texts_of_other_kinds_are_named(tmp_path: Path) -> None:
    assert open_pool(llava(tmp_path, "What?\n<image>")).read("x").question == "What?"
    for question, answer, image, words in (
        (None, "x", "a.png", r"entry 0: the question must be text that is not empty \(it is None"),
        ("What?", None, "a.png", r"entry 0: the answer must be text"),
        ("What?", float("nan"), "a.png", "entry 0: the answer must be text"),
        ("What?", "<image> x", "a.png", "entry 0: the answer holds '<image>'"),
        ("\ud83d", "x", "a.png", "entry 0: the question holds half of a character"),
        ("What?", "x", 7, "entry 0: image must be a file's name"),
        ("What?", "x", "caf\udce9.png", "entry 0: UTF-8 cannot store the image's name"),
    ):
        with pytest.raises(UserError, match=words):
            open_pool(llava(tmp_path, question, answer, image))


def test_coco_captions_of_other_kinds_are_named(tmp_path: Path) -> None:
    for caption, words in (
        (None, "a caption of the image 1 must be text that is not empty"),
        ("\udcff", "a caption of the image 1 holds half of a character"),
    ):
        with pytest.raises(UserError, match=words):
            open_pool(coco(tmp_path, caption))
    with pytest.raises(UserError, match="the image 1 has the file name None"):
        open_pool(coco(tmp_path, "A ball.", None))
    assert open_pool(coco(tmp_path, " ")).fields == {"image"}


def test_a_name_that_utf8_cannot_hold_is_passed_over_and_counted(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    try:
        (tmp_path / "00.png").rename(tmp_path / "caf\udce9.png")
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    save_pictures(tmp_path, 1)
    drawn = open_pool(str(tmp_path)).draw(2, 0, 1)
    assert drawn.ids == ("00.png",)
    assert drawn.skipped == ((r"caf\udce9.png", "UTF-8 cannot hold its name; rename it"),)


def test_linked_folders_are_searched_once_and_hidden_files_left_out(tmp_path: Path) -> None:
    pool, elsewhere = save_pictures(tmp_path / "pool", 1), save_pictures(tmp_path / "other", 1)
    save_pictures(pool / "inner", 1)
    save_pictures(pool / ".thumbnails", 1)
    (pool / "._00.png").write_bytes(b"")
    (pool / "linked").symlink_to(elsewhere)
    (pool / "again").symlink_to(pool / "inner")
    (pool / "circle").symlink_to(pool)
    assert open_pool(str(pool)).ids == ("00.png", "inner/00.png", "linked/00.png")


def test_formats_of_phones_and_browsers_are_read_or_counted(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.jfif", format="JPEG")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "c.AVIF").write_bytes(b"broken")
    os.mkfifo(tmp_path / "d.png")
    drawn = open_pool(str(tmp_path)).draw(4, 0, 1)
    assert drawn.ids == ("a.jfif",)
    assert {id for id, _ in drawn.skipped} == {"b.heic", "c.AVIF", "d.png"}
