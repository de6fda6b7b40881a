"""A study's records as pandas frames: grades, stages, drops, training logs. Reads files only, never
a model or a benchmark.

A stage counts only with its ``DONE``. What is missing is listed, in words; it never becomes a zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_json
from harness.errors import UserError
from harness.reporting.stored import Stored, opened

_SETTING = re.compile(r"(.+) ([A-Za-z_][\w.]*)=(.*)")
GRADE_KEYS = ["label", "seed", "round", "benchmark"]
SHOWN = {
    "chair_s": "CHAIR-s",
    "chair_i": "CHAIR-i",
    "chair": "CHAIR",
    "pope": "POPE",
    "vqa": "VQA",
    "f1": "F1",
}
SHOWN |= {
    "coco": "COCO",
    "amber_d": "AMBER-d",
    "amber_g": "AMBER-g",
    "mme": "MME",
    "repope": "RePOPE",
    "mmhal": "MMHal",
}


def shown(name: str) -> str:
    """A metric's or benchmark's name as the field writes it: ``yes_ratio`` is yes ratio,
    ``chair_s`` CHAIR-s."""
    return SHOWN.get(name) or " ".join(SHOWN.get(word, word) for word in name.split("_"))


@dataclass(frozen=True, kw_only=True)
class BenchmarkColumns:
    """A benchmark's part of the table: its metrics as ``study.json`` declares them, primary marks
    included."""

    name: str
    group: str
    version: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: one label, its planned training seeds and its last round (0: nothing is
    trained).

    ``role``: baseline, method (a claim), bound (sees more than a method may), control (a method
    with one thing taken from it) or derived (computed from the baseline's own answers,
    harness/pipeline/matched_baselines.py); ``of`` names the row that a control or derived row is
    held against. ``benchmarks``: those it is graded on; empty: all."""

    label: str
    base: str
    method: str
    pool: str
    needs: tuple[str, ...]
    images: int
    rounds: int
    seeds: tuple[int, ...]
    role: str = "method"
    of: str | None = None
    benchmarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> tuple[str, str, str] | None:
        """(row, field, value) where the label is one of ``vary``'s, such as ``sena
        noise_step=200``: that row with one setting changed."""
        found = _SETTING.fullmatch(self.label)
        return (found[1], found[2], found[3]) if found else None

    def value_of(self, path: str) -> str | None:
        """The row's own value of a field (``recipe.lr``), written as in a label; None where the
        study does not tell."""
        part: Any = self.settings
        for name in path.split("."):
            if not isinstance(part, Mapping) or name not in part:
                return None
            part = part[name]
        return _written(part)

    def covers(self, benchmark: str) -> bool:
        """Whether the row is graded on this benchmark at all."""
        return not self.benchmarks or benchmark in self.benchmarks

    @property
    def supervision(self) -> str:
        """What the method sees beside the model itself."""
        if self.rounds == 0:
            return "none (not trained)"
        said = {
            "image": "images",
            "question": "questions",
            "reference": "reference answers",
            "scorer": "image-text scorer",
        }
        # "judge": the name of "ground_truth" in older results folders.
        said |= {"ground_truth": "exact truth", "judge": "exact truth"}
        words = [word for need, word in said.items() if need in self.needs]
        return f"{words[0]} only" if len(words) == 1 else " + ".join(words) or "none"


