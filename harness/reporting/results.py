"""A study's results as pandas frames, read from its files alone: grades, trained rounds, dropped
prompts, training logs.

A stage counts only when it is finished. A missing stage is listed in words; it never becomes a
zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from benchmarks.interface import Direction, Metric
from harness.artifacts.stored_files import cure
from harness.errors import UserError
from harness.reporting.counts import Counts, all_counts
from harness.reporting.stored import Stored, open_stored
from harness.reporting.study_file import bad_study
from harness.reporting.study_row import Row, VariedSetting, setting_text

GRADE_KEYS = ["label", "seed", "round", "benchmark"]
ROUND_KEYS = ["label", "seed", "round"]
ROUND_COLUMNS = [
    *ROUND_KEYS,
    *("images", "pairs", "dropped", "used", "steps", "tokens_generated", "tokens_trained"),
    *("seconds_pairs", "seconds_train"),
]


@dataclass(frozen=True, kw_only=True)
class BenchmarkColumns:
    """A benchmark's part of the table: its metrics as ``study.json`` declares them."""

    name: str
    group: str
    version: str
    metrics: tuple[Metric, ...]

    def metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Everything that tables and figures are made of.

    ``grades``: a line a graded question: label, seed, round, benchmark, question, cluster (image),
    value (nan: unscored), ``count_*``.
    ``rounds``: a line a trained round: label, seed, round, images, pairs, dropped, used, steps,
    tokens_generated, tokens_trained, seconds_pairs, seconds_train; nan where a stage is not
    finished.
    ``drops``: label, seed, round, reason, count. ``log``: the lines of ``train/log.jsonl`` with
    label, seed, round. ``missing``: sentences about stages that are not finished. ``facts``: texts
    for the notes by subject (versions, hardware, fingerprints, leaks)."""

    stored: Stored
    """The folder that they were read from."""
    name: str
    question: str
    baseline: str
    split: str
    limit: int | None
    rows: tuple[Row, ...]
    benchmarks: tuple[BenchmarkColumns, ...]
    grades: pd.DataFrame
    rounds: pd.DataFrame
    drops: pd.DataFrame
    log: pd.DataFrame
    missing: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def row(self, label: str) -> Row:
        return next(row for row in self.rows if row.label == label)

    def benchmark(self, name: str) -> BenchmarkColumns:
        return next(benchmark for benchmark in self.benchmarks if benchmark.name == name)

    @cached_property
    def counts(self) -> dict[tuple[str, int, str], Counts]:
        """The sums behind every metric, by label, round and benchmark."""
        return all_counts(self.grades)

    @property
    def base_row(self) -> Row:
        """The row of the baseline."""
        return self.row(self.baseline)

    @property
    def compared(self) -> tuple[Row, ...]:
        """The rows that are compared with the baseline."""
        return tuple(row for row in self.rows if row.label != self.baseline)


def load_results(out: Path) -> StudyResults:
    """Read a results folder, whole or packed.

    Raises:
        UserError: there is no ``study.json``, it lacks a field, or a file is broken.
    """
    stored = open_stored(out)
    study = stored.study()
    try:
        name, question, baseline = (str(study[key]) for key in ("name", "question", "baseline"))
        benchmarks = tuple(_benchmark(entry) for entry in study["benchmarks"])
        rows = _rows(study["runs"], baseline)
        _check(rows, baseline, benchmarks)
    except (KeyError, TypeError) as error:
        raise bad_study(stored.results, error) from error
    missing: list[str] = []
    grades = _grades_frame(stored, rows, benchmarks, missing)
    rounds, drops, log = _training_frames(stored, rows, missing)
    return StudyResults(
        stored=stored,
        name=name,
        question=question,
        baseline=baseline,
        split=str(study.get("split", "test")),
        limit=study.get("limit"),
        rows=rows,
        benchmarks=benchmarks,
        grades=grades,
        rounds=rounds,
        drops=drops,
        log=log,
        missing=tuple(missing),
        facts=_facts(stored, rows, benchmarks, baseline),
    )


def _check(rows: Sequence[Row], baseline: str, benchmarks: Sequence[BenchmarkColumns]) -> None:
    """
    Raises:
        TypeError: no row with one seed is the baseline, a name occurs twice, or a metric cannot be
            computed.
    """
    if [len(row.seeds) for row in rows if row.label == baseline] != [1]:
        raise TypeError(f"the baseline {baseline!r} as one model among its rows")
    names = [benchmark.name for benchmark in benchmarks]
    names += [
        f"{benchmark.name}'s {metric.name}"
        for benchmark in benchmarks
        for metric in benchmark.metrics
    ]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise TypeError(f"one {twice[0]}")
    for metric in (metric for benchmark in benchmarks for metric in benchmark.metrics):
        if metric.better not in get_args(Direction) or not isinstance(metric.scale, int | float):
            raise TypeError(f"{metric.name}'s direction and scale")


def _benchmark(entry: Mapping[str, Any]) -> BenchmarkColumns:
    fields = {name: entry[name] for name in ("name", "group", "version")}
    return BenchmarkColumns(
        **fields, metrics=tuple(Metric(**metric) for metric in entry["metrics"])
    )


def _rows(runs: list[Mapping[str, Any]], baseline: str) -> tuple[Row, ...]:
    """One row a label, in the study's order; runs of one label differ in their seed alone."""
    rows: dict[str, Row] = {}
    for run in runs:
        label = run["label"]
        role = "baseline" if label == baseline else str(run.get("role") or "method")
        # The untrained model has no training seed; its folder is seed0. A matched row has the
        # seeds of the method that it is matched to.
        seed = int(run["seed"]) if run["rounds"] or role == "matched" else 0
        seeds = {*(rows[label].seeds if label in rows else ()), seed}
        varied = run.get("varied")
        rows[label] = Row(
            **{name: run[name] for name in ("label", "base", "method", "pool")},
            needs=tuple(run["needs"]),
            images=int(run["images"]),
            rounds=int(run["rounds"]),
            seeds=tuple(sorted(seeds)),
            role=role,
            of=run.get("of"),
            trainer=run.get("trainer", "own"),
            benchmarks=tuple(run.get("benchmarks") or ()),
            settings={
                **(run.get("settings") or {}),
                **{name: run.get(name) for name in ("images", "rounds", "steps", "base", "pool")},
            },
            varied=varied
            and VariedSetting(varied["row"], varied["field"], setting_text(varied["value"])),
        )
    return tuple(rows.values())


