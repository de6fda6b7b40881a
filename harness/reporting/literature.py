"""Numbers from papers (``published.csv``, each with its source), shown in columns of their own.

A number is shown where its base, benchmark and metric are in the study. None was measured by this
harness; many are quoted from other papers than the method's own, and the notes say which."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.reporting.display_names import grouped
from harness.reporting.results import BenchmarkColumns
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import MISSING, Column, TableCell

PUBLISHED = Path(__file__).with_name("published.csv")
GROUP = "reported only: rows from papers, not measured here"
UNREAD = ("sena",)
"""Methods whose own table could not be read; their row shows "not available"."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "chair": ("coco_chair", "coco_cap_chair"),
    "mmbench": ("mmbench_dev_en", "mmbench_en_dev"),
    "mm_vet": ("mmvet",),
    "llava_w": ("llava_in_the_wild", "llavabench"),
    "scienceqa_img": ("scienceqa_test",),
    "textvqa": ("textvqa_val",),
    "vizwiz": ("vizwiz_vqa_val",),
    "gqa": ("gqa_testdev_balanced",),
    "hallusionbench": ("hallusion_bench_image",),
}
"""The papers' benchmarks, with their names here and in the toolkits."""
READINGS: Mapping[tuple[str, str, str], tuple[str, ...]] = {
    ("CSR", "chair", "chair_s"): ("chair_s_official",),
    ("CSR", "chair", "chair_i"): ("chair_i_official",),
    ("SIMA", "chair", "chair_i"): (),
    ("", "pope", "accuracy"): ("accuracy_official",),
    ("", "pope", "f1"): ("f1_official",),
    ("", "mmhal", "score"): (),
    ("", "mmhal", "hallucination_rate"): (),
    **{("", "amber_g", name): (f"{name}_official",) for name in ("chair", "cover", "hal", "cog")},
    **{("", "amber_d", name): (f"{name}_official",) for name in ("accuracy", "f1")},
    ("", "mmbench", "accuracy"): ("circular_unread_wrong", "accuracy_circular"),
}
"""(paper, or "" for all; benchmark; metric) of a number -> the metrics here that count the same,
with the same reading of answers. Where nothing is listed, the metric has the same name here; where
the list is empty, the number is shown nowhere.

CHAIR: CSR's numbers are the original script's. SIMA's own script reads "bus" and "ties", as
``chair_s`` here does; its CHAIR-i counts a hallucinated word once a caption among all mentions,
which nothing here does. POPE, AMBER: by the benchmark's own reading. MMHal: the papers' judges
differ or are not stated, and the script counts a verdict that it cannot read as 0. MMBench: an
answer that names no option is wrong."""
TOOLKIT = re.compile(r"^(lmms_eval|vlmevalkit)\W")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One line of ``published.csv``."""

    paper: str
    """The paper that prints the number."""
    row: str
    base: str
    benchmark: str
    metric: str
    better: str
    value: str
    """As printed; rates in percent, also where the paper prints a fraction."""
    verified: str
    """``first-hand``: read in the paper's own text, measured by its authors. ``first-hand rerun``:
    the same, with the weights that others released. ``origin not stated``: read in the paper's own
    text, which does not say who measured it. ``second-hand``: quoted from another paper, or read in
    a note about the paper."""
    source: str
    """The paper and its table."""
    reading: str
    """What is counted, as far as the source says."""

    @property
    def reference(self) -> str:
        return f"{self.paper} ({self.verified}): {self.source}"


@cache
def published() -> tuple[Number, ...]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(Number(**line) for line in csv.DictReader(file))


def matching(rows: Sequence[Row], benchmark: BenchmarkColumns) -> dict[str, list[Number]]:
    """The reported numbers of a benchmark by the study's metric, in the metrics' order."""
    bases = {published_as(row)[0] for row in rows}
    numbers = [number for number in published() if number.base in bases]
    return grouped(
        (metric.name, number)
        for metric in benchmark.metrics
        for number in numbers
        if is_of_metric(number, benchmark.name, metric.name)
    )


def is_of_metric(number: Number, benchmark: str, metric: str) -> bool:
    """Whether the number is of this benchmark and metric. A paper's ``pope_adversarial / accuracy``
    is ``accuracy_adversarial_official`` of ``pope`` here, its ``mme_perception / score`` is
    ``perception`` of ``mme``."""
    name = TOOLKIT.sub("", benchmark.lower())
    if name == number.benchmark or name in NAMES.get(number.benchmark, ()):
        return metric in _readings(number, number.benchmark)
    subset = number.benchmark.removeprefix(f"{name}_")
    if subset == number.benchmark:
        return False
    readings = _readings(number, name)
    subset_metrics = (
        f"{stem}_{subset}_official" if official else f"{stem}_{subset}"
        for stem, official, _ in (reading.partition("_official") for reading in readings)
    )
    return metric == subset or metric in subset_metrics


def _readings(number: Number, benchmark: str) -> tuple[str, ...]:
    """The metrics of the benchmark that count what the number counts."""
    of_paper = READINGS.get((number.paper, benchmark, number.metric))
    if of_paper is not None:
        return of_paper
    return READINGS.get(("", benchmark, number.metric), (number.metric,))


def published_as(row: Row) -> tuple[str, Set[str]]:
    """Base and names of the papers' row for this row: that of released weights, else the same base
    and method, and the same round where a paper names one."""
    if row.method == "released":  # methods/untrained.py
        return str(row.settings["published_base"]), set(row.settings["published_rows"])
    return row.base, {row.method, f"{row.method}_round{row.rounds}"}


def same_row(row: Row, number: Number) -> bool:
    base, names = published_as(row)
    return number.base == base and number.row in names


def other_papers_rows(
    rows: Sequence[Row], numbers: Mapping[str, list[Number]]
) -> list[tuple[str, str]]:
    """(base, name) of the papers' rows that the study does not have. A paper's ablations
    (``csr_lambda=0.1`` beside ``csr``) are left out."""
    names = grouped((number.paper, number.row) for number in published())
    pairs = [
        (number.base, number.row)
        for metric_numbers in numbers.values()
        for number in metric_numbers
        if not any(same_row(row, number) for row in rows)
        and not any(number.row.startswith(f"{name}_") for name in names[number.paper])
    ]
    return list(dict.fromkeys(pairs))


def column(heading: str) -> Column:
    return Column(heading=f"reported: {heading}", reported=True)


def of_row(row: Row, numbers: Sequence[Number], references: Sequence[str]) -> TableCell:
    """The reported numbers of the row in one metric, such as ``85.90 [1]; 84.31 [7]``."""
    numbers_of_row = (number for number in numbers if same_row(row, number))
    return _cell(numbers_of_row, references, row.method in UNREAD)


def of_name(
    base: str, name: str, numbers: Sequence[Number], references: Sequence[str]
) -> TableCell:
    numbers_of_row = (number for number in numbers if (number.base, number.row) == (base, name))
    return _cell(numbers_of_row, references, False)


def _cell(numbers: Iterable[Number], references: Sequence[str], unread: bool) -> TableCell:
    texts = [f"{number.value} [{references.index(number.reference) + 1}]" for number in numbers]
    return TableCell(value="; ".join(texts) or ("not available" if unread else MISSING))


def references(rows: Sequence[Row], benchmarks: Sequence[BenchmarkColumns]) -> tuple[str, ...]:
    """The sources of all numbers that the table shows; [1] in the table is the first."""
    shown_numbers = [
        number
        for benchmark in benchmarks
        for numbers in matching(rows, benchmark).values()
        for number in numbers
    ]
    return tuple(
        dict.fromkeys(number.reference for number in published() if number in shown_numbers)
    )