def _written(value: Any) -> str:
    """A setting of ``study.json`` as ``vary`` writes it into a label."""
    if isinstance(value, list):
        return "+".join(map(_written, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_written(part)}" for name, part in value.items())
    return re.sub(r"[^A-Za-z0-9 ._=,+-]+", "-", str(value)).strip()


@dataclass(frozen=True, kw_only=True)
class Records:
    """Everything the tables and figures are made of.

    ``grades``: a row a graded question: label, seed, round, benchmark, question, cluster, value
    (nan: unscored), ``count_*``.
    ``stages``: a row a trained round: label, seed, round, images, pairs, dropped, used, steps,
    tokens_generated, tokens_trained, seconds_pairs, seconds_train; nan where that stage is not
    finished. ``drops``: label, seed, round, reason, count. ``log``: the lines of
    ``train/log.jsonl`` with label, seed, round. ``missing``: what a finished study would have.
    ``facts``: sentences' material for the notes (versions, hardware, fingerprints; leakage.py and
    provenance.py add theirs)."""

    name: str
    question: str
    baseline: str
    split: str
    limit: int | None
    rows: tuple[Row, ...]
    benchmarks: tuple[BenchmarkColumns, ...]
    grades: pd.DataFrame
    stages: pd.DataFrame
    drops: pd.DataFrame
    log: pd.DataFrame
    missing: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def row(self, label: str) -> Row:
        return next(row for row in self.rows if row.label == label)

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows that are compared with the baseline."""
        return tuple(row for row in self.rows if row.label != self.baseline)


def read(out: Path) -> Records:
    """Every finished record below a results folder, whole or packed.

    Raises:
        UserError: there is no ``study.json``, it lacks a field, or a file is broken.
    """
    results = Results(out)
    if not results.study.is_file():
        raise UserError(
            f"{out} holds no study.json; give the folder of a study, as `python -m harness run`"
            " prints it."
        )
    study = read_json(results.study)
    try:
        benchmarks = tuple(_benchmark(entry) for entry in study["benchmarks"])
        name, question, baseline = (
            str(study["name"]),
            str(study["question"]),
            str(study["baseline"]),
        )
        rows = _rows(study["runs"], baseline)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{results.study} lacks {error} or has it in another form; run the study again with"
            " this version."
        ) from error
    missing: list[str] = []
    stored = opened(out)
    grades = _grades(results, stored, rows, benchmarks, missing)
    stages, drops, log = _trained(results, stored, rows, missing)
    return Records(
        name=name,
        question=question,
        baseline=baseline,
        split=str(study.get("split", "test")),
        limit=study.get("limit"),
        rows=rows,
        benchmarks=benchmarks,
        grades=grades,
        stages=stages,
        drops=drops,
        log=log,
        missing=tuple(missing),
        facts=_facts(results, stored, rows, benchmarks, baseline),
    )


def _benchmark(entry: Mapping[str, Any]) -> BenchmarkColumns:
    metrics = tuple(Metric(**metric) for metric in entry["metrics"])
    return BenchmarkColumns(
        name=entry["name"], group=entry["group"], version=entry["version"], metrics=metrics
    )


def _rows(runs: list[Mapping[str, Any]], baseline: str) -> tuple[Row, ...]:
    """One row a label, in the study's order; its runs differ in their seed alone."""
    found: dict[str, Row] = {}
    for run in runs:
        earlier = found.get(run["label"])
        role = run.get("role") or ("baseline" if run["label"] == baseline else "method")
        # Nothing is trained in round 0, so the untrained model has no training seed: it lies in
        # seed0 alone. What is derived from its answers follows a method's seeds.
        seed = int(run["seed"]) if run["rounds"] or role == "derived" else 0
        found[run["label"]] = Row(
            label=run["label"],
            base=run["base"],
            method=run["method"],
            pool=run["pool"],
            needs=tuple(run["needs"]),
            images=int(run["images"]),
            rounds=int(run["rounds"]),
            seeds=tuple(sorted({*(earlier.seeds if earlier else ()), seed})),
            role=str(role),
            of=run.get("of"),
            benchmarks=tuple(run.get("benchmarks") or ()),
            settings={
                **(run.get("settings") or {}),
                **{name: run.get(name) for name in ("images", "rounds", "steps", "base", "pool")},
            },
        )
    return tuple(found.values())


def _places(rows: tuple[Row, ...]) -> Iterator[tuple[Row, int, int]]:
    """Every planned (row, seed, round); round 0 alone for what is not trained."""
    for row in rows:
        for seed in row.seeds:
            for number in range(1, row.rounds + 1) if row.rounds else (0,):
                yield row, seed, number


def _grades(
    results: Results,
    stored: Stored,
    rows: tuple[Row, ...],
    benchmarks: tuple[BenchmarkColumns, ...],
    missing: list[str],
) -> pd.DataFrame:
    parts = []
    for row, seed, number in _places(rows):
        for benchmark in benchmarks:
            if not row.covers(benchmark.name):
                continue
            folder = results.grades(row.label, seed, number, benchmark.name)
            where = f"{row.label}, seed {seed}, round {number}: {benchmark.name}"
            if not stored.done(folder):
                if number == row.rounds:  # earlier rounds may be graded, and need not be
                    missing.append(f"{where} is not graded yet")
                continue
            version = (stored.identity(folder) or {}).get("version")
            if version != benchmark.version:
                # A column never mixes two versions.
                missing.append(
                    f"{where} was graded by version {version}, the study asks for"
                    f" {benchmark.version}"
                )
                continue
            frame = stored.grades(folder)
            parts.append(
                frame.assign(label=row.label, seed=seed, round=number, benchmark=benchmark.name)
            )
    if not parts:
        return pd.DataFrame(columns=[*GRADE_KEYS, "question", "cluster", "value"])
    joined = pd.concat(parts, ignore_index=True)
    counts = [name for name in joined.columns if name.startswith("count_")]
    joined[counts] = joined[counts].fillna(
        0.0
    )  # another benchmark's counts, not a missing one of its own
    return joined[[*GRADE_KEYS, "question", "cluster", "value", *counts]]


STAGES = [
    "label",
    "seed",
    "round",
    "images",
    "pairs",
    "dropped",
    "used",
    "steps",
    "tokens_generated",
    "tokens_trained",
]
STAGES += ["seconds_pairs", "seconds_train"]


def _trained(
    results: Results, stored: Stored, rows: tuple[Row, ...], missing: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    stages, drops, log = [], [], []
    for row, seed, number in _places(rows):
        if number == 0:
            continue
        place: dict[str, Any] = {"label": row.label, "seed": seed, "round": number}
        stage = dict(place)
        where = f"{row.label}, seed {seed}, round {number}:"
        pairs, train = (
            results.pairs(row.label, seed, number),
            results.train(row.label, seed, number),
        )
        if stored.done(pairs):
            record = _record(stored, pairs)
            counts = record["counts"]
            stage |= {
                "images": counts["images"],
                "pairs": counts["pairs"],
                "dropped": counts["dropped"],
            }
            stage |= {
                "tokens_generated": record["tokens"] or None,
                "seconds_pairs": record["seconds"],
            }
            drops += [
                {**place, "reason": reason, "count": count}
                for reason, count in counts["drops_by_reason"].items()
            ]
        else:
            missing.append(f"{where} its pairs are not made yet")
        if stored.done(train):
            record = _record(stored, train)
            training = record["training"]
            stage |= {"used": training["pairs_used"], "steps": training["steps"]}
            stage |= {"tokens_trained": training["tokens"], "seconds_train": record["seconds"]}
            log += [{**line, **place} for line in stored.log(train)]
        elif stage.get("pairs") == 0:
            missing.append(f"{where} it made no pair to train on")
        else:
            missing.append(f"{where} it is not trained yet")
        stages.append(stage)
    return (
        pd.DataFrame(stages, columns=STAGES),
        pd.DataFrame(drops, columns=["label", "seed", "round", "reason", "count"]),
        (
            pd.DataFrame(log)
            if log
            else pd.DataFrame(columns=["label", "seed", "round", "step", "loss"])
        ),
    )


def _record(stored: Stored, folder: Path) -> dict[str, Any]:
    record = stored.record(folder)
    if record is None:
        raise UserError(
            f"{folder} is finished but has no record.json; delete that folder and run again."
        )
    return record


def _facts(
    results: Results,
    stored: Stored,
    rows: tuple[Row, ...],
    benchmarks: tuple[BenchmarkColumns, ...],
    baseline: str,
) -> dict[str, tuple[str, ...]]:
    """Versions, hardware, pools, the base's fingerprint, images that could not be read, each
    once."""
    found: dict[str, dict[str, None]] = {
        name: {} for name in ("base", "versions", "hardware", "pool", "unreadable")
    }

    def say(fact: str, text: str) -> None:
        found[fact][text] = None

    base = next(row.base for row in rows if row.label == baseline)
    for row in rows:
        # A ready-made checkpoint is a row on weights of its own: say which.
        for benchmark in benchmarks if row.label == baseline or row.base != base else ():
            identity = stored.identity(results.answers(row.label, 0, 0, benchmark.name))
            if identity is not None:
                whose = "" if row.label == baseline else f"{row.label}: "
                say(
                    "base",
                    f"{whose}{row.base}, fingerprint {str(identity.get('model', 'unknown'))[:12]}",
                )
    for folder in stored.stages():
        record = stored.record(folder) if stored.done(folder) else None
        if record is None or folder.is_relative_to(results.out / "questions"):
            continue
        say(
            "versions",
            ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
        )
        say(
            "hardware",
            ", ".join(
                f"{name.replace('_', ' ')} {value}"
                for name, value in record.get("hardware", {}).items()
            ),
        )
        if pool := record.get("pool"):
            say("pool", str(pool["name"]))
            for broken in record["counts"].get("unreadable_images", ()):
                say("unreadable", f"{broken['id']} ({broken['why']})")
    return {name: tuple(text for text in texts if text) for name, texts in found.items()}
