"""AMBER (Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination
Evaluation", arXiv 2311.07397).

Generative: a description of each image. Its nouns that AMBER knows (the words of
``relation.json``) are compared with the objects that the annotators saw (``truth``) and those that
they expect to be invented (``hallu``). Metrics (section 3.3):

- ``chair``: hallucinated nouns / nouns; ``hal``: descriptions with a hallucinated noun /
  descriptions;
- ``cover``: objects of ``truth`` that are described / objects of ``truth``; ``cog``: objects of
  ``hallu`` that are described / objects of ``hallu`` (lower is better).

Discriminative: yes/no questions on existence, attributes and relations. As in the released code,
"no" is the positive class. The metrics ``..._official`` count only the bare words Yes and No.

The metrics ``..._official`` of the generative part find nouns with NLTK's tagger, as the released
code does. They exist where NLTK and its data are installed (benchmarks/amber_tagger.py).

Similar words: the released code also takes a noun for an object if spaCy's vectors of the two have
a cosine above 0.8. Both are words of ``relation.json``, so the similarities form a finite table. A
file ``similar.json`` in the folder ({word: [similar words]}, see benchmarks/README.md) is used so;
without it only the words of ``relation.json`` count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import amber_tagger, files, grading, yes_no
from benchmarks.amber_words import Words
from benchmarks.grading import Item, ItemBenchmark, percent
from benchmarks.interface import Grade, Metric
from benchmarks.spec import Spec
from benchmarks.yes_no import REQUEST, YesNo

DISCRIMINATIVE_VERSION = "2"
GENERATIVE_VERSION = "2"
TYPES = ("existence", "state", "number", "action", "relation")
ATTRIBUTE = ("state", "number", "action")
"""The kinds that AMBER's script sums up as Attribute."""
_KIND = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_ANNOTATIONS = "data/annotations.json"
_RELATION = "data/relation.json"
_SAFE = "data/safe_words.txt"
_GENERATIVE = "data/query/query_generative.json"
_DISCRIMINATIVE = "data/query/query_discriminative.json"


def _local_data(*extra_files: str) -> files.LocalData:
    source = "github.com/junyangwang0410/AMBER, and its images, linked there, as image/"
    return files.LocalData(name="amber", files=(_ANNOTATIONS, *extra_files, "image"), get=source)


GENERATIVE_DATA = _local_data(_GENERATIVE, _RELATION, _SAFE)
DISCRIMINATIVE_DATA = _local_data(_DISCRIMINATIVE)


