"""CHAIR on COCO val2014 (Rohrbach et al., arXiv 1809.02156, section 2.1): the images' true
objects and the reading of captions.

As the authors' released code has it: an object is there if COCO's annotators outlined it or one of
the five reference captions names it; words are made singular; listed double words count as one
("hot dog" is no dog, "baby bird" no person); in a caption with both "toilet" and "seat" the seat is
no chair. The synonyms are those of the authors' ``synonyms.txt`` in the user's folder.

Differences are in PAPERS.md: captions are cut into words by a plain rule, and a plural is made
singular only if that gives a word of the list (the released code singularises every word, and
repairs what that breaks: "wine glas")."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks import files, grading
from benchmarks.chair import chair_benchmark
from benchmarks.grading import Graded, Item
from benchmarks.objects import known_form

PICTURES = 500
PROMPT = "Please describe this image in detail."
LIST = "chair_images.txt"
INSTANCES, CAPTIONS = "annotations/instances_val2014.json", "annotations/captions_val2014.json"
DATA = files.LocalData(
    name="coco",
    files=(INSTANCES, CAPTIONS, "val2014", "synonyms.txt"),
    get=(
        "annotations_trainval2014.zip and val2014.zip: cocodataset.org; data/synonyms.txt:"
        " github.com/LisaAnne/Hallucination"
    ),
)

_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
_DOUBLE = (
    "motor bike,motor cycle,air plane,traffic light,street light,traffic signal,stop light,fire"
    " hydrant,stop sign,parking meter,suit case,sports ball,baseball bat,baseball glove,tennis"
    " racket,wine glass,hot dog,cell phone,mobile phone,teddy bear,hair drier,potted plant,laptop"
    " computer,home plate,train track"
).split(",")
DOUBLE_WORDS: dict[str, str] = (
    {word: word for word in _DOUBLE}
    | {f"{young} {animal}": animal for animal in _ANIMALS for young in ("baby", "adult")}
    | {
        "passenger jet": "jet",
        "passenger train": "train",
        "bow tie": "tie",
        "toilet seat": "toilet",
    }
)
"""Two words that the released code reads as one, and as which."""
_TOKEN = re.compile(r"\w+(?:-\w+)*|[^\w\s]")


@dataclass(frozen=True)
class CaptionReader:
    """Reads COCO's categories out of captions. ``categories``: every word of the synonym list to
    its category."""

    categories: dict[str, str]

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.categories) | {part for pair in DOUBLE_WORDS for part in pair.split()}

    def mentions(self, caption: str) -> list[str]:
        return [category for category, _, _ in self.places(caption)]

    def places(self, caption: str) -> list[tuple[str, int, int]]:
        """Every mention as (category, from, to) in characters of the caption in lower case, in
        order."""
        words = list(self._words(caption.lower()))
        if any(word == "toilet" for word, _, _ in words):
            words = [one for one in words if one[0] != "seat"]
        return [
            (self.categories[word], start, end)
            for word, start, end in words
            if word in self.categories
        ]

    def _words(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """The caption's words in the singular, double words as one."""
        found = [
            (known_form(one.group(), self._known), one.start(), one.end())
            for one in _TOKEN.finditer(caption)
        ]
        place = 0
        while place < len(found):
            word, start, end = found[place]
            pair = f"{word} {found[place + 1][0]}" if place + 1 < len(found) else ""
            if pair in DOUBLE_WORDS:
                yield DOUBLE_WORDS[pair], start, found[place + 1][2]
                place += 2
            else:
                yield word, start, end
                place += 1


def chair(
    name: str, max_new_tokens: int, split: str, limit: int | None, data: Path | None
) -> Graded[frozenset[str]]:
    """500 images of val2014, the same for everybody: those whose id comes first in the order of
    ``grading.shuffled`` with the salt ``coco_chair``; dev takes the 500 behind them. A file
    ``chair_images.txt`` with an image id a line takes the place of the test images.

    Raises:
        ValueError: a file or image is missing or broken, an id is not one of val2014's, or there
            is no such split.
    """
    folder = DATA.folder(name, data)
    reader = read_synonyms(folder / "synonyms.txt")
    val = _val2014(folder)
    items = []
    for place, id in _chosen(folder, split, list(val.pictures)):
        truth = {
            category
            for caption in val.captions.get(id, ())
            for category in reader.mentions(caption)
        }
        for category in val.outlined.get(id, frozenset()):
            if category not in reader.categories:
                raise ValueError(
                    f"{folder / 'synonyms.txt'} has no line with COCO's category {category!r};"
                    f" {files.AGAIN}."
                )
            truth.add(reader.categories[category])
        picture = folder / "val2014" / val.pictures[id]
        opened = partial(files.open_picture, picture)
        items.append(
            (
                place,
                picture,
                Item(id=id, cluster=id, text=PROMPT, truth=frozenset(truth), picture=opened),
            )
        )
    files.pictures_are_there(name, [(place, picture) for place, picture, _ in items])
    some = grading.few_pictures([item for _, _, item in items], limit)
    source, named = grading.fixed(some, "coco-val2014", reader.categories)
    return chair_benchmark(
        name=name,
        source=named,
        items=source,
        table=reader,
        max_new_tokens=max_new_tokens,
        primary=name == "coco_chair",
    )