def _planned_rounds(rows: tuple[Row, ...]) -> Iterator[tuple[Row, int, int]]:
    """Every (row, seed, round)."""
    for row in rows:
        for seed in row.seeds:
            for number in row.round_numbers:
                yield row, seed, number


def _grades_frame(
    stored: Stored,
    rows: tuple[Row, ...],
    benchmarks: Sequence[BenchmarkColumns],
    missing: list[str],
) -> pd.DataFrame:
    frames = []
    for row, seed, number in _planned_rounds(rows):
        for benchmark in (item for item in benchmarks if row.covers(item.name)):
            keys = (row.label, seed, number, benchmark.name)
            stage = stored.results.grades(*keys)
            where = f"{row.label}, seed {seed}, round {number}: {benchmark.name}"
            if not stored.done(stage):
                if number == row.rounds:  # grading earlier rounds is optional
                    missing.append(f"{where} is not graded yet")
            elif (version := (stored.identity(stage) or {}).get("version")) != benchmark.version:
                # A column never mixes two versions of a grader.
                missing.append(
                    f"{where} was graded by version {version}, the study asks for"
                    f" {benchmark.version}"
                )
            else:
                named: dict[str, Any] = dict(zip(GRADE_KEYS, keys, strict=True))
                frames.append(stored.grades(stage).assign(**named))
    if not frames:
        return pd.DataFrame(columns=[*GRADE_KEYS, "question", "cluster", "value"])
    joined = pd.concat(frames, ignore_index=True)
    counts = [name for name in joined.columns if name.startswith("count_")]
    # A count that a benchmark does not have is zero in its lines.
    joined[counts] = joined[counts].fillna(0.0)
    return joined[[*GRADE_KEYS, "question", "cluster", "value", *counts]]


