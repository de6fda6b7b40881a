"""CHAIR on COCO val2014 (Rohrbach et al., arXiv 1809.02156, section 2.1): the true objects of the
images, and the reading of captions.

As in the authors' released code, an object is in an image if COCO's annotators outlined it or one
of the five reference captions names it. Every word is made singular by spelling (``singular.py``).
Listed double words count as one ("hot dog" is no dog, "baby bird" no person). In a caption with
both "toilet" and "seat" the seat is no chair. The synonyms come from the authors' ``synonyms.txt``
in the user's folder.

Two readings. ``chair_s_official`` and ``chair_i_official`` read as that code does. ``chair_s`` and
``chair_i`` mend three of its accidents, and nothing else: it loses a word of its own list that ends
in s ("bus", "minibus", "airbus"), it makes "ties" a "ty", and it never finds the two entries of the
list that stand behind a double blank ("motor bike", "cheesecake")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from benchmarks import files, grading
from benchmarks.chair import Official, chair_benchmark
from benchmarks.grading import Item, ItemBenchmark
from benchmarks.singular import singular
from benchmarks.spec import Spec

IMAGES = 500
PROMPT = "Please describe this image in detail."
LIST_FILE = "chair_images.txt"
INSTANCES, CAPTIONS = "annotations/instances_val2014.json", "annotations/captions_val2014.json"
DATA = files.LocalData(
    name="coco",
    files=(INSTANCES, CAPTIONS, "val2014", "synonyms.txt|data/synonyms.txt"),
    get=(
        "annotations_trainval2014.zip and val2014.zip: cocodataset.org; data/synonyms.txt:"
        " github.com/LisaAnne/Hallucination"
    ),
)

_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
_DOUBLE = (
    "motor bike,motor cycle,air plane,traffic light,street light,traffic signal,stop light,"
    "fire hydrant,stop sign,parking meter,suit case,sports ball,baseball bat,baseball glove,"
    "tennis racket,wine glass,hot dog,cell phone,mobile phone,teddy bear,hair drier,"
    "potted plant,laptop computer,home plate,train track"
).split(",")
DOUBLE_WORDS: dict[str, str] = (
    {word: word for word in _DOUBLE}
    | {f"{young} {animal}": animal for animal in _ANIMALS for young in ("baby", "adult")}
    | {
        "passenger jet": "jet",
        "passenger train": "train",
        "bow tie": "tie",
        "toilet seat": "toilet",
        "wine glas": "wine glass",
    }
)
"""Two singular words that the released code reads as one -> that word ("glass" becomes "glas")."""
EXTRA_SINGULARS: dict[str, str] = {"ties": "tie"}
"""Plurals of the list that the spelling rules miss -> singular."""
_TOKEN = re.compile(r"(?:(?!--|\.\.)[^\s,:;@#$%&?!()\[\]{}<>\"“”‘’«»„`…])+")
_CLITIC = re.compile(r"(?<=[^'])(?:'(?:s|m|d|ll|re|ve)?|n't)$")


@dataclass(frozen=True)
class CaptionReader:
    """Reads COCO's categories in captions. ``categories``: each word of the synonym list -> its
    category. ``official``: with the accidents of the released code."""

    categories: dict[str, str]
    official: bool = False

    def mentions(self, caption: str) -> list[str]:
        return [category for category, _, _ in self.mention_spans(caption)]

    def mention_spans(self, caption: str) -> list[tuple[str, int, int]]:
        """Every mention as (category, start, end), in order; characters of the caption in lower
        case."""
        words = list(self._words(caption.lower()))
        # In a caption with a toilet, "seat" is the toilet's and no chair.
        skipped = {"seat"} if any(word == "toilet" for word, _, _ in words) else set()
        return [
            (self.categories[word], start, end)
            for word, start, end in words
            if word in self.categories and word not in skipped
        ]

    def _words(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """The caption's words in the singular, double words as one."""
        words = [(self._singular(word), start, end) for word, start, end in tokens(caption)]
        index = 0
        while index < len(words):
            word, start, end = words[index]
            pair = f"{word} {words[index + 1][0]}" if index + 1 < len(words) else ""
            if pair in DOUBLE_WORDS:
                yield DOUBLE_WORDS[pair], start, words[index + 1][2]
                index += 2
            else:
                yield word, start, end
                index += 1

    def _singular(self, word: str) -> str:
        if self.official:
            return singular(word)
        if word.endswith("bus") and word in self.categories:
            return word
        return EXTRA_SINGULARS.get(word) or singular(word)


