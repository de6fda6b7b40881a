"""What the kit's reading of each row adds to the sums behind the metrics, so that images can be
resampled; and which of the kit's own totals each metric must equal on all rows.

Totals that are sums of categories' means (MME's perception of at most 2000 points, AMBER's average)
are no ratio of sums by themselves: each row is weighted by one over its category's size, which
gives the kit's number on all rows and, on a resample, the ratio estimator of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.grading import percent
from benchmarks.interface import Metric
from benchmarks.via_vlmevalkit_tsv import Row

Reading = Mapping[str, Any]
"""The kit's reading of a row: ``read_as``, ``hit`` (None: the row has none of its own), in multiple
choice ``alone`` too."""
Counts = dict[str, float]
Totals = Sequence[Mapping[str, Any]]

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
_UNREADABLE = percent("unreadable", "unreadable", "asked", "none")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of data set. ``reader`` names the child's reader; ``judge``: its own rule wants a
    language model where an answer cannot be read; ``unread`` are readings that say nothing;
    ``answers``: all that the column may hold, where the kit compares letter by letter; ``totals``:
    metric name to (column, row's ``split`` or None, factor) of the kit's own table, where the
    metric is factor times the kit's number."""

    reader: Literal["yes_no", "choice", "words"]
    group: Literal["hallucination", "general"]
    needed: tuple[str, ...]
    metrics: tuple[Metric, ...]
    count: Callable[[Sequence[Row], Mapping[str, Reading]], dict[str, Counts]]
    totals: Mapping[str, tuple[str, str | None, float]]
    judge: bool = False
    circular: bool = False
    unread: frozenset[str] = frozenset({"Unknown"})
    answers: tuple[str, ...] = ()


def pope(rows: Sequence[Row], readings: Mapping[str, Reading]) -> dict[str, Counts]:
    """A row stands for one question in each of its categories. An unknown answer is counted, wrong,
    and not a yes."""
    found = {}
    for row in rows:
        read, hit = readings[row.index]["read_as"], float(readings[row.index]["hit"])
        settings = row.cells["category"].split(",")
        times, yes, present = float(len(settings)), read == "Yes", row.cells["answer"] == "Yes"
        counts = {
            "asked": times,
            "correct": times * hit,
            "yes": times * yes,
            "present": times * present,
            "tp": times * (yes and present),
            "f1_den": times * (yes + present),
            "unreadable": times * (read == "Unknown"),
        }
        counts["f1_num"] = 2 * counts["tp"]
        for setting in settings:
            counts |= {f"asked_{setting}": 1.0, f"correct_{setting}": hit}
        found[row.index] = counts
    return found


def mme(rows: Sequence[Row], readings: Mapping[str, Reading]) -> dict[str, Counts]:
    """Accuracy over questions, accuracy+ over images (both questions right; the kit takes a
    image's first two), and points: the sum of both over the categories of perception (10) and
    reasoning (4)."""
    category = {row.index: row.cells["category"] for row in rows}
    of_picture: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        of_picture[category[row.index], row.cells["image_path"]].append(row.index)
    questions, pictures = Counter(category.values()), Counter(kind for kind, _ in of_picture)
    found: dict[str, Counts] = {}
    for (kind, _), indices in of_picture.items():
        both = float(len(indices) > 1 and all(readings[index]["hit"] for index in indices[:2]))
        for place, index in enumerate(indices):
            hit = float(readings[index]["hit"])
            counts = {
                "asked": 1.0,
                "correct": hit,
                "unreadable": float(readings[index]["read_as"] == "Unknown"),
            }
            counts |= {"pictures": 1.0, "both": both} if not place else {}
            for name, kinds in MME.items():
                if kind in kinds:
                    counts[f"{name}_den"] = 1 / questions[kind]
                    counts[f"{name}_num"] = hit / questions[kind] + (
                        both / pictures[kind] if not place else 0.0
                    )
            found[index] = counts
    return found


def amber(rows: Sequence[Row], readings: Mapping[str, Reading]) -> dict[str, Counts]:
    kinds = {row.index: AMBER.get(row.cells["category"], row.cells["category"]) for row in rows}
    sizes = Counter(kinds.values())
    found = {}
    for row in rows:
        read, hit, kind = (
            readings[row.index]["read_as"],
            float(readings[row.index]["hit"]),
            kinds[row.index],
        )
        found[row.index] = {
            "asked": 1.0,
            "correct": hit,
            "yes": float(read == "Yes"),
            "unreadable": float(read == "Unknown"),
            "average_num": hit / sizes[kind],
            "average_den": 1 / sizes[kind],
            f"asked_{kind}": 1.0,
            f"correct_{kind}": hit,
        }
    return found


def choice(rows: Sequence[Row], readings: Mapping[str, Reading]) -> dict[str, Counts]:
    """``correct`` of ``asked``: each question by itself; ``all_right`` of ``groups``: the rotations
    of a question together."""
    found = {}
    for row in rows:
        reading = readings[row.index]
        counts = {
            "asked": 1.0,
            "correct": float(reading["alone"]),
            "unreadable": float(reading["read_as"] in ("", "Z")),
        }
        if reading["hit"] is not None:
            counts |= {"groups": 1.0, "all_right": float(reading["hit"])}
        found[row.index] = counts
    return found


def words(rows: Sequence[Row], readings: Mapping[str, Reading]) -> dict[str, Counts]:
    return {row.index: {"asked": 1.0, "correct": float(readings[row.index]["hit"])} for row in rows}


_ACCURACY = percent("accuracy", "correct", "asked", primary=True)
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
        *(
            percent(f"accuracy_{setting}", f"correct_{setting}", f"asked_{setting}")
            for setting in POPE_SETTINGS
        ),
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
            Metric(
                name=name,
                better="higher",
                unit="points",
                numerator=f"{name}_num",
                denominator=f"{name}_den",
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
        *(
            percent(f"accuracy_{kind}", f"correct_{kind}", f"asked_{kind}")
            for kind in ("Existence", "Attribute", "Relation")
        ),
        percent("yes_ratio", "yes", "asked", "none"),
        _UNREADABLE,
    ),
    count=amber,
    totals={
        "average_accuracy": ("Avg ACC", None, 1.0),
        **{
            f"accuracy_{kind}": (kind, None, 1.0) for kind in ("Existence", "Attribute", "Relation")
        },
    },
)
_NO_OPTION = frozenset({"", "Z"})
_CHOICE = Family(
    reader="choice",
    group="general",
    needed=("index", "question", "answer", "A", "B"),
    metrics=(_ACCURACY, _UNREADABLE),
    count=choice,
    totals={"accuracy": ("Overall", None, 100.0)},
    judge=True,
    unread=_NO_OPTION,
)
_CIRCULAR = Family(
    reader="choice",
    group="general",
    needed=_CHOICE.needed,
    metrics=(
        percent("accuracy_circular", "all_right", "groups", primary=True),
        percent("accuracy", "correct", "asked"),
        _UNREADABLE,
    ),
    count=choice,
    totals={"accuracy_circular": ("Overall", None, 100.0)},
    judge=True,
    circular=True,
    unread=_NO_OPTION,
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
