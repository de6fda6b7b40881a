"""Small data sets for lmms-eval's tasks, with our own images and questions in the official schema,
so that the kit's unmodified code reads them. A folder is laid out as the data set's repository:
README.md with configurations and splits, and Parquet files. No official question is in here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from datasets import Dataset, Features, Image, List, Value

from benchmarks.synthetic.render import render
from benchmarks.synthetic.scene import scene

Rows = Sequence[Mapping[str, Any]]
TEXT, NUMBER, TEXTS = Value("string"), Value("int64"), List(Value("string"))


def image_of(index: int) -> PIL.Image.Image:
    return render(scene("dev", index))


def repository(folder: Path, parts: Mapping[tuple[str, str], tuple[Features, Rows]]) -> Path:
    """A data set's repository: by (configuration, split) its features and rows."""
    configs: dict[str, list[dict[str, str]]] = {}
    for (config, split), (features, rows) in parts.items():
        path = folder / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {name: [row.get(name) for row in rows] for name in features}
        Dataset.from_dict(columns, features=features).to_parquet(path)
        configs.setdefault(config, []).append(
            {"split": split, "path": path.relative_to(folder).as_posix()}
        )
    listed = [{"config_name": name, "data_files": files} for name, files in configs.items()]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(listed)}\n---\n")
    return folder


