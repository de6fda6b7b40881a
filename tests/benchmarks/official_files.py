"""Small folders in the official files' own layout and schema, for the benchmarks that read them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.catalogue import BENCHMARKS
from benchmarks.mme import SUBTASKS

SYNONYMS = """person, man, woman, child, rider
dog, puppy
cat, kitten
hot dog
chair, seat, stool
toilet, commode
tie, bow tie
wine glass
traffic light, street light
train
bird, pigeon
dining table, table, desk
knife
"""
CATEGORIES = (
    "person",
    "dog",
    "cat",
    "hot dog",
    "chair",
    "toilet",
    "wine glass",
    "train",
    "bird",
    "dining table",
)
ANIMALS = ("dog", "cat", "bird", "horse")


def save_image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade % 256, 30, 60)).save(path)


def name(id: int) -> str:
    return f"COCO_val2014_{id:012d}.jpg"


def coco(folder: Path, count: int = 12) -> Path:
    """Images 1 to n with up to three outlined categories and five reference captions each."""
    rng = Random("coco")
    annotations, captions = [], []
    for id in range(1, count + 1):
        save_image(folder / "val2014" / name(id), 9 * id)
        for category in rng.sample(range(len(CATEGORIES)), rng.randrange(4)):
            annotations += [
                {"image_id": id, "category_id": category + 1, "id": len(annotations), "iscrowd": 0}
            ] * 2
        captions += [
            {"image_id": id, "id": 10 * id + k, "caption": sentence(rng)} for k in range(5)
        ]
    kinds = [
        {"id": place + 1, "name": category, "supercategory": "x"}
        for place, category in enumerate(CATEGORIES)
    ]
    images = [
        {"id": id, "file_name": name(id), "height": 6, "width": 8} for id in range(1, count + 1)
    ]
    write_json(
        folder / "annotations" / "instances_val2014.json",
        {"images": images, "annotations": annotations, "categories": kinds},
    )
    write_json(
        folder / "annotations" / "captions_val2014.json",
        {"images": images, "annotations": captions},
    )
    (folder / "synonyms.txt").write_text(SYNONYMS)
    return folder


WORDS = (
    "a the man men woman children dogs puppy hot dog cat kittens chair seat toilet stool bow tie"
    " wine glasses glass knives street lights passenger trains baby bird adult , . and tables desk"
    " teddy bear nothing people's light-blue"
).split()


def sentence(rng: Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 14))).capitalize()


def pope(folder: Path, count: int = 4) -> Path:
    """Six questions an image and setting, as ``coco_pope_<setting>.json``: a JSON object a
    line."""
    for setting in ("random", "popular", "adversarial"):
        rng, rows = Random(setting), []
        for id in range(1, count + 1):
            save_image(folder / "val2014" / name(id), 9 * id)
            for place in range(6):
                text = f"Is there a {setting}{place} in the image?"
                label = "yes" if place % 2 else "no"
                rows.append(
                    {"question_id": len(rows) + 1, "image": name(id), "text": text, "label": label}
                )
        rng.shuffle(rows)
        write_rows(folder / f"coco_pope_{setting}.json", rows)
    return folder


def repope(folder: Path) -> Path:
    """POPE with every fifth question left out and every seventh label turned."""
    for setting in ("random", "popular", "adversarial"):
        rows = [
            json.loads(line)
            for line in (folder / f"coco_pope_{setting}.json").read_text().splitlines()
        ]
        turned = {"yes": "no", "no": "yes"}
        kept = [
            {
                **row,
                "question_id": place,
                "label": turned[row["label"]] if place % 7 == 3 else row["label"],
            }
            for place, row in enumerate(rows)
            if place % 5
        ]
        write_rows(folder / f"coco_repope_{setting}.json", kept)
    return folder


RELATION: Mapping[str, list[str]] = {
    "dog": ["puppy", "hound"],
    "man": ["person", "guy"],
    "grass": ["lawn"],
    "sky": [],
    "tree": ["oak"],
    "bench": ["seat", "puppy"],
    "cloud": [],
    "ball": ["toy"],
    "cat": ["kitten"],
}
KINDS = ("hallucination", "attribute-state", "attribute-number", "attribute-action", "relation")


def amber(folder: Path, count: int = 10) -> Path:
    """Images with three objects and two expected ghosts each; a question of each kind about
    each."""
    rng = Random("amber")
    queries: dict[str, list[dict[str, object]]] = {"generative": [], "discriminative": []}
    annotations: list[dict[str, object]] = []
    for id in range(1, count + 1):
        save_image(folder / "image" / f"AMBER_{id}.jpg", 7 * id)
        objects = rng.sample(sorted(RELATION), 5)
        annotations.append(
            {"id": id, "type": "generative", "truth": objects[:3], "hallu": objects[3:][: id % 3]}
        )
        queries["generative"].append(
            {"id": id, "image": f"AMBER_{id}.jpg", "query": "Describe this image."}
        )
    for place in range(count * len(KINDS)):
        id, kind = count + 1 + place, KINDS[place % len(KINDS)]
        annotations.append(
            {"id": id, "type": f"discriminative-{kind}", "truth": rng.choice(["yes", "no", "no"])}
        )
        image = f"AMBER_{1 + place // len(KINDS)}.jpg"
        queries["discriminative"].append({"id": id, "image": image, "query": f"Is it so {kind}?"})
    for which, rows in queries.items():
        write_json(folder / "data" / "query" / f"query_{which}.json", rows)
    write_json(folder / "data" / "annotations.json", annotations)
    write_json(folder / "data" / "relation.json", RELATION)
    (folder / "data" / "safe_words.txt").write_text("cloud\nview\n")
    return folder


def mme(folder: Path, count: int = 3) -> Path:
    """Every subtask: the ones with two folders as the release has them, the others side by side."""
    for tasks in SUBTASKS.values():
        for place, task in enumerate(tasks):
            apart = task in ("artwork", "celebrity", "landmark", "posters", "scene")
            texts, images = (
                (folder / task / part for part in ("questions_answers_YN", "images") if apart)
                if apart
                else (folder / task, folder / task)
            )
            for id in range(count + place % 2):
                save_image(
                    images / f"{id:06d}.{'png' if task == 'OCR' else 'jpg'}", 11 * id + place
                )
                texts.mkdir(parents=True, exist_ok=True)
                lines = (
                    f"Is it {id}? Please answer yes or no.\tYes\nIs it {id + 1}? Please answer yes"
                    " or no.\tNo\n"
                )
                (texts / f"{id:06d}.txt").write_text(lines)
    return folder


COLUMNS = (
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
)


def mmbench(folder: Path, questions: int = 6, rotations: bool = True) -> Path:
    """Questions with two to four options; with ``rotations``, their other orders behind them, as
    the released file has them."""
    rows: list[dict[str, object]] = []
    for id in range(questions):
        texts = [f"a thing {id}", 'a "quoted" one', "None", "two words"][: 2 + id % 3]
        content = io.BytesIO()
        Image.new("RGB", (8, 6), (40 * (id // 2) % 256, 9, 9)).save(content, format="JPEG")
        for by in range(len(texts) if rotations else 1):
            options = texts[by:] + texts[:by]
            row = {
                "index": by * 1_000_000 + id,
                "question": f"What\tis {id}?",
                "hint": "Look.\nWell." if id % 2 else "",
            }
            row |= dict(zip("ABCD", [*options, "", "", ""], strict=False)) | {
                "answer": "ABCD"[(1 - by) % len(texts)]
            }
            row |= {
                "category": "c",
                "l2-category": f"logic reasoning{id % 2}",
                "source": "s",
                "comment": "",
                "split": "dev",
            }
            rows.append(
                row | {"image": id if by else base64.b64encode(content.getvalue()).decode()}
            )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "MMBench_DEV_EN.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: int(str(row["index"]))))
    return folder


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def folder_for(name: str, at: Path) -> Path:
    """The files of a benchmark of the catalogue."""
    if name in ("pope", "repope"):
        return repope(pope(at))
    makers: dict[str, Callable[[Path], Path]] = {
        "coco": coco,
        "amber": amber,
        "mme": mme,
        "mmbench": mmbench,
    }
    local = BENCHMARKS[name].local
    assert local is not None
    return makers[local.name](at)
