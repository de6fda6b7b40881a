"""What papers report, for columns of its own beside what was measured: the numbers of
``published.csv``, each with its source.

A number is shown where base, benchmark and metric are the same by name; a row's twin is the paper's
row of the same method. None of them was measured by this harness, and most are second-hand: the
notes say which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from harness.reporting.results import BenchmarkColumns, Row
from harness.reporting.tables.model import MISSING, Column, Entry

PUBLISHED = Path(__file__).with_name("published.csv")
GROUP = "reported only: rows of papers that are not measured here"
UNREAD = ("sena",)
"""Methods whose own table could not be read: their row says "not available", it is not invented."""
TWINS: Mapping[str, str] = {"gt_dpo": "gt_dpo"}
"""Rows that a paper names otherwise."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "chair": ("coco_chair", "coco_cap_chair"),
    "mmbench": ("mmbench_dev_en", "mmbench_en_dev"),
    "mm_vet": ("mmvet",),
    "llava_w": ("llava_in_the_wild", "llavabench"),
    "scienceqa_img": ("scienceqa_test",),
    "textvqa": ("textvqa_val",),
    "vizwiz": ("vizwiz_vqa_val",),
    "gqa": ("gqa_testdev_balanced",),
}
"""The papers' benchmarks by what they are called here and in the toolkits."""
METRICS: Mapping[str, tuple[str, ...]] = {"mmbench": ("circular", "accuracy_circular")}
TOOLKIT = re.compile(r"^(lmms_eval|vlmevalkit)\W")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One line of ``published.csv``; ``value`` is the text as reported, ``verified`` how far it was
    checked."""

    paper: str
    row: str
    base: str
    benchmark: str
    metric: str
    better: str
    value: str
    verified: str
    source: str

    @property
    def reference(self) -> str:
        return f"{self.paper} ({self.verified}): {self.source}"


@cache
def published() -> tuple[Number, ...]:
    frame = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    return tuple(
        Number(**{str(name): str(text) for name, text in line.items()})
        for line in frame.to_dict("records")
    )


def matching(rows: Sequence[Row], benchmark: BenchmarkColumns) -> dict[str, list[Number]]:
    """The reported numbers by the study's metric that they belong to, in the benchmark's order;
    empty: nothing matches."""
    bases = {row.base for row in rows}
    found: dict[str, list[Number]] = {}
    for metric in benchmark.metrics:
        for number in published():
            if number.base in bases and belongs(number, benchmark.name, metric.name):
                found.setdefault(metric.name, []).append(number)
    return found


def belongs(number: Number, benchmark: str, metric: str) -> bool:
    """Whether the number is of this benchmark and metric. A paper's ``pope_adversarial / accuracy``
    is the metric
    ``accuracy_adversarial`` of ``pope``, its ``mme_perception / score`` the metric ``perception``
    of ``mme``."""
    name = TOOLKIT.sub("", benchmark.lower())
    if name == number.benchmark or name in NAMES.get(number.benchmark, ()):
        return metric == number.metric or metric in METRICS.get(number.benchmark, ())
    part = number.benchmark.removeprefix(f"{name}_")
    return part != number.benchmark and metric in (part, f"{number.metric}_{part}")


def twin(row: Row, number: Number) -> bool:
    """Whether the paper's row is this row's: the same base and method, and the round where the
    paper names one."""
    names = {row.method, TWINS.get(row.method, row.method), f"{row.method}_round{row.rounds}"}
    return number.base == row.base and number.row in names


def others(rows: Sequence[Row], numbers: Mapping[str, list[Number]]) -> list[tuple[str, str]]:
    """(base, name) of the papers' rows without a twin; ablations in a paper (``csr_lambda=0.1``
    beside ``csr``) are left out."""
    everything = [number for some in numbers.values() for number in some]
    own = {(number.paper, number.row) for number in published()}
    found = [
        (number.base, number.row)
        for number in everything
        if not any(twin(row, number) for row in rows)
        and not any(
            number.row.startswith(f"{name}_") for paper, name in own if paper == number.paper
        )
    ]
    return list(dict.fromkeys(found))


def column(heading: str) -> Column:
    return Column(heading=f"reported: {heading}", reported=True)


def of_row(row: Row, numbers: Sequence[Number], references: Sequence[str]) -> Entry:
    """The row's own reported numbers of one metric, such as ``85.90 [1]; 84.31 [7]``."""
    return _entry(
        (number for number in numbers if twin(row, number)), references, row.method in UNREAD
    )


def of_name(base: str, name: str, numbers: Sequence[Number], references: Sequence[str]) -> Entry:
    return _entry(
        (number for number in numbers if (number.base, number.row) == (base, name)),
        references,
        False,
    )


def _entry(numbers: Iterable[Number], references: Sequence[str], unread: bool) -> Entry:
    texts = [f"{number.value} [{references.index(number.reference) + 1}]" for number in numbers]
    return Entry(value="; ".join(texts) or ("not available" if unread else MISSING))


def references(rows: Sequence[Row], benchmarks: Sequence[BenchmarkColumns]) -> tuple[str, ...]:
    """Every source of a number that the table shows, in a fixed order: [1] is the first."""
    shown = [
        number
        for benchmark in benchmarks
        for some in matching(rows, benchmark).values()
        for number in some
    ]
    return tuple(dict.fromkeys(number.reference for number in published() if number in shown))
