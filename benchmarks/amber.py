"""AMBER (Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination
Evaluation", arXiv 2311.07397).

Generative: a description of each image. Its nouns that AMBER knows (the words of
``relation.json``) are compared with what the annotators saw (``truth``) and what they expect to be
invented (``hallu``), each with its words in ``relation.json``:

- ``chair`` hallucinated nouns / nouns, ``hal`` descriptions with a hallucinated noun / descriptions
(section 3.3),
- ``cover`` objects of ``truth`` that are told / objects, ``cog`` objects of ``hallu`` that are told
/ objects: lower is better.

Discriminative: yes/no questions on existence, attributes and relations. As in the released code
**"no" is the positive class**, and the metrics ``..._official`` count only the bare words Yes and
No.

**Similar words.** The released code also takes a noun for an object of which a word has a spaCy
vector with a cosine above 0.8 to its own. Both are words of ``relation.json``, so these
similarities are a finite table: a file ``similar.json`` ({word: [similar words]}, see
benchmarks/README.md) in the folder is used so; without it the words of ``relation.json`` alone
count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import files, grading, yes_no
from benchmarks.grading import Graded, Item, percent
from benchmarks.interface import Grade
from benchmarks.objects import known_form
from benchmarks.pope import REQUEST
from benchmarks.yes_no import YesNo

AMBER_VERSION = "1"
TYPES = ("existence", "state", "number", "action", "relation")
_KIND = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_ANNOTATIONS, _RELATION, _SAFE = (
    "data/annotations.json",
    "data/relation.json",
    "data/safe_words.txt",
)
_GET = "github.com/junyangwang0410/AMBER, and its images, linked there, as image/"


def _needs(*more: str) -> files.LocalData:
    return files.LocalData(name="amber", files=(_ANNOTATIONS, *more, "image"), get=_GET)


GENERATIVE_DATA = _needs("data/query/query_generative.json", _RELATION, _SAFE)
DISCRIMINATIVE_DATA = _needs("data/query/query_discriminative.json")


@dataclass(frozen=True, kw_only=True)
class Told:
    """The truth of an image: what is there, and what is likely to be invented."""

    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The truth of a yes/no question."""

    kind: str
    answer: YesNo


@dataclass(frozen=True, kw_only=True)
class Words:
    """What nouns are compared with: the words of each object, words that are always safe, and
    similar words."""

    relation: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]
    similar: Mapping[str, frozenset[str]]

    @property
    def known(self) -> frozenset[str]:
        return frozenset(self.relation) | {
            word for words in self.relation.values() for word in words
        }

    def nouns(self, caption: str, known: frozenset[str]) -> list[str]:
        """The known words of a caption in the singular, each as often as it stands there."""
        return [
            word
            for one in re.findall(r"\w+(?:-\w+)*", caption.lower())
            if (word := known_form(one, known)) in known
        ]

    def of(self, objects: Sequence[str]) -> dict[str, int]:
        """Every word that names one of the objects, to the first object it names; in the released
        code's order."""
        found: dict[str, int] = {}
        for place, name in enumerate(objects):
            for word in self.relation[name]:
                found.setdefault(word, place)
        for place, name in enumerate(objects):
            found.setdefault(name, place)
        return found

    def nearest(self, noun: str, words: Mapping[str, int]) -> int | None:
        """The object of the first word that is the noun or similar to it."""
        near = self.similar.get(noun, frozenset())
        return next((place for word, place in words.items() if word == noun or word in near), None)


def generative(split: str, limit: int | None, data: Path | None) -> Graded[Told]:
    """
    Raises:
        ValueError: a file or image is missing or broken, or another split than test is asked for.
    """
    folder = GENERATIVE_DATA.folder("amber_g", data)
    words = _words(folder)
    items = []
    for place, id, picture, text, about in _questions(
        "amber_g", split, folder, folder / "data/query/query_generative.json"
    ):
        seen, invented = _names(place, about, "truth", words), _names(place, about, "hallu", words)
        truth = Told(truth=seen, hallu=invented)
        items.append(
            Item(
                id=id,
                cluster=picture.name,
                text=text,
                truth=truth,
                picture=partial(files.open_picture, picture),
            )
        )
    extra = [words.relation, words.safe, words.similar]
    some, source = grading.fixed(
        grading.few_pictures(items, limit), "amber-similar" if words.similar else "amber", *extra
    )
    return Graded(
        name="amber_g",
        group="hallucination",
        source=source,
        grader=f"amber-generative-{AMBER_VERSION}",
        items=some,
        metrics=(
            percent("chair", "hallucinated", "nouns", "lower", primary=True),
            percent("cover", "covered", "truth", primary=True),
            percent("hal", "unfaithful", "captions", "lower", primary=True),
            percent("cog", "expected", "hallu", "lower", primary=True),
        ),
        judge=partial(_judge_caption, words, words.known),
        max_new_tokens=512,
    )


