"""Rows computed from stored answers, without training: how much of a method's gain would its
caption length, or its share of "yes", have bought alone?

``untrained at sena length`` is the untrained model's captions, cut until they are as long as sena's
on average (shorter captions alone hallucinate less). ``untrained at sena yes-ratio`` is the
untrained model's yes/no answers with the threshold between its own log-probabilities moved until it
says yes as often as sena. Both are graded by the benchmark itself, a training seed of the method at
a time. A setting of an ablation (a label with ``=``) gets none."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from benchmarks.interface import Benchmark, Metric
from harness.artifacts.results_folder import Results, Stage, read_jsonl, write_bytes, write_jsonl
from harness.pipeline import stage_identity, stages
from harness.pipeline.stages import Progress, grades_frame, quiet
from harness.pipeline.steps import Step
from harness.study.study import Run, Study
from methods.interface import VLM

Kind = Literal["length", "yes-ratio"]
CAPS = (8, 16, 24, 32, 48, 64)
"""Words at which captions are cut to see a metric against length."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # a word as the caption graders count them


@dataclass(frozen=True, kw_only=True)
class Derived:
    """One row and seed: the baseline's answers made like ``run``'s, on the benchmarks where that
    means something."""

    run: Run
    baseline: str
    kind: Kind
    benchmarks: tuple[Benchmark, ...]

    @property
    def label(self) -> str:
        return f"{self.baseline} at {self.run.label} {self.kind}"


YES_NO = ("yes", "no")
MATCHED: Mapping[Kind, str] = {"length": "words", "yes-ratio": "yes_ratio"}


def matched(benchmark: Benchmark, kind: Kind) -> Metric | None:
    """The metric whose value the derived row has in common with the method; None where the
    benchmark has none: its answers are no captions, its questions not all to be answered with yes
    or no."""
    named = (metric for metric in benchmark.metrics if metric.name == MATCHED[kind])
    return next(
        (metric for metric in named if kind != "length" or metric.denominator == "captions"), None
    )


def planned(study: Study) -> list[Derived]:
    """Every derived row and seed of a study: for its methods and its bounds, in their order."""
    return [
        Derived(run=run, baseline=study.baseline, kind=kind, benchmarks=benchmarks)
        for kind in MATCHED
        if (benchmarks := tuple(one for one in study.benchmarks if matched(one, kind)))
        for run in study.runs
        if run.last and study.role(run) in ("method", "bound") and not is_setting(run.label)
    ]


def is_setting(label: str) -> bool:
    """Whether the label is one of ``vary``'s: a method with one of its settings changed."""
    return "=" in label


def study_json(study: Study) -> dict[str, Any]:
    """What ``study.json`` holds: the study's own runs, then its derived ones."""
    said = study.as_json()
    by_label = {run["label"]: run for run in said["runs"]}
    for one in planned(study):
        base = {
            **by_label[study.baseline],
            "label": one.label,
            "seed": one.run.seed,
            "role": "derived",
            "of": one.run.label,
        }
        said["runs"].append(
            {**base, "benchmarks": [benchmark.name for benchmark in one.benchmarks]}
        )
    return said


def cut(captions: Mapping[str, str], mean: float) -> dict[str, str]:
    """The captions with the same share of each one's words, from its beginning, so that they have
    ``mean`` words on average.

    The share that falls on part of a word is rounded by a draw from the caption's id, so that the
    mean is met to one word of the whole corpus. Each keeps at least one word; captions that are
    short enough already stay as they are."""
    lengths = {id: len(_WORD.findall(caption)) for id, caption in captions.items()}
    said = {id: length for id, length in lengths.items() if length}
    wanted = mean * len(said)
    if sum(said.values()) <= wanted:
        return dict(captions)

    def kept(share: float) -> dict[str, int]:
        return {id: max(1, math.floor(share * length + _draw(id))) for id, length in said.items()}

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) <= wanted else (low, middle)
    return {**captions, **{id: first_words(captions[id], words) for id, words in kept(low).items()}}


def first_words(text: str, words: int) -> str:
    """The text up to the end of its ``words``-th word; a text with fewer stays as it is."""
    places = [found.end() for found in _WORD.finditer(text)]
    return text if len(places) <= words else text[: places[words - 1]]


def _draw(id: str) -> float:
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:6], "big") / 2**48


def shift(margins: Mapping[str, float], share: float) -> dict[str, str]:
    """Yes for that ``share`` of the questions where it leads no by most (log-probability, nats), no
    for the others."""
    leading = sorted(margins, key=lambda id: (-margins[id], id))
    yes = set(leading[: round(share * len(margins))])
    return {id: "yes" if id in yes else "no" for id in margins}


def target(grades: Path, metric: Metric) -> float:
    """A method's value of the matched metric, from its grades: words a caption, or the share of yes
    among the answers read."""
    frame = pd.read_parquet(grades / "grades.parquet")
    below = float(frame[f"count_{metric.denominator}"].sum())
    return float(frame[f"count_{metric.numerator}"].sum()) / below if below else 0.0


def derive(stage: Stage, *, kind: Kind, source: Path, grades: Path, metric: Metric) -> None:
    """Write the derived row's ``answers.jsonl`` from the baseline's stored answers (``source``: its
    answers, or the stored log-probabilities of both choices) and the method's value of the metric
    to match."""
    stage.open()
    wanted = target(grades, metric)
    if kind == "length":
        made = cut(
            {row["id"]: row["answer"] for row in read_jsonl(source / "answers.jsonl")}, wanted
        )
    else:
        made = shift(
            {row["id"]: row["margin"] for row in read_jsonl(source / "choices.jsonl")}, wanted
        )
    write_jsonl(
        stage.folder / "answers.jsonl",
        [{"id": id, "answer": answer} for id, answer in made.items()],
    )
    stage.finish({"stage": "derive", "counts": {"questions": len(made)}, "target": wanted})


