"""Turns VLMEvalKit's reading of each row into counts, so that images can be resampled, and names
the totals of the kit that the metrics must equal.

Totals that are sums of categories' means (MME's perception, AMBER's average) are no ratios of sums.
There each row weighs one over its category's size: this gives the kit's number on all rows, and its
ratio estimator on a resample."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.grading import by_kind, percent, ratio
from benchmarks.interface import Group, Metric
from benchmarks.via_vlmevalkit_tsv import Row

Reading = Mapping[str, Any]
"""The kit's reading of a row: ``read_as``, ``hit`` (None: the row has none of its own), and in
multiple choice ``alone``."""
Readings = Mapping[str, Reading]
"""By the row's index."""
Counts = dict[str, float]

POPE_SETTINGS = ("random", "popular", "adversarial")
MME = {
    "perception": (
        "OCR artwork celebrity color count existence landmark position posters scene".split()
    ),
    "reasoning": (
        "code_reasoning commonsense_reasoning numerical_calculation text_translation".split()
    ),
}
AMBER = {
    "discriminative-attribute-state": "Attribute",
    "discriminative-attribute-number": "Attribute",
    "discriminative-attribute-action": "Attribute",
    "discriminative-hallucination": "Existence",
    "discriminative-relation": "Relation",
    "relation": "Relation",
}
AMBER_CATEGORIES = ("Existence", "Attribute", "Relation")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of data set."""

    reader: Literal["yes_no", "choice", "words"]
    """The name of the child's reader."""
    group: Group
    needed: tuple[str, ...]
    """Columns that the file must have."""
    metrics: tuple[Metric, ...]
    count: Callable[[Sequence[Row], Readings], dict[str, Counts]]
    """The counts of each row, by its index."""
    totals: Mapping[str, tuple[str, str | None, float]]
    """Metric -> (column and ``split`` of the kit's table of totals, factor): the metric is factor
    times the kit's number."""
    judge: bool = False
    """Whether the kit asks a language model about unreadable answers."""
    circular: bool = False
    """Whether the rotations of a question count together."""
    unread: frozenset[str] = frozenset({"Unknown"})
    """Readings that mean unreadable."""
    answers: tuple[str, ...] = ()
    """The allowed truths, where the kit compares letter by letter; empty: any."""


def pope(rows: Sequence[Row], readings: Readings) -> dict[str, Counts]:
    """A row counts once in each of its categories. An unknown answer is wrong and not a yes."""
    counts_by_row = {}
    for row in rows:
        reading, hit = readings[row.index]["read_as"], float(readings[row.index]["hit"])
        settings = row.cells["category"].split(",")
        weight, yes, present = float(len(settings)), reading == "Yes", row.cells["answer"] == "Yes"
        counts = {
            "asked": weight,
            "correct": weight * hit,
            "yes": weight * yes,
            "present": weight * present,
            "tp": weight * (yes and present),
            "f1_den": weight * (yes + present),
            "unreadable": weight * (reading == "Unknown"),
        }
        counts["f1_num"] = 2 * counts["tp"]
        for setting in settings:
            counts |= {f"asked_{setting}": 1.0, f"correct_{setting}": hit}
        counts_by_row[row.index] = counts
    return counts_by_row


def mme(rows: Sequence[Row], readings: Readings) -> dict[str, Counts]:
    """Accuracy over questions, accuracy+ over images (both questions right; the kit takes an
    image's first two), and points: the sum of both over the categories of perception (10) and
    reasoning (4)."""
    category = {row.index: row.cells["category"] for row in rows}
    by_image: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        by_image[category[row.index], row.cells["image_path"]].append(row.index)
    questions, images = Counter(category.values()), Counter(kind for kind, _ in by_image)
    counts_by_row: dict[str, Counts] = {}
    for (kind, _), indices in by_image.items():
        both = float(len(indices) > 1 and all(readings[index]["hit"] for index in indices[:2]))
        for position, index in enumerate(indices):
            hit = float(readings[index]["hit"])
            counts = {
                "asked": 1.0,
                "correct": hit,
                "unreadable": float(readings[index]["read_as"] == "Unknown"),
            }
            is_first = position == 0
            counts |= {"pictures": 1.0, "both": both} if is_first else {}
            for name, kinds in MME.items():
                if kind in kinds:
                    image_share = both / images[kind] if is_first else 0.0
                    counts[f"{name}_den"] = 1 / questions[kind]
                    counts[f"{name}_num"] = hit / questions[kind] + image_share
            counts_by_row[index] = counts
    return counts_by_row


def amber(rows: Sequence[Row], readings: Readings) -> dict[str, Counts]:
    """Accuracy over questions, and the mean of the categories' accuracies."""
    kinds = {row.index: AMBER.get(row.cells["category"], row.cells["category"]) for row in rows}
    sizes = Counter(kinds.values())
    counts_by_row = {}
    for index, kind in kinds.items():
        reading, hit = readings[index]["read_as"], float(readings[index]["hit"])
        counts_by_row[index] = {
            "asked": 1.0,
            "correct": hit,
            "yes": float(reading == "Yes"),
            "unreadable": float(reading == "Unknown"),
            "average_num": hit / sizes[kind],
            "average_den": 1 / sizes[kind],
            f"asked_{kind}": 1.0,
            f"correct_{kind}": hit,
        }
    return counts_by_row