def tokens(caption: str) -> Iterator[tuple[str, int, int]]:
    """(word, start, end) of each word of a caption in lower case, split as in the Penn Treebank:
    "dog's" is "dog" and a clitic; hyphens, slashes and inner full stops split no word, and
    "o'clock" is one. What stands between two words, if not blank, is a word too, so that "hot, dog"
    is no hot dog."""
    end = 0
    for match in _TOKEN.finditer(caption):
        word = match.group()
        if word.endswith(".") and "." not in word[:-1]:
            word = word[:-1]
        word = _CLITIC.sub("", word)
        if mark := caption[end : match.start()].strip():
            yield mark, end, match.start()
        end = match.start() + len(word)
        if word:
            yield word, match.start(), end


def chair(
    name: str, max_new_tokens: int, split: str, limit: int | None, data: Path | None
) -> ItemBenchmark[frozenset[str]]:
    """CHAIR on 500 fixed images of val2014: the first 500 image ids in the order of
    ``grading.shuffled`` with the salt ``coco_chair``; dev takes the next 500. A file
    ``chair_images.txt`` with an image id a line replaces the test images.

    Raises:
        ValueError: a file or image is missing or broken, an id is not in val2014, or there is no
            such split.
    """
    folder = DATA.folder(name, data)
    synonyms = DATA.file(folder, "synonyms.txt")
    reader, as_released = read_synonyms(synonyms), read_synonyms(synonyms, official=True)
    val = _val2014(folder)
    items: list[Item[frozenset[str]]] = []
    official_truth: dict[str, frozenset[str]] = {}
    images: list[tuple[str, Path]] = []
    for location, id in _choose_images(folder, split, list(val.images)):
        if not (captions := val.captions.get(id)):
            raise files.broken(
                f"{folder / CAPTIONS} has no caption of the image {id}, and CHAIR's truth needs"
                " them"
            )
        outlined = val.outlined.get(id, frozenset())
        if unknown := sorted(outlined - (reader.categories.keys() & as_released.categories.keys())):
            raise files.broken(f"{synonyms} has no line with COCO's category {unknown[0]!r}")
        truth, official_truth[id] = (
            frozenset(
                {caption_reader.categories[category] for category in outlined}
                | {
                    category
                    for caption in captions
                    for category in caption_reader.mentions(caption)
                }
            )
            for caption_reader in (reader, as_released)
        )
        image = folder / "val2014" / val.images[id]
        images.append((location, image))
        items.append(
            Item(
                id=id,
                cluster=id,
                text=PROMPT,
                truth=truth,
                load_image=partial(files.open_image, image),
            )
        )
    files.check_images(name, images)
    kept_items, source = grading.items_and_source(items, limit, "coco-val2014", reader.categories)
    return chair_benchmark(
        name=name,
        source=source,
        items=kept_items,
        reader=reader,
        official=Official(reader=as_released, truth=official_truth),
        max_new_tokens=max_new_tokens,
        primary=name == "coco_chair",
    )


def read_synonyms(path: Path, official: bool = False) -> CaptionReader:
    """The authors' list: a category and its synonyms a line, separated by commas. As in the
    released code, the last line of a word counts. ``official``: a word is split off at a comma and
    one blank, so that a word behind two blanks keeps one and is never found."""
    categories: dict[str, str] = {}
    for location, line in files.read_lines(path):
        text = files.check_text(location, line, "the line")
        entries = text.strip().split(", ") if official else map(str.strip, text.split(","))
        words = [word for word in entries if word]
        if not words:
            raise ValueError(
                f"{location}: no word; the line is a category and its synonyms, separated by"
                " commas."
            )
        categories |= dict.fromkeys(words, words[0])
    if not categories:
        raise files.broken(f"{path} is empty")
    return CaptionReader(categories, official)