def read_synonyms(path: Path) -> CaptionReader:
    """The authors' list: a category a line, its words behind it, separated by commas. Where a word
    stands in two lines the last counts, as in the released code."""
    categories: dict[str, str] = {}
    for place, line in files.read_lines(path):
        words = [
            word.strip() for word in files.clean(place, line, "the line").split(",") if word.strip()
        ]
        if not words:
            raise ValueError(
                f"{place}: no word; the line is a category and its synonyms, separated by commas."
            )
        categories |= dict.fromkeys(words, words[0])
    if not categories:
        raise ValueError(f"{path} is empty; {files.AGAIN}.")
    return CaptionReader(categories)


def _chosen(folder: Path, split: str, ids: list[str]) -> list[tuple[str, str]]:
    """(where the image is asked for, image id)."""
    if split not in ("dev", "test"):
        raise ValueError(f"A benchmark's split is {split!r}; it must be dev (tuning) or test.")
    order = grading.shuffled(ids, "coco_chair")
    given = folder / LIST
    if not given.exists():
        start = PICTURES if split == "dev" else 0
        return [(str(folder / INSTANCES), id) for id in order[start : start + PICTURES]]
    listed: dict[str, str] = {}
    for place, line in files.read_lines(given):
        if line.strip() not in set(ids):
            raise ValueError(
                f"{place}: {line.strip()!r} is not the id of an image of val2014; give one number"
                " a line."
            )
        if line.strip() in listed:
            raise ValueError(
                f"{place}: the image {line.strip()} is there already ({listed[line.strip()]})."
            )
        listed[line.strip()] = place
    if split == "test":
        return [(place, id) for id, place in listed.items()]
    return [(str(folder / INSTANCES), id) for id in order if id not in listed][:PICTURES]


@dataclass(frozen=True, kw_only=True)
class _Val2014:
    """By image id: the image's file name, the categories outlined in it, its reference
    captions."""

    pictures: dict[str, str]
    outlined: dict[str, frozenset[str]]
    captions: dict[str, tuple[str, ...]]


@lru_cache(maxsize=1)  # 200 MB of JSON; several benchmarks of a study read it
def _val2014(folder: Path) -> _Val2014:
    instances, captions = folder / INSTANCES, folder / CAPTIONS
    whole = _fields(instances, "images", "annotations", "categories")
    try:
        pictures = {str(image["id"]): str(image["file_name"]) for image in whole["images"]}
        names = {category["id"]: str(category["name"]) for category in whole["categories"]}
        outlined: dict[str, set[str]] = {}
        for one in whole["annotations"]:
            outlined.setdefault(str(one["image_id"]), set()).add(names[one["category_id"]])
        told: dict[str, list[str]] = {}
        for one in _fields(captions, "annotations")["annotations"]:
            told.setdefault(str(one["image_id"]), []).append(str(one["caption"]))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{instances} or {captions}: an entry lacks {error}; {files.AGAIN}."
        ) from None
    if len(pictures) < len(whole["images"]):
        raise ValueError(f"{instances}: an image id is there twice; {files.AGAIN}.")
    return _Val2014(
        pictures=pictures,
        outlined={id: frozenset(some) for id, some in outlined.items()},
        captions={id: tuple(some) for id, some in told.items()},
    )


def _fields(path: Path, *names: str) -> dict[str, Any]:
    whole = files.read_json(path)
    for name in names:
        if not isinstance(whole, dict) or not isinstance(whole.get(name), list):
            raise ValueError(f"{path} has no list {name!r}; {files.AGAIN}.")
    return dict(whole)