def choice(rows: Sequence[Row], readings: Readings) -> dict[str, Counts]:
    """``correct`` of ``asked``: each row by itself; ``all_right`` of ``groups``: the rotations of a
    question together."""
    counts_by_row = {}
    for row in rows:
        reading = readings[row.index]
        counts = {
            "asked": 1.0,
            "correct": float(reading["alone"]),
            "unreadable": float(reading["read_as"] in ("", "Z")),
        }
        if reading["hit"] is not None:
            counts |= {"groups": 1.0, "all_right": float(reading["hit"])}
        counts_by_row[row.index] = counts
    return counts_by_row


def words(rows: Sequence[Row], readings: Readings) -> dict[str, Counts]:
    return {row.index: {"asked": 1.0, "correct": float(readings[row.index]["hit"])} for row in rows}


_UNREADABLE = percent("unreadable", "unreadable", "asked", "none")
_ACCURACY_OF = percent("accuracy", "correct", "asked")
_ACCURACY = replace(_ACCURACY_OF, primary=True)
_POPE = Family(
    reader="yes_no",
    group="hallucination",
    needed=("index", "question", "answer", "category"),
    metrics=(
        _ACCURACY,
        percent("precision", "tp", "yes"),
        percent("recall", "tp", "present"),
        percent("f1", "f1_num", "f1_den"),
        percent("yes_ratio", "yes", "asked", "none"),
        _UNREADABLE,
        *by_kind(_ACCURACY_OF, POPE_SETTINGS),
    ),
    answers=("Yes", "No"),
    count=pope,
    totals={
        "accuracy": ("acc", "Overall", 1.0),
        "precision": ("precision", "Overall", 1.0),
        "recall": ("recall", "Overall", 1.0),
        "f1": ("Overall", "Overall", 1.0),
        **{f"accuracy_{setting}": ("acc", setting, 1.0) for setting in POPE_SETTINGS},
    },
)
_MME = Family(
    reader="yes_no",
    group="general",
    needed=("index", "question", "answer", "category", "image_path"),
    metrics=(
        *(
            ratio(
                name,
                f"{name}_num",
                f"{name}_den",
                unit="points",
                scale=100.0 * len(kinds),
                primary=name == "perception",
            )
            for name, kinds in MME.items()
        ),
        percent("accuracy", "correct", "asked"),
        percent("accuracy_plus", "both", "pictures"),
        _UNREADABLE,
    ),
    answers=("Yes", "No"),
    count=mme,
    totals={name: (name, None, 1.0) for name in MME},
)
_AMBER = Family(
    reader="yes_no",
    group="hallucination",
    needed=("index", "question", "answer", "category", "image_path"),
    metrics=(
        percent("average_accuracy", "average_num", "average_den", primary=True),
        percent("accuracy", "correct", "asked"),
        *by_kind(_ACCURACY_OF, AMBER_CATEGORIES),
        percent("yes_ratio", "yes", "asked", "none"),
        _UNREADABLE,
    ),
    count=amber,
    totals={
        "average_accuracy": ("Avg ACC", None, 1.0),
        **{f"accuracy_{kind}": (kind, None, 1.0) for kind in AMBER_CATEGORIES},
    },
)
_CHOICE = Family(
    reader="choice",
    group="general",
    needed=("index", "question", "answer", "A", "B"),
    metrics=(_ACCURACY, _UNREADABLE),
    count=choice,
    totals={"accuracy": ("Overall", None, 100.0)},
    judge=True,
    unread=frozenset({"", "Z"}),
)
_CIRCULAR = replace(
    _CHOICE,
    metrics=(
        percent("accuracy_circular", "all_right", "groups", primary=True),
        percent("accuracy", "correct", "asked"),
        _UNREADABLE,
    ),
    totals={"accuracy_circular": ("Overall", None, 100.0)},
    circular=True,
)
_WORDS = Family(
    reader="words",
    group="general",
    needed=("index", "question", "answer"),
    metrics=(_ACCURACY,),
    count=words,
    totals={"accuracy": ("Overall", None, 1.0)},
    unread=frozenset({""}),
)

FAMILIES: Mapping[str, Family] = {
    "POPE": _POPE,
    "MME": _MME,
    "AMBER": _AMBER,
    **dict.fromkeys(
        ("MMBench_DEV_EN", "MMBench_DEV_EN_V11", "MMBench_DEV_CN", "MMBench_DEV_CN_V11", "CCBench"),
        _CIRCULAR,
    ),
    **dict.fromkeys(
        ("MMStar", "SEEDBench_IMG", "ScienceQA_VAL", "ScienceQA_TEST", "AI2D_TEST", "RealWorldQA"),
        _CHOICE,
    ),
    **dict.fromkeys(("TextVQA_VAL", "GQA_TestDev_Balanced", "ChartQA_TEST", "OCRVQA_TEST"), _WORDS),
}
"""The data sets whose rows the kit scores one by one, by the kit's names."""
