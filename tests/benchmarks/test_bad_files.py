"""Files that are missing, cut off or wrong are refused in one sentence with file and line."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import coco
from benchmarks.catalogue import BENCHMARKS
from benchmarks.files import decode_image, open_image, read_as_stored
from tests.benchmarks import official_files


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def edit(path: Path, number: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines))


def rows(path: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def twice(path: Path, number: int) -> None:
    edit(path, number, lambda line: f"{line}\n{line}")


def annotations_of(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        change(row)
    path.write_text(json.dumps(content))


def captions_of(at: Path, id_of: Callable[[int], object], *text: object) -> None:
    """Change the image id of every caption, and its text if one is given."""

    def change(row: dict[str, object]) -> None:
        assert isinstance(row["image_id"], int)
        row.update(image_id=id_of(row["image_id"]), **({"caption": text[0]} if text else {}))

    annotations_of(at / "annotations/captions_val2014.json", change)


QUERY, NOTES = "data/query/query_discriminative.json", "data/annotations.json"
Spoil = Callable[[Path], object]

CASES: dict[str, tuple[str, Spoil, str]] = {
    "pope cut": (
        "pope",
        lambda at: cut(at / "coco_pope_popular.json", 400),
        r"coco_pope_popular.json, line 4: not JSON, or cut off",
    ),
    "pope twice": (
        "pope",
        lambda at: twice(at / "coco_pope_random.json", 3),
        r"coco_pope_random.json, line 4: question_id \d+ is a duplicate of",
    ),
    "pope label": (
        "pope",
        lambda at: edit(
            at / "coco_pope_random.json", 2, lambda line: line.replace('"label": "', '"label": "x')
        ),
        r"coco_pope_random.json, line 2: label is 'x.*must be yes or no",
    ),
    "pope control": (
        "pope",
        lambda at: edit(
            at / "coco_pope_random.json",
            2,
            lambda line: line.replace("Is there", "Is \\u001b there"),
        ),
        r"coco_pope_random.json, line 2: text holds the control character '\\x1b'",
    ),
    "pope surrogate": (
        "pope",
        lambda at: edit(
            at / "coco_pope_random.json",
            2,
            lambda line: line.replace("Is there", "Is \\ud83d there"),
        ),
        r"coco_pope_random.json, line 2: text holds '\\ud83d', half of a character",
    ),
    "pope deep": (
        "pope",
        lambda at: edit(at / "coco_pope_random.json", 2, lambda _: '{"a":' + "[" * 100_000),
        r"coco_pope_random.json, line 2: not JSON",
    ),
    "pope long number": (
        "pope",
        lambda at: edit(at / "coco_pope_random.json", 2, lambda _: '{"a": ' + "1" * 5000 + "}"),
        r"coco_pope_random.json, line 2: not JSON",
    ),
    "pope folder": (
        "pope",
        lambda at: [
            (at / "coco_pope_random.json").unlink(),
            (at / "coco_pope_random.json").mkdir(),
        ],
        r"coco_pope_random.json cannot be read \(Is a directory\)",
    ),
    "pope empty": (
        "pope",
        lambda at: cut(at / "coco_pope_random.json", 0),
        "coco_pope_random.json is empty",
    ),
    "pope list": (
        "pope",
        lambda at: edit(at / "coco_pope_random.json", 6, lambda _: "7"),
        "line 6: not a JSON object",
    ),
    "pope bytes": (
        "pope",
        lambda at: (at / "coco_pope_random.json").write_bytes(b'{"a": 1}\n{"b": "\xff"}\n'),
        "coco_pope_random.json, line 2: not UTF-8",
    ),
    "pope image": (
        "pope",
        lambda at: [(at / "val2014" / official_files.name(id)).unlink() for id in (2, 3)],
        (
            r"2 of 4 images are missing, such as .*COCO_val2014_00000000000[23].jpg"
            r" \(.*coco_pope_random.json, line \d+\)"
        ),
    ),
    "pope file": (
        "pope",
        lambda at: (at / "coco_pope_random.json").unlink(),
        "pope needs coco_pope_random.json in .*--local-data coco=",
    ),
    "repope of others": (
        "repope",
        lambda at: [
            path.write_text(path.read_text().replace("Is there", "Was there"))
            for path in at.glob("coco_repope_*")
        ],
        "None of RePOPE's questions",
    ),
    "chair cut": (
        "coco_chair",
        lambda at: cut(at / "annotations/instances_val2014.json", 300),
        "instances_val2014.json, line 1: not JSON, or cut off",
    ),
    "chair no list": (
        "coco_chair",
        lambda at: (at / "annotations/captions_val2014.json").write_text("[]"),
        "captions_val2014.json has no list 'annotations'",
    ),
    "chair image twice": (
        "coco_chair",
        lambda at: official_files.write_json(
            at / "annotations/instances_val2014.json",
            {"images": [{"id": 1, "file_name": "a"}] * 2, "annotations": [], "categories": []},
        ),
        "instances_val2014.json: an image id occurs twice",
    ),
    "chair other images": (
        "coco_chair",
        lambda at: captions_of(at, lambda id: id + 1000),
        r"captions_val2014.json: a caption is of the image 10\d\d, which is not among the images",
    ),
    "chair float id": (
        "coco_chair",
        lambda at: captions_of(at, float),
        r"captions_val2014.json: an entry lacks a whole number as image id \(it is 1.0\)",
    ),
    "chair padded id": (
        "coco_chair",
        lambda at: captions_of(at, lambda id: f"{id:012d}"),
        r"lacks a whole number as image id \(it is '000000000001'\)",
    ),
    "chair null": (
        "coco_chair",
        lambda at: captions_of(at, lambda id: id, None),
        r"captions_val2014.json: a caption of the image 1 is None, no text",
    ),
    "chair image without caption": (
        "coco_chair",
        lambda at: captions_of(at, lambda id: max(id, 2)),
        r"captions_val2014.json has no caption of the image 1, and CHAIR's truth needs them",
    ),
    "chair outline of others": (
        "coco_chair",
        lambda at: annotations_of(
            at / "annotations/instances_val2014.json", lambda row: row.update(image_id=999)
        ),
        r"instances_val2014.json: an outline is of the image 999, which is not among the images",
    ),
    "chair synonyms": (
        "coco_chair",
        lambda at: (at / "synonyms.txt").write_text("person, man\n"),
        r"synonyms.txt has no line with COCO's category",
    ),
    "chair list": (
        "coco_chair",
        lambda at: (at / "chair_images.txt").write_text("1\n99\n"),
        r"chair_images.txt, line 2: '99' is not",
    ),
    "chair list twice": (
        "coco_chair",
        lambda at: (at / "chair_images.txt").write_text("1\n2\n1\n"),
        "line 3: the image 1 is a duplicate of",
    ),
    "amber twice": (
        "amber_d",
        lambda at: rows(at / QUERY, lambda all: all.insert(2, all[0])),
        r"query_discriminative.json, entry 3: the id 11 is a duplicate of .*entry 1",
    ),
    "amber unknown": (
        "amber_d",
        lambda at: rows(at / QUERY, lambda all: all[1].update(id=999)),
        r"query_discriminative.json, entry 2: the id 999 has no annotation",
    ),
    "amber type": (
        "amber_d",
        lambda at: rows(at / NOTES, lambda all: all[10].update(type="odd")),
        "entry 1: type is 'odd'; it must be discriminative-hallucination or",
    ),
    "amber object": (
        "amber_g",
        lambda at: rows(at / NOTES, lambda all: all[0].update(truth=["unicorn"])),
        "query_generative.json, entry 1: 'unicorn' of its 'truth' is not in data/relation.json",
    ),
    "amber relation": (
        "amber_g",
        lambda at: (at / "data/relation.json").write_text('{"a": 1}'),
        "relation.json must be a JSON object",
    ),
    "mme line": (
        "mme",
        lambda at: edit(at / "count/000001.txt", 2, lambda line: line.replace("\t", " ")),
        "count/000001.txt, line 2: must be a question, a tab, and Yes or No",
    ),
    "mme answer": (
        "mme",
        lambda at: edit(at / "count/000001.txt", 1, lambda line: line + "?"),
        r"count/000001.txt, line 1: the answer is 'Yes\?'; it must be yes or no",
    ),
    "mme one": (
        "mme",
        lambda at: twice(at / "count/000000.txt", 1),
        "count/000000.txt holds 3 questions",
    ),
    "mme image": (
        "mme",
        lambda at: (at / "artwork/images/000000.jpg").unlink(),
        "image of .*artwork.*000000.txt is missing",
    ),
    "mme part": ("mme", lambda at: (at / "OCR").rename(at / "ocr"), "mme needs OCR in"),
    "mmbench cut": (
        "mmbench_dev_en",
        lambda at: cut(at / "MMBench_DEV_EN.tsv", 1500),
        r"MMBench_DEV_EN.tsv, line \d+: \d+ fields, not 14",
    ),
    "mmbench twice": (
        "mmbench_dev_en",
        lambda at: twice(at / "MMBench_DEV_EN.tsv", 2),
        "line 3: the index 0 is a duplicate",
    ),
    "mmbench answer": (
        "mmbench_dev_en",
        lambda at: edit(
            at / "MMBench_DEV_EN.tsv", 2, lambda line: line.replace("\tB\tc\t", "\tD\tc\t")
        ),
        "MMBench_DEV_EN.tsv, line 2: the answer is 'D' of 2 options",
    ),
    "mmbench image": (
        "mmbench_dev_en",
        lambda at: edit(
            at / "MMBench_DEV_EN.tsv", -1, lambda line: line.replace("\t5\ts\t", "\t77\ts\t")
        ),
        r"MMBench_DEV_EN.tsv, line \d+: the image is '77'",
    ),
    "mmbench header": (
        "mmbench_dev_en",
        lambda at: edit(at / "MMBench_DEV_EN.tsv", 1, lambda _: "index\tquestion"),
        "no column 'A'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    name, spoil, said = CASES[case]
    folder = official_files.folder_for(name, tmp_path)
    BENCHMARKS[name].factory("test", None, folder)  # it is the spoiling that is refused
    spoil(folder)
    coco._val2014.cache_clear()
    with pytest.raises(ValueError, match=said) as refused:
        BENCHMARKS[name].factory("test", None, folder)
    assert "\n" not in str(refused.value)


def test_a_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a.jpg cannot be read"):
        open_image(tmp_path / "a.jpg")
    folder = official_files.mmbench(tmp_path, 1)
    edit(folder / "MMBench_DEV_EN.tsv", 2, lambda line: line.replace("/9j/", "____"))
    with pytest.raises(ValueError, match=r"MMBench_DEV_EN.tsv, line 2: the image cannot be read"):
        list(BENCHMARKS["mmbench_dev_en"].factory("test", None, folder).questions())


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((10_000, 9_000), "is larger than 89,478,485 pixels"),
        ((300, 1), "has 300 x 1 pixels: one side is more than 200 times the other"),
        ((1, 2000), "has 1 x 2000 pixels"),
    ],
)
def test_an_image_out_of_bounds_is_named(size: tuple[int, int], words: str, tmp_path: Path) -> None:
    Image.new("1", size).save(tmp_path / "a.png")
    with warnings.catch_warnings():  # PIL's own warning is an error where pools are read
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=f"a.png {words}"):
            open_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"a.png {words}"):
        decode_image("a.png", tmp_path / "a.png")


def test_images_are_read_as_the_authors_read_them_and_it_is_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 12), "blue").save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (4, 4)).save(tmp_path / "clear.png")
    Image.new("I;16", (4, 4), 70).save(tmp_path / "deep.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    names = ("turned", "clear", "deep", "plain")
    images = {name: open_image(tmp_path / f"{name}.png") for name in names}
    assert {name: read_as_stored(image) for name, image in images.items()} == {
        "turned": ("orientation",),
        "clear": ("transparency",),
        "deep": ("depth",),
        "plain": (),
    }
    assert images["turned"].size == (16, 12)
    assert images["clear"].getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("name", ["pope", "repope", "amber_g", "amber_d", "mme", "mmbench_dev_en"])
def test_test_questions_are_not_for_tuning(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} has no 'dev' split"):
        BENCHMARKS[name].factory("dev", None, official_files.folder_for(name, tmp_path))