def _choose_images(folder: Path, split: str, ids: list[str]) -> list[tuple[str, str]]:
    """(place that names the image, image id) of each image of the split."""
    grading.check_split(split)
    order = grading.shuffled(ids, "coco_chair")
    location, list_file = str(folder / INSTANCES), folder / LIST_FILE
    if not list_file.exists():
        start = IMAGES if split == "dev" else 0
        return [(location, id) for id in order[start : start + IMAGES]]
    all_ids = set(ids)
    listed_locations: dict[str, str] = {}
    for line_location, line in files.read_lines(list_file):
        id = line.strip()
        if id not in all_ids:
            raise ValueError(
                f"{line_location}: {id!r} is not the id of an image of val2014; give one number a"
                " line."
            )
        if id in listed_locations:
            raise ValueError(
                f"{line_location}: the image {id} is a duplicate of {listed_locations[id]}."
            )
        listed_locations[id] = line_location
    if split == "test":
        return [(line_location, id) for id, line_location in listed_locations.items()]
    return [(location, id) for id in order if id not in listed_locations][:IMAGES]


@dataclass(frozen=True, kw_only=True)
class _Val2014:
    """By image id: file name, categories outlined in the image, reference captions."""

    images: dict[str, str]
    outlined: dict[str, frozenset[str]]
    captions: dict[str, tuple[str, ...]]


@lru_cache(maxsize=1)  # 200 MB of JSON; several benchmarks of a study read it
def _val2014(folder: Path) -> _Val2014:
    instances, captions = folder / INSTANCES, folder / CAPTIONS
    content = _read_lists(instances, "images", "annotations", "categories")
    outlined: dict[str, set[str]] = {}
    references: dict[str, list[str]] = {}
    try:
        images = {_image_id(image["id"]): str(image["file_name"]) for image in content["images"]}
        if len(images) < len(content["images"]):
            raise files.broken(f"{instances}: an image id occurs twice")
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        for outline in content["annotations"]:
            id = _listed_image_id(images, outline["image_id"], f"{instances}: an outline")
            categories = outlined.setdefault(id, set())
            categories.add(names[outline["category_id"]])
        for caption in _read_lists(captions, "annotations")["annotations"]:
            id = _listed_image_id(images, caption["image_id"], f"{captions}: a caption")
            if not isinstance(text := caption["caption"], str):
                raise files.broken(f"{captions}: a caption of the image {id} is {text!r}, no text")
            references.setdefault(id, []).append(text)
    except (KeyError, TypeError) as error:
        raise files.broken(f"{instances} or {captions}: an entry lacks {error}") from None
    return _Val2014(
        images=images,
        outlined={id: frozenset(categories) for id, categories in outlined.items()},
        captions={id: tuple(texts) for id, texts in references.items()},
    )


def _image_id(value: object) -> str:
    """An image id as text; COCO's are whole numbers."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number as image id (it is {value!r})")
    return str(value)


def _listed_image_id(images: Mapping[str, str], value: object, subject: str) -> str:
    """The image id of an outline or caption; what belongs to no image would lower the truth."""
    if (id := _image_id(value)) not in images:
        raise files.broken(
            f"{subject} is of the image {id}, which is not among the images of val2014"
        )
    return id


def _read_lists(path: Path, *names: str) -> dict[str, Any]:
    content = files.read_json(path)
    for name in names:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise files.broken(f"{path} has no list {name!r}")
    return dict(content)


_CHAIR = Spec(
    name="coco_chair",
    factory=partial(chair, "coco_chair", 512),
    group="hallucination",
    size=IMAGES,
    questions=IMAGES,
    captions=True,
    about="CHAIR on 500 fixed images of COCO val2014; captions of at most 512 tokens.",
    metrics=("chair_s", "chair_i", "recall"),
    licence=(
        "annotations CC BY 4.0; images under their Flickr licences; synonyms.txt under its"
        " repository's terms"
    ),
    twins=("lmms_eval:coco_cap_chair",),
    local=DATA,
)
SPECS = (
    _CHAIR,
    replace(
        _CHAIR,
        name="coco_chair_64",
        factory=partial(chair, "coco_chair_64", 64),
        about="CHAIR on the same images; captions of at most 64 tokens.",
        twins=(),
    ),
)
