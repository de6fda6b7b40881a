"""Matched baselines: rows computed from the baseline's stored answers, without training. They show
how much of a method's gain comes from its caption length or its share of "yes" alone.

``untrained at sena length``: the untrained model's captions, cut to the same mean length as sena's.
Shorter captions alone can hallucinate less. ``untrained at sena yes-ratio``: the untrained model's
yes/no answers, with the threshold on its log-probabilities moved until it answers yes as often as
sena among the readable answers; an unreadable answer stays unreadable. The benchmark grades both,
once per training seed of the method. Rows with a varied setting have no matched baseline."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.interface import Benchmark, Metric
from harness.reporting.stored import read_parquet
from harness.study.study import Run, Study

Match = Literal["length", "yes-ratio"]

CAPS = (8, 16, 24, 32, 48, 64)
"""Numbers of words at which captions are cut, to show metrics as a function of length."""

METRICS: Mapping[Match, str] = {"length": "words", "yes-ratio": "yes_ratio"}
"""The metric in which a matched baseline equals the method."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # a word as the caption graders count them


@dataclass(frozen=True, kw_only=True)
class MatchedBaseline:
    """A matched baseline for one row and seed: the baseline's answers, changed to match ``run``, on
    the benchmarks that have the matched metric."""

    run: Run
    baseline: Run
    kind: Match
    benchmarks: tuple[Benchmark, ...]

    @property
    def label(self) -> str:
        return f"{self.baseline.label} at {self.run.label} {self.kind}"

    @property
    def source(self) -> Literal["answer", "choices"]:
        """The baseline's stage from which the answers are computed."""
        return "answer" if self.kind == "length" else "choices"


def matched_metric(benchmark: Benchmark, kind: Match) -> Metric | None:
    """The metric that is matched. None if the benchmark lacks it: its answers are not captions, or
    not all of its questions are yes/no questions."""
    named = (metric for metric in benchmark.metrics if metric.name == METRICS[kind])
    return next(
        (metric for metric in named if kind != "length" or metric.denominator == "captions"), None
    )


def planned(study: Study) -> list[MatchedBaseline]:
    """All matched baselines of a study's methods and reference rows, in the order of the rows."""
    baseline = next(run for run in study.runs if run.label == study.baseline)
    runs = [
        run
        for run in study.runs
        if run.last and study.role(run) in ("method", "reference") and run.varied is None
    ]
    matched_baselines = []
    for kind in METRICS:
        matching = tuple(
            benchmark for benchmark in study.benchmarks if matched_metric(benchmark, kind)
        )
        if matching:
            matched_baselines += [
                MatchedBaseline(run=run, baseline=baseline, kind=kind, benchmarks=matching)
                for run in runs
            ]
    return matched_baselines


def weighed(study: Study) -> frozenset[str]:
    """The benchmarks on which the baseline's log-probabilities of yes and no are needed."""
    return frozenset(
        benchmark.name
        for matched in planned(study)
        if matched.source == "choices"
        for benchmark in matched.benchmarks
    )


def study_json(study: Study) -> dict[str, Any]:
    """The content of ``study.json``: the study's own runs, then its matched baselines."""
    content = study.as_json()
    baseline = next(run for run in content["runs"] if run["label"] == study.baseline)
    for matched in planned(study):
        row = {
            "label": matched.label,
            "seed": matched.run.seed,
            "role": "matched",
            "of": matched.run.label,
            "benchmarks": [benchmark.name for benchmark in matched.benchmarks],
        }
        content["runs"].append({**baseline, **row})
    return content


def cut(captions: Mapping[str, str], mean: float) -> dict[str, str]:
    """Captions cut to the same share of their words, so that they have ``mean`` words on average.

    A fractional number of words is rounded at random (seeded by the caption's id), so the total is
    at most one word from its target. Each caption keeps at least one word. If the mean is already
    small enough, the captions stay as they are."""
    lengths = {id: len(_WORD.findall(caption)) for id, caption in captions.items()}
    filled = {id: length for id, length in lengths.items() if length}
    total = mean * len(filled)
    if sum(filled.values()) <= total:
        return dict(captions)

    def kept(share: float) -> dict[str, int]:
        return {id: max(1, math.floor(share * length + _draw(id))) for id, length in filled.items()}

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) <= total else (low, middle)
    return {**captions, **{id: first_words(captions[id], words) for id, words in kept(low).items()}}


def first_words(text: str, words: int) -> str:
    """The first ``words`` words of the text; a shorter text stays as it is."""
    ends = [word.end() for word in _WORD.finditer(text)]
    return text if len(ends) <= words else text[: ends[words - 1]]


def longest(captions: Mapping[str, str]) -> int:
    """Words of the longest caption."""
    return max((len(_WORD.findall(caption)) for caption in captions.values()), default=0)


def _draw(id: str) -> float:
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:6], "big") / 2**48


def shift(margins: Mapping[str, float], share: float) -> dict[str, str]:
    """Answers "yes" to the ``share`` of questions with the largest ``margins``, "no" to the others.
    A margin is log p(yes) - log p(no), in nats."""
    leading = sorted(margins, key=lambda id: (-margins[id], id))
    yes = set(leading[: round(share * len(margins))])
    return {id: "yes" if id in yes else "no" for id in margins}


def unreadable(grades: Path, metric: Metric) -> frozenset[str]:
    """The questions whose answer the matched metric does not count, from the grades' folder."""
    frame = read_parquet(grades / "grades.parquet")
    counted = frame[f"count_{metric.denominator}"].fillna(0) > 0
    return frozenset(map(str, frame.loc[~counted, "question"]))


def target(grades: Path, metric: Metric) -> float:
    """A method's value of the matched metric, from its folder of grades: words per caption, or the
    share of yes among the readable answers."""
    frame = read_parquet(grades / "grades.parquet")
    below = float(frame[f"count_{metric.denominator}"].sum())
    return float(frame[f"count_{metric.numerator}"].sum()) / below if below else 0.0
