"""Files that are missing, cut off or wrong are refused in one sentence with file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import coco
from benchmarks.catalogue import BENCHMARKS
from benchmarks.files import open_image
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
    "chair captions of another image": (
        "coco_chair",
        lambda at: rows(
            at / "annotations/captions_val2014.json",
            lambda content: content["annotations"][0].update(image_id="001"),  # type: ignore[call-overload]
        ),
        "captions_val2014.json: '001' is the id of no image of .*instances_val2014.json",
    ),
    "chair captions of image 1.0": (
        "coco_chair",
        lambda at: rows(
            at / "annotations/captions_val2014.json",
            lambda content: content["annotations"][0].update(image_id=1.0),  # type: ignore[call-overload]
        ),
        "captions_val2014.json: '1.0' is the id of no image of",
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


@pytest.mark.parametrize("name", ["pope", "repope", "amber_g", "amber_d", "mme", "mmbench_dev_en"])
def test_test_questions_are_not_for_tuning(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} has no 'dev' split"):
        BENCHMARKS[name].factory("dev", None, official_files.folder_for(name, tmp_path))