def grade_at_caps(
    stage: Stage, *, benchmark: Benchmark, answers: Path, progress: Progress = quiet
) -> None:
    """Grade stored captions cut at each of ``CAPS`` words, as far as one is longer; writes
    ``caps.parquet``: a row a caption and cap (``cap`` 0: as it was written), with the counts of its
    grade."""
    stage.open()
    captions = {row["id"]: row["answer"] for row in read_jsonl(answers / "answers.jsonl")}
    longest = max((len(_WORD.findall(caption)) for caption in captions.values()), default=0)
    parts = []
    for cap in (*(cap for cap in CAPS if cap < longest), 0):
        cut_here = {
            id: first_words(caption, cap) if cap else caption for id, caption in captions.items()
        }
        frame = grades_frame(benchmark.grade(cut_here))
        frame = frame[
            ["question", "cluster", *(name for name in frame.columns if name.startswith("count_"))]
        ]
        parts.append(frame.assign(cap=cap))
        progress("captions", len(parts) * len(captions), 0)
    content = io.BytesIO()
    pd.concat(parts, ignore_index=True).to_parquet(content, index=False, compression="zstd")
    write_bytes(stage.folder / "caps.parquet", content.getvalue())
    stage.finish()


def caps_steps(
    results: Results, run: Run, answers: Stage, benchmark: Benchmark, title: str
) -> list[Step]:
    """Grading captions again at several lengths; nothing for other benchmarks and for settings of
    an ablation."""
    if matched(benchmark, "length") is None or is_setting(run.label):
        return []
    identity = stage_identity.caps_identity(answers.identity, benchmark, CAPS)
    stage = Stage(results.caps(run.label, run.seed, run.last, benchmark.name), identity)

    def work(progress: Progress) -> None:
        grade_at_caps(stage, benchmark=benchmark, answers=answers.folder, progress=progress)

    name = f"{title}: grade {benchmark.name} at several lengths"
    inputs = (answers.folder,)
    return [
        Step(
            title=name,
            kind="grade",
            name=benchmark.name,
            base=None,
            items=None,
            stage=stage,
            work=work,
            inputs=inputs,
        )
    ]


def choices_steps(
    results: Results,
    run: Run,
    answers: Stage,
    benchmark: Benchmark,
    title: str,
    engine: Callable[[], VLM],
    inputs: tuple[Path, ...],
) -> list[Step]:
    """The baseline's log-probabilities of yes and no where every question asks for one of them;
    nothing for other benchmarks.
    ``inputs``: what its model is made by."""
    if matched(benchmark, "yes-ratio") is None:
        return []
    stage = Stage(
        results.choices(run.label, run.seed, run.last, benchmark.name),
        stage_identity.choices_identity(answers.identity, YES_NO),
    )
    questions = results.questions(benchmark.name)
    items = len(read_jsonl(path)) if (path := questions / "questions.jsonl").exists() else None

    def work(progress: Progress) -> None:
        stages.weigh(stage, vlm=engine(), questions=questions, choices=YES_NO, progress=progress)

    name = f"{title}: weigh {' and '.join(YES_NO)} in {benchmark.name}"
    return [
        Step(
            title=name,
            kind="choices",
            name=benchmark.name,
            base=run.base,
            items=items,
            stage=stage,
            work=work,
            inputs=inputs,
        )
    ]


def steps(
    study: Study, results: Results, answers: Mapping[tuple[str, str, int], Stage]
) -> list[Step]:
    """Every derived row's answers and grades; ``answers`` are the runs' own, by label, benchmark
    and seed, last round."""
    return [
        step
        for one in planned(study)
        for benchmark in one.benchmarks
        for step in _derived(one, benchmark, results, answers)
    ]


def _derived(
    one: Derived,
    benchmark: Benchmark,
    results: Results,
    answers: Mapping[tuple[str, str, int], Stage],
) -> list[Step]:
    name, run, metric = benchmark.name, one.run, matched(benchmark, one.kind)
    assert metric is not None  # planned where there is one
    method = answers[run.label, name, run.seed]
    source = next(
        stage for (label, of, _), stage in answers.items() if (label, of) == (one.baseline, name)
    )
    if one.kind == "yes-ratio":
        source = Stage(
            source.folder.parents[1] / "choices" / name,
            stage_identity.choices_identity(source.identity, YES_NO),
        )
    where = (one.label, run.seed, 0, name)
    made = Stage(
        results.answers(*where),
        stage_identity.derived_identity(one.kind, source.identity, method.identity, benchmark),
    )
    grades = Stage(results.grades(*where), stage_identity.grade_identity(made.identity, benchmark))

    def make(_progress: Progress) -> None:
        graded = results.grades(run.label, run.seed, run.last, name)
        derive(made, kind=one.kind, source=source.folder, grades=graded, metric=metric)

    def mark(_progress: Progress) -> None:
        stages.grade(grades, benchmark=benchmark, answers=made.folder)

    title = f"{one.label}, seed {run.seed}"
    return [
        Step(
            title=f"{title}: {name}",
            kind="derive",
            name=name,
            base=None,
            items=None,
            stage=made,
            work=make,
            inputs=(method.folder, source.folder),
        ),
        Step(
            title=f"{title}: grade {name}",
            kind="grade",
            name=name,
            base=None,
            items=None,
            stage=grades,
            work=mark,
            inputs=(made.folder,),
        ),
    ]