GENERATIVE: tuple[Metric, ...] = (
    percent("chair", "hallucinated", "nouns", "lower", primary=True),
    percent("cover", "covered", "truth", primary=True),
    percent("hal", "unfaithful", "captions", "lower", primary=True),
    percent("cog", "expected", "hallu", "lower", primary=True),
)
"""The generative part's metrics."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The truth of an image: objects in it, and objects that are likely to be invented."""

    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The truth of a yes/no question."""

    kind: str
    answer: YesNo


def generative(split: str, limit: int | None, data: Path | None) -> ItemBenchmark[Annotation]:
    """The generative part.

    Raises:
        ValueError: a file or image is missing or broken, or the split is not test.
    """
    folder = GENERATIVE_DATA.folder("amber_g", data)
    words = _read_words(folder)
    items = [
        Item(
            id=id,
            cluster=image.name,
            text=text,
            truth=Annotation(
                truth=_object_names(location, annotation, "truth", words),
                hallu=_object_names(location, annotation, "hallu", words),
            ),
            load_image=partial(files.open_image, image),
        )
        for location, id, image, text, annotation in _read_questions(
            "amber_g", split, folder, _GENERATIVE
        )
    ]
    kept_items, source = grading.items_and_source(
        items,
        limit,
        "amber-similar" if words.similar else "amber",
        words.relation,
        words.safe,
        words.similar,
    )
    tagged = not amber_tagger.missing_reason()
    official = [
        replace(grading.suffixed(metric, "_official"), primary=False) for metric in GENERATIVE
    ]
    return ItemBenchmark(
        name="amber_g",
        group="hallucination",
        source=source,
        grader=f"amber-generative-{GENERATIVE_VERSION}"
        + (f"+{amber_tagger.version()}" if tagged else ""),
        items=kept_items,
        metrics=(*GENERATIVE, *(official if tagged else ())),
        grade_one=partial(_grade_caption, words, words.vocabulary, tagged),
        max_new_tokens=512,
    )


def discriminative(split: str, limit: int | None, data: Path | None) -> ItemBenchmark[Statement]:
    """The discriminative part.

    Raises:
        ValueError: a file or image is missing or broken, or the split is not test.
    """
    folder = DISCRIMINATIVE_DATA.folder("amber_d", data)
    items = []
    for location, id, image, text, annotation in _read_questions(
        "amber_d", split, folder, _DISCRIMINATIVE
    ):
        kind = _KIND[files.one_of(location, annotation.get("type"), _KIND, "type")]
        answer = yes_no.read_label(location, annotation.get("truth"), "truth")
        items.append(
            Item(
                id=id,
                cluster=image.name,
                text=f"{text}\n{REQUEST}",
                truth=Statement(kind=kind, answer=answer),
                load_image=partial(files.open_image, image),
            )
        )
    kept_items, source = grading.items_and_source(items, limit, "amber")
    by_kind = (
        yes_no.metrics(positive="no", suffix=f"_{kind}{reading}")[name]
        for reading in ("", "_official")
        for kind in (*TYPES, "attribute")
        for name in ("accuracy", "f1")
    )
    return ItemBenchmark(
        name="amber_d",
        group="hallucination",
        source=source,
        grader=f"amber-discriminative-{DISCRIMINATIVE_VERSION}",
        items=kept_items,
        metrics=(
            *yes_no.metrics(positive="no", primary=True).values(),
            yes_no.UNREADABLE,
            *yes_no.metrics(positive="no", suffix="_official").values(),
            *by_kind,
        ),
        grade_one=_grade_question,
        max_new_tokens=32,
    )


def _grade_caption(
    words: Words, vocabulary: frozenset[str], tagged: bool, item: Item[Annotation], caption: str
) -> Grade:
    """``value`` is 1 for a description without hallucinated noun, else 0. ``tagged``: whether
    AMBER's own nouns are counted, too; its script counts an empty description as one without
    hallucination."""
    truth, official = item.truth, dict[str, float]()
    if tagged:
        counts, _ = _count_nouns(words, truth, amber_tagger.nouns(caption, vocabulary))
        official = grading.suffixed_counts(counts, "_official")
    if not caption.strip():
        return grading.unscored(item, "empty caption", official)
    nouns = words.nouns(caption, vocabulary)
    counts, invented = _count_nouns(words, truth, nouns)
    return Grade(
        question=item.id,
        cluster=item.cluster,
        value=0.0 if invented else 1.0,
        read_as=" ".join(nouns),
        why=f"not there: {', '.join(dict.fromkeys(invented))}" if invented else "",
        truth=", ".join(truth.truth),
        counts={**counts, **official},
    )


def _count_nouns(
    words: Words, truth: Annotation, nouns: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """The counts of a description's nouns, and those that are hallucinated."""
    truth_words, hallu_words = words.index_by_word(truth.truth), words.index_by_word(truth.hallu)
    covered: set[int] = set()
    expected: set[int] = set()
    invented = []
    for noun in nouns:
        if noun in words.safe:
            continue
        if noun in truth_words:
            covered.add(truth_words[noun])
            continue
        indices = (hallu_words.get(noun), words.nearest(noun, hallu_words))
        expected |= {index for index in indices if index is not None}
        if (index := words.nearest(noun, truth_words)) is not None:
            covered.add(index)
        else:
            invented.append(noun)
    return {
        "captions": 1.0,
        "unfaithful": float(bool(invented)),
        "nouns": float(len(nouns)),
        "hallucinated": float(len(invented)),
        "covered": float(len(covered)),
        "truth": float(len(truth.truth)),
        "expected": float(len(expected)),
        "hallu": float(len(truth.hallu)),
    }, invented