def discriminative(split: str, limit: int | None, data: Path | None) -> Graded[Asked]:
    """
    Raises:
        ValueError: a file or image is missing or broken, or another split than test is asked for.
    """
    folder = DISCRIMINATIVE_DATA.folder("amber_d", data)
    items = []
    for place, id, picture, text, about in _questions(
        "amber_d", split, folder, folder / "data/query/query_discriminative.json"
    ):
        kind = _KIND[files.one_of(place, about.get("type"), _KIND, "type")]
        answer: YesNo = (
            "yes"
            if files.one_of(place, about.get("truth"), ("yes", "no"), "truth") == "yes"
            else "no"
        )
        truth = Asked(kind=kind, answer=answer)
        opened = partial(files.open_picture, picture)
        items.append(
            Item(
                id=id, cluster=picture.name, text=f"{text}\n{REQUEST}", truth=truth, picture=opened
            )
        )
    some, source = grading.fixed(grading.few_pictures(items, limit), "amber")
    apart = [
        {metric.name: metric for metric in yes_no.metrics(positive="no", suffix=f"_{kind}")}
        for kind in TYPES
    ]
    return Graded(
        name="amber_d",
        group="hallucination",
        source=source,
        grader=f"amber-discriminative-{AMBER_VERSION}",
        items=some,
        metrics=(
            *yes_no.metrics(positive="no", primary=True),
            percent("unreadable", "unreadable", "answered", "none"),
            *yes_no.metrics(positive="no", suffix="_official"),
            *(
                apart[place][f"{name}_{kind}"]
                for place, kind in enumerate(TYPES)
                for name in ("accuracy", "f1")
            ),
        ),
        judge=_judge_question,
        max_new_tokens=32,
        choices=("yes", "no"),
    )


def _judge_caption(words: Words, known: frozenset[str], item: Item[Told], caption: str) -> Grade:
    """``value`` is 1 for a description without hallucinated noun, else 0."""
    if not caption.strip():
        return grading.unscored(item, "empty caption")
    nouns = words.nouns(caption, known)
    there, ghosts = words.of(item.truth.truth), words.of(item.truth.hallu)
    covered: set[int] = set()
    expected: set[int] = set()
    invented = []
    for noun in nouns:
        if noun in words.safe:
            continue
        if noun in there:
            covered.add(there[noun])
            continue
        expected |= {
            place for place in (ghosts.get(noun), words.nearest(noun, ghosts)) if place is not None
        }
        if (place := words.nearest(noun, there)) is not None:
            covered.add(place)
        else:
            invented.append(noun)
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=0.0 if invented else 1.0,
        read_as=" ".join(nouns),
        why=f"not there: {', '.join(dict.fromkeys(invented))}" if invented else "",
        truth=", ".join(item.truth.truth),
        counts={
            "captions": 1.0,
            "unfaithful": float(bool(invented)),
            "nouns": float(len(nouns)),
            "hallucinated": float(len(invented)),
            "covered": float(len(covered)),
            "truth": float(len(item.truth.truth)),
            "expected": float(len(expected)),
            "hallu": float(len(item.truth.hallu)),
        },
    )


def _judge_question(item: Item[Asked], answer: str) -> Grade:
    truth = item.truth.answer
    bare: YesNo | None = "yes" if answer == "Yes" else "no" if answer == "No" else None
    official = yes_no.counts(truth, bare, positive="no", suffix="_official")
    said = yes_no.read_words(answer)
    if said is None:
        return grading.unscored(
            item, yes_no.why_unread(answer), {"answered": 1.0, "unreadable": 1.0, **official}, truth
        )
    both = (
        yes_no.counts(truth, said, positive="no", suffix=suffix)
        for suffix in ("", f"_{item.truth.kind}")
    )
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=float(said == truth),
        read_as=said,
        why="" if said == truth else f"the answer is {truth}",
        truth=truth,
        counts={"answered": 1.0, "unreadable": 0.0, **next(both), **next(both), **official},
    )


def _questions(
    name: str, split: str, folder: Path, query: Path
) -> list[tuple[str, str, Path, str, Mapping[str, Any]]]:
    """Each question as (place in the file, id, image, text, its annotation)."""
    grading.only_test_split(name, split)
    about: dict[str, dict[str, Any]] = {}
    for place, row in files.read_rows(folder / _ANNOTATIONS):
        if about.setdefault(str(row.get("id")), row) is not row:
            raise ValueError(f"{place}: the id {row.get('id')} is there already; {files.AGAIN}.")
    found: dict[str, tuple[str, str, Path, str, Mapping[str, Any]]] = {}
    for place, row in files.read_rows(query):
        id = str(row.get("id"))
        if id not in about:
            raise ValueError(
                f"{place}: the id {id} has no annotation in {folder / _ANNOTATIONS}; {files.AGAIN}."
            )
        if id in found:
            raise ValueError(
                f"{place}: the id {id} is there already ({found[id][0]}); {files.AGAIN}."
            )
        picture = folder / "image" / files.text(place, row, "image")
        found[id] = (place, id, picture, files.text(place, row, "query"), about[id])
    files.pictures_are_there(name, [(place, picture) for place, _, picture, _, _ in found.values()])
    return list(found.values())


def _words(folder: Path) -> Words:
    """``relation.json``, ``safe_words.txt`` and, where it is there, ``similar.json``."""
    similar = folder / "similar.json"
    tables = [folder / _RELATION, *([similar] if similar.exists() else [])]
    read: list[dict[str, tuple[str, ...]]] = []
    for path in tables:
        table = files.read_json(path)
        if not isinstance(table, dict) or not all(
            isinstance(words, list) for words in table.values()
        ):
            raise ValueError(f"{path} must be a JSON object of word lists; {files.AGAIN}.")
        read.append({word: tuple(map(str, words)) for word, words in table.items()})
    near = {word: frozenset(words) for word, words in read[1].items()} if len(read) > 1 else {}
    safe = frozenset(line for _, line in files.read_lines(folder / _SAFE))
    return Words(relation=read[0], safe=safe, similar=near)


def _names(place: str, about: Mapping[str, Any], field: str, words: Words) -> tuple[str, ...]:
    names = about.get(field)
    if not isinstance(names, list):
        raise ValueError(f"{place}: its annotation has no list {field!r}; {files.AGAIN}.")
    if unknown := [name for name in names if name not in words.relation]:
        raise ValueError(
            f"{place}: {unknown[0]!r} of its {field!r} is not in {_RELATION}; {files.AGAIN}."
        )
    return tuple(names)