def pope(folder: Path) -> Path:
    features = Features(
        dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), TEXT)
        | {"image": Image(), "category": TEXT}
    )
    rows = [
        {
            "id": str(n),
            "question_id": str(n % 2),
            "question": f"Is there a thing{n} in the image?",
            "answer": ("yes", "no")[n % 2],
        }
        | {"image_source": f"picture_{n // 2}", "image": image_of(n // 2), "category": "popular"}
        for n in range(8)
    ]
    return repository(folder, {("default", "test"): (features, rows)})


def mme(folder: Path) -> Path:
    """Two questions an image; two categories of different size in one half, and one in the
    other."""
    features = Features(
        {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT, "category": TEXT}
    )
    categories = ("existence", "existence", "count", "code_reasoning")
    rows = [
        {
            "question_id": f"{category}/{n}.png",
            "image": image_of(n),
            "question": f"Is it {answer}? Please answer yes or no.",
        }
        | {"answer": answer, "category": category}
        for n, category in enumerate(categories)
        for answer in ("Yes", "No")
    ]
    return repository(folder, {("default", "test"): (features, rows)})


def mmbench(folder: Path) -> Path:
    """Three questions; the first two with a rotation of their options."""
    names = (
        "question",
        "hint",
        "answer",
        "A",
        "B",
        "C",
        "D",
        "category",
        "source",
        "L2-category",
        "comment",
        "split",
    )
    features = Features({"index": NUMBER, "image": Image(), **dict.fromkeys(names, TEXT)})
    common = {
        "hint": "nan",
        "D": "nan",
        "source": "made",
        "L2-category": "made",
        "comment": "nan",
        "split": "dev",
    }
    rows = []
    for index, answer, options in (
        (1, "A", "xyz"),
        (2, "B", "xyz"),
        (3, "C", "xyz"),
        (1000001, "B", "zxy"),
        (1000002, "C", "zxy"),
    ):
        letters = dict(zip("ABC", (f"word {letter}" for letter in options), strict=True))
        row = {
            "index": index,
            "question": f"Which is {index % 1000000}?",
            "answer": answer,
            "category": ("one", "two")[index % 2],
        }
        rows.append({**row, **common, **letters, "image": image_of(index % 1000000)})
    return repository(folder, {("en", "dev"): (features, rows)})


def scienceqa(folder: Path) -> Path:
    names = (
        "question",
        "hint",
        "task",
        "grade",
        "subject",
        "topic",
        "category",
        "skill",
        "lecture",
        "solution",
    )
    features = Features(
        {"image": Image(), "choices": TEXTS, "answer": Value("int8"), **dict.fromkeys(names, TEXT)}
    )
    rows = [
        {
            "image": image_of(n),
            "choices": ["red", "green", "blue"][: 2 + n % 2],
            "answer": n % 2,
            "question": f"Which colour {n}?",
        }
        | dict.fromkeys(names[1:], "")
        for n in range(4)
    ]
    return repository(folder, {("ScienceQA-IMG", "test"): (features, rows)})


def gqa(folder: Path) -> Path:
    names = ("id", "imageId", "question", "answer", "fullAnswer")
    rows = [
        {
            "id": f"20{n}",
            "imageId": f"n{n // 2}",
            "question": f"What colour is thing {n}?",
            "answer": ("red", "blue")[n % 2],
        }
        for n in range(4)
    ]
    images = [{"id": f"n{n}", "image": image_of(n)} for n in range(2)]
    return repository(
        folder,
        {
            ("testdev_balanced_instructions", "testdev"): (
                Features(dict.fromkeys(names, TEXT)),
                rows,
            ),
            ("testdev_balanced_images", "testdev"): (
                Features({"id": TEXT, "image": Image()}),
                images,
            ),
        },
    )


def textvqa(folder: Path) -> Path:
    features = Features(
        {
            "image_id": TEXT,
            "question_id": NUMBER,
            "question": TEXT,
            "image": Image(),
            "answers": TEXTS,
            "ocr_tokens": TEXTS,
        }
    )
    rows = [
        {
            "image_id": f"i{n}",
            "question_id": n,
            "question": f"what is the word {n}?",
            "image": image_of(n),
            "ocr_tokens": [],
        }
        | {"answers": ["stop"] * (3 + n) + ["halt"] * (7 - n)}
        for n in range(4)
    ]
    return repository(folder, {("default", "validation"): (features, rows)})


def vizwiz(folder: Path) -> Path:
    features = Features(
        {
            "question_id": TEXT,
            "image": Image(),
            "question": TEXT,
            "answers": TEXTS,
            "category": TEXT,
        }
    )
    rows = [
        {
            "question_id": f"VizWiz_val_{n}.jpg",
            "image": image_of(n),
            "question": f"what is this {n}?",
            "category": "other",
        }
        | {"answers": ["can"] * (8 - 3 * n) + ["unanswerable"] * (2 + 3 * n)}
        for n in range(3)
    ]
    return repository(folder, {("default", "val"): (features, rows)})


def seed(folder: Path) -> Path:
    """The third question has two images, as its questions about videos have several."""
    names = (
        "answer",
        "choice_a",
        "choice_b",
        "choice_c",
        "choice_d",
        "data_id",
        "data_type",
        "question",
        "question_id",
    )
    features = Features(
        {**dict.fromkeys(names, TEXT), "question_type_id": NUMBER, "image": List(Image())}
    )
    rows = [
        {
            **dict.fromkeys(names, f"made {n}"),
            "answer": "ABC"[n],
            "data_type": ("image", "image", "video")[n],
            "question_type_id": 1,
        }
        | {"image": [image_of(n), image_of(n + 5)][: 1 + n // 2]}
        for n in range(3)
    ]
    return repository(folder, {("default", "test"): (features, rows)})


def mmstar(folder: Path) -> Path:
    """Two fine categories of different size in one coarse one: the kit's average is of categories,
    not of questions."""
    features = Features(
        {
            "index": NUMBER,
            "image": Image(),
            **dict.fromkeys(("question", "answer", "category", "l2_category"), TEXT),
        }
    )
    rows = [
        {
            "index": n,
            "question": f"Which {n}?\nOptions: A: x, B: y, C: z, D: w",
            "image": image_of(n),
            "answer": "ABCA"[n],
        }
        | {"category": "math", "l2_category": ("geometry", "statistical reasoning")[n == 3]}
        for n in range(4)
    ]
    return repository(folder, {("default", "val"): (features, rows)})


def mmvet(folder: Path) -> Path:
    features = Features(
        {
            **dict.fromkeys(
                ("question_id", "question", "answer", "image_source", "capability"), TEXT
            ),
            "image": Image(),
        }
    )
    rows = [
        {
            "question_id": f"v1_{n}",
            "question": f"What is it {n}?",
            "answer": "x <AND> y",
            "capability": ("rec,know", "ocr")[n % 2],
        }
        | {"image": image_of(n), "image_source": "made"}
        for n in range(3)
    ]
    return repository(folder, {("default", "test"): (features, rows)})


def llava_wild(folder: Path) -> Path:
    names = ("question", "caption", "gpt_answer", "category", "image_id")
    features = Features({"question_id": NUMBER, "image": Image(), **dict.fromkeys(names, TEXT)})
    rows = [
        {
            "question_id": n,
            "image": image_of(n),
            "question": f"What is it {n}?",
            "caption": "A thing.",
            "gpt_answer": "A thing.",
        }
        | {"category": ("conv", "detail", "complex", "conv")[n], "image_id": f"00{n}.jpg"}
        for n in range(4)
    ]
    return repository(folder, {("default", "train"): (features, rows)})


def amber(folder: Path) -> Path:
    features = Features(
        {"question_id": NUMBER, "image": Image(), "task_type": TEXT, "truth": TEXTS, "hallu": TEXTS}
    )
    rows = [
        {
            "question_id": n + 1,
            "image": image_of(n),
            "task_type": "generative",
            "truth": ["tree", "house"],
            "hallu": ["car"],
        }
        for n in range(3)
    ]
    return repository(folder, {("default", "train"): (features, rows)})


def coco_chair(folder: Path) -> Path:
    features = Features({"question_id": NUMBER, "image": Image(), "gt_object": TEXTS})
    rows = [
        {
            "question_id": n,
            "image": image_of(n),
            "gt_object": [["dog", "car"], ["cat"], ["boat"]][n],
        }
        for n in range(3)
    ]
    return repository(folder, {("default", "test"): (features, rows)})