def _grade_question(item: Item[Statement], answer: str) -> Grade:
    truth, reading = item.truth.answer, yes_no.read_words(answer)
    bare_reading: YesNo | None = "yes" if answer == "Yes" else "no" if answer == "No" else None
    kind = item.truth.kind
    suffixes = ("", f"_{kind}", *(("_attribute",) if kind in ATTRIBUTE else ()))

    def count_reading(reading: YesNo | None, name: str) -> dict[str, float]:
        all_counts = (
            yes_no.counts(truth, reading, positive="no", suffix=f"{suffix}{name}")
            for suffix in suffixes
        )
        return {key: count for counts in all_counts for key, count in counts.items()}

    return yes_no.grade(
        item,
        answer,
        truth,
        read=count_reading(reading, ""),
        always=count_reading(bare_reading, "_official"),
        why_wrong=f"the answer is {truth}",
    )


def _read_questions(
    name: str, split: str, folder: Path, query: str
) -> list[tuple[str, str, Path, str, Mapping[str, Any]]]:
    """Each question as (place in the file, id, image, text, its annotation)."""
    grading.only_test_split(name, split)
    annotations: dict[str, dict[str, Any]] = {}
    for location, row in files.read_rows(folder / _ANNOTATIONS):
        if annotations.setdefault(str(row.get("id")), row) is not row:
            raise files.broken(f"{location}: the id {row.get('id')} is a duplicate")
    questions: dict[str, tuple[str, str, Path, str, Mapping[str, Any]]] = {}
    for location, row in files.read_rows(folder / query):
        id = str(row.get("id"))
        if id not in annotations:
            raise files.broken(
                f"{location}: the id {id} has no annotation in {folder / _ANNOTATIONS}"
            )
        if id in questions:
            raise files.broken(f"{location}: the id {id} is a duplicate of {questions[id][0]}")
        image = folder / "image" / files.text_field(location, row, "image")
        questions[id] = (
            location,
            id,
            image,
            files.text_field(location, row, "query"),
            annotations[id],
        )
    files.check_images(name, [(location, image) for location, _, image, _, _ in questions.values()])
    return list(questions.values())


def _read_words(folder: Path) -> Words:
    """``relation.json``, ``safe_words.txt`` and, if it exists, ``similar.json``."""
    similar = folder / "similar.json"
    similar_words = _word_lists(similar) if similar.exists() else {}
    return Words(
        relation=_word_lists(folder / _RELATION),
        safe=frozenset(line for _, line in files.read_lines(folder / _SAFE)),
        similar={word: frozenset(words) for word, words in similar_words.items()},
    )


def _word_lists(path: Path) -> dict[str, tuple[str, ...]]:
    table = files.read_json(path)
    if not isinstance(table, dict) or not all(isinstance(words, list) for words in table.values()):
        raise files.broken(f"{path} must be a JSON object of word lists")
    return {word: tuple(map(str, words)) for word, words in table.items()}


def _object_names(
    location: str, annotation: Mapping[str, Any], field: str, words: Words
) -> tuple[str, ...]:
    names = annotation.get(field)
    if not isinstance(names, list):
        raise files.broken(f"{location}: its annotation has no list {field!r}")
    if unknown := [name for name in names if name not in words.relation]:
        raise files.broken(f"{location}: {unknown[0]!r} of its {field!r} is not in {_RELATION}")
    return tuple(names)


_LICENCE = "Apache-2.0 (repository); images under their own licences"
SPECS = (
    Spec(
        name="amber_g",
        factory=generative,
        group="hallucination",
        size=1004,
        questions=1004,
        captions=True,
        about="AMBER, generative: descriptions compared with the annotators' objects.",
        metrics=("chair", "cover", "hal", "cog"),
        licence=_LICENCE,
        twins=("lmms_eval:amber_g",),
        local=GENERATIVE_DATA,
    ),
    Spec(
        name="amber_d",
        factory=discriminative,
        group="hallucination",
        size=1004,
        questions=14216,
        about="AMBER, discriminative: 14,216 yes/no questions; no is the positive class.",
        metrics=("accuracy", "precision", "recall", "f1"),
        licence=_LICENCE,
        twins=("vlmevalkit:AMBER",),
        local=DISCRIMINATIVE_DATA,
    ),
)