def _training_frames(
    stored: Stored, rows: tuple[Row, ...], missing: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rounds, drops, log = [], [], []
    for row, seed, number in _planned_rounds(rows):
        if number == 0:
            continue
        keys: dict[str, Any] = dict(zip(ROUND_KEYS, (row.label, seed, number), strict=True))
        line = dict(keys)
        where = f"{row.label}, seed {seed}, round {number}:"
        pairs = stored.results.pairs(row.label, seed, number)
        train = stored.results.train(row.label, seed, number)
        if stored.done(pairs):
            record = finished_record(stored, pairs)
            counts = record["counts"]
            line |= {name: counts[name] for name in ("images", "pairs", "dropped")}
            line["tokens_generated"] = record["tokens"] or None
            line["seconds_pairs"] = record["seconds"]
            reasons = counts["drops_by_reason"].items()
            drops += [{**keys, "reason": reason, "count": count} for reason, count in reasons]
        else:
            missing.append(f"{where} its pairs are not made yet")
        if stored.done(train):
            record = finished_record(stored, train)
            training = record["training"]
            line |= {"used": training["pairs_used"], "steps": training["steps"]}
            line |= {"tokens_trained": training["tokens"], "seconds_train": record["seconds"]}
            log += [{**step, **keys} for step in stored.log(train)]
        elif reason := stored.ended(train):
            missing.append(f"{where} it could not be trained ({reason})")
        elif line.get("pairs") == 0:
            missing.append(f"{where} it made no pair to train on")
        else:
            missing.append(f"{where} it is not trained yet")
        rounds.append(line)
    return (
        pd.DataFrame(rounds, columns=ROUND_COLUMNS),
        pd.DataFrame(drops, columns=[*ROUND_KEYS, "reason", "count"]),
        pd.DataFrame(log) if log else pd.DataFrame(columns=[*ROUND_KEYS, "step", "loss"]),
    )


def finished_record(stored: Stored, stage: Path) -> dict[str, Any]:
    """The record of a finished stage.

    Raises:
        UserError: it has none.
    """
    record = stored.record(stage)
    if record is None:
        raise UserError(f"{stage} is finished but has no record.json; {cure(stage)}")
    return record


def _facts(
    stored: Stored, rows: tuple[Row, ...], benchmarks: Sequence[BenchmarkColumns], baseline: str
) -> dict[str, tuple[str, ...]]:
    """Versions, hardware, pools, fingerprints of bases, and odd images; each once."""
    names = ("base", "versions", "hardware", "pool", "unreadable", "treated", "as stored")
    facts: dict[str, list[str]] = {name: [] for name in names}
    base = next(row.base for row in rows if row.label == baseline)
    for row in rows:
        # A row on other weights than the baseline's is named with them.
        for benchmark in benchmarks if row.label == baseline or row.base != base else ():
            identity = stored.identity(stored.results.answers(row.label, 0, 0, benchmark.name))
            if identity is not None:
                owner = "" if row.label == baseline else f"{row.label}: "
                sha = str(identity.get("model", "unknown"))[:12]
                facts["base"].append(f"{owner}{row.base}, fingerprint {sha}")
    for stage in stored.stages():
        record = stored.finished(stage)
        if record is None:
            continue
        if stage.is_relative_to(stored.results.out / "questions"):
            images = record["counts"].get("images_read_as_stored", {})
            if kinds := ", ".join(f"{kind} {images[kind]}" for kind in images):
                facts["as stored"].append(f"{stage.name} ({kinds})")
            continue
        for fact in ("versions", "hardware"):
            entries = record.get(fact, {}).items()
            facts[fact].append(", ".join(_fact_text(name, value) for name, value in entries))
        if pool := record.get("pool"):
            facts["pool"].append(str(pool["name"]))
            unreadable = record["counts"].get("unreadable_images", ())
            facts["unreadable"] += [f"{image['id']} ({image['why']})" for image in unreadable]
            treated = record["counts"].get("image_treatments", {})
            facts["treated"].append(", ".join(f"{treated[name]} {name}" for name in treated))
    return {name: tuple(filter(None, dict.fromkeys(texts))) for name, texts in facts.items()}


def _fact_text(name: str, value: object) -> str:
    """``torch 2.13.0``; memory with its unit."""
    return f"memory {value} GiB" if name == "memory_gib" else f"{name.replace('_', ' ')} {value}"
