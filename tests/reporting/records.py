"""Synthetic study folders, written as the harness writes them, to build tables and figures from
without a model.

Run ``python -m tests.reporting.records <folder>`` to look at one.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.grading import percent, ratio
from benchmarks.interface import Grade, Metric, report
from harness.artifacts.results_folder import Results, Stage, write_bytes, write_json, write_jsonl
from harness.reporting.comparison import MetricResult
from tests.edited_files import without_hashes

CAPTIONS = (
    percent("chair_s", "bad_captions", "captions", "lower", primary=True),
    percent("chair_i", "hallucinated", "mentions", "lower", primary=True),
    percent("recall", "found", "truth"),
    ratio("objects", "mentions", "captions", "none", unit="objects"),
    ratio("words", "words", "captions", "none", unit="words"),
)
EXISTENCE = (
    percent("accuracy", "right", "read", primary=True),
    percent("f1", "twice_tp", "twice_tp_fp_fn"),
    percent("yes_ratio", "said_yes", "read", "none"),
)
BENCHMARKS: Mapping[str, tuple[str, tuple[Metric, ...]]] = {
    "synthetic_chair": ("hallucination", CAPTIONS),
    "synthetic_pope": ("hallucination", EXISTENCE),
}
SEEDS = {"synthetic_chair": 11, "synthetic_pope": 10}
# How each row differs from the untrained model: (hallucination factor, recall, wrong-answer factor,
# yes bias).
ROWS: Mapping[str, tuple[float, float, float, float]] = {
    "untrained": (1.0, 0.86, 1.0, 0.0),
    "sena": (0.6, 0.84, 0.95, 0.0),
    "sima": (0.85, 0.85, 1.5, 0.15),
}
NEEDS = {"untrained": (), "sena": ("image",), "sima": ("image", "question")}
REASONS = (
    "answers are equal",
    "repeats a sentence",
    "exactly yes or no",
    "no question | none\nasked",
)


def grades(name: str, label: str, seed: int, round: int, images: int) -> list[Grade]:
    """A row's grades: every image has a difficulty of its own that all rows share."""
    strength = 0.5 * round if round else 1.0  # the second round is the full effect
    factor, recall, wrong, bias = ROWS[label]
    factor, wrong = 1 + strength * (factor - 1), 1 + strength * (wrong - 1)
    hard = np.random.default_rng(7).beta(0.6, 3.0, size=images)
    rng = np.random.default_rng([SEEDS[name], sum(map(ord, label)), seed, round])
    if name == "synthetic_chair":
        return [_caption(rng, image, h * factor, recall) for image, h in enumerate(hard)]
    return [
        _existence(rng, f"e{image}-{index}", image, index % 2 == 0, h * wrong, bias)
        for image, h in enumerate(hard)
        for index in range(4)
    ]


def _caption(
    rng: np.random.Generator, image: int, hallucination_rate: float, recall: float
) -> Grade:
    mentions, truth = 1 + int(rng.poisson(2.2)), 1 + int(rng.poisson(2.0))
    hallucinated, found = (
        int(rng.binomial(mentions, 0.6 * hallucination_rate)),
        int(rng.binomial(truth, recall)),
    )
    return Grade(
        question=f"c{image}",
        cluster=f"p{image}",
        value=float(not hallucinated),
        read_as="ball, cup",
        counts={
            "captions": 1,
            "mentions": mentions,
            "hallucinated": hallucinated,
            "truth": truth,
            "found": found,
            "words": 6 * mentions + 1,
            "bad_captions": float(hallucinated > 0),
        },
    )


def _existence(
    rng: np.random.Generator, key: str, image: int, truth: bool, errs: float, bias: float
) -> Grade:
    where = {"question": key, "cluster": f"p{image}"}
    if rng.random() < 0.01:
        return Grade(**where, value=None, read_as="unreadable", why="neither yes nor no")
    right = rng.random() > min(0.9, errs)
    yes = (truth == right) or rng.random() < bias
    right = yes == truth
    true_positive = truth and yes
    return Grade(
        **where,
        value=float(right),
        read_as="yes" if yes else "no",
        counts={
            "read": 1,
            "right": float(right),
            "said_yes": float(yes),
            "twice_tp": 2.0 * true_positive,
            "twice_tp_fp_fn": 2.0 * true_positive + (yes and not truth) + (truth and not yes),
        },
    )


def write_study(
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rounds: int = 1,
    images: int = 200,
    labels: Sequence[str] = ("untrained", "sena", "sima"),
    limit: int | None = None,
    absent: Sequence[str] = (),
    primary: bool = True,
) -> Path:
    """Write a study; ``absent`` names stage folders to leave out, such as
    ``"sima/seed1/round1/grades/synthetic_chair"``."""
    results = Results(out)
    runs = [
        {
            "label": label,
            "base": "tiny-llava",
            "method": label,
            "needs": list(NEEDS[label]),
            "settings": {},
            "recipe": None,
            "pool": "synthetic",
            "images": 600,
            "rounds": 0 if label == "untrained" else rounds,
            "seed": seed,
        }
        for label in labels
        for seed in ((0,) if label == "untrained" else seeds)
    ]
    benchmarks = [
        {
            "name": name,
            "group": group,
            "version": "1",
            "metrics": [
                asdict(replace(metric, primary=metric.primary and primary)) for metric in metrics
            ],
        }
        for name, (group, metrics) in BENCHMARKS.items()
    ]
    study = {
        "name": "compare",
        "question": "Do the methods make the base hallucinate less?",
        "baseline": "untrained",
        "split": "test",
        "limit": limit,
        "runs": runs,
        "benchmarks": benchmarks,
    }
    write_json(results.study, study)
    for name in BENCHMARKS:
        questions = [
            {"id": str(i), "cluster": f"p{i}", "max_new_tokens": 8, "images": [f"{i:064x}.png"]}
            for i in range(images)
        ]
        write_jsonl(results.questions(name) / "questions.jsonl", questions)
        hashes = [
            {"sha256": f"{index:064x}", "dhash": difference(index)} for index in range(images)
        ]
        write_jsonl(results.questions(name) / "images.jsonl", hashes)
    for run in runs:
        label, seed = str(run["label"]), int(str(run["seed"]))
        for number in range(1, rounds + 1) if label != "untrained" else (0,):
            where = (label, seed, number)
            stages: list[tuple[Path, dict[str, Any], str]] = []
            if number:
                stages.append((results.pairs(*where), _pairs(*where), ""))
                stages.append((results.train(*where), _train(*where), ""))
            for name, (_, metrics) in BENCHMARKS.items():
                grade_report = report(metrics, grades(name, *where, images))
                graded = {"grades": grade_report.grades, "values": grade_report.values}
                stages.append((results.answers(*where, name), {"model": "c0ffee" * 10}, name))
                stages.append((results.grades(*where, name), graded, name))
            for folder, content, name in stages:
                if folder.relative_to(out / "runs").as_posix() not in absent:
                    _finish(folder, content, name)
    return out


def _finish(folder: Path, content: Mapping[str, Any], name: str) -> None:
    """One finished stage: identity, the files the reports read, record, DONE."""
    stage = Stage(
        folder, {"format": 1, "version": "1", "benchmark": name, "model": content.get("model")}
    )
    stage.open()
    for file, lines in content.get("files", {}).items():
        write_jsonl(folder / file, lines)
    if "grades" in content:
        grades: Sequence[Grade] = content["grades"]
        names = sorted({key for grade in grades for key in grade.counts})
        frame = pd.DataFrame(
            {
                "question": [grade.question for grade in grades],
                "cluster": [grade.cluster for grade in grades],
                "value": pd.Series([grade.value for grade in grades], dtype="Float64"),
                "read_as": [grade.read_as for grade in grades],
                "why": [grade.why for grade in grades],
            }
            | {
                f"count_{key}": [float(grade.counts.get(key, 0.0)) for grade in grades]
                for key in names
            }
        )
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_bytes(folder / "grades.parquet", buffer.getvalue())
        unscored = sum(grade.value is None for grade in grades)
        write_json(
            folder / "report.json", {"values": dict(content["values"]), "unscored": unscored}
        )
    measured = {
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "hardware": {"processor": "Example CPU", "cores": 2},
    }
    stage.finish(
        {"seconds": 1.0, "tokens": 0, "counts": {}, **measured, **content.get("record", {})}
    )
    without_hashes(folder)  # tests change the files


def difference(index: int) -> str:
    """A perceptual hash of its own for each image: random bits, so that any two differ in about
    32."""
    return np.random.default_rng([5, index]).bytes(8).hex()


def _pairs(label: str, seed: int, round: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, round, ord(label[1])])
    drops = {
        reason: int(rng.integers(20, 200)) for reason in REASONS[: 3 if label == "sena" else 4]
    }
    counts = {
        "images": 600,
        "pairs": 900 + int(rng.integers(0, 60)),
        "dropped": sum(drops.values()),
        "drops_by_reason": drops,
    }
    drawn = range(3, 600 if label == "sena" else 5, 200)
    hashes = [
        {"id": f"i{index}", "sha256": f"{index:064x}", "dhash": difference(index)}
        for index in drawn
    ]
    record = {
        "counts": counts,
        "seconds": 41.5,
        "tokens": 21_000 + seed,
        "pool": {"name": "synthetic", "fingerprint": "abc"},
    }
    return {"record": record, "files": {"items.jsonl": hashes}}


def _train(label: str, seed: int, round: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, round, ord(label[1]), 1])
    steps = 60
    done = (1.0 if label == "sena" else 0.6) * np.arange(1, steps + 1) / steps
    noise = 0.03 * rng.normal(size=(3, steps))
    log = [
        {
            "step": step + 1,
            "steps": steps,
            "loss": float(0.69 * np.exp(-0.9 * done[step]) + noise[0, step]),
            "accuracy": float(np.clip(0.5 + 0.4 * done[step] ** 0.5 + 2 * noise[1, step], 0, 1)),
            "margin": float(0.8 * done[step] + noise[2, step]),
            "lr": 5e-5,
        }
        for step in range(steps)
    ]
    training = {
        "steps": steps,
        "pairs_made": 920,
        "pairs_used": 920,
        "visits": 1840,
        "tokens": 15_500,
        "cut": 0,
        "seconds": 38.0,
    }
    return {
        "record": {"seconds": 44.0, "training": training, "counts": {"pairs": 920}},
        "files": {"log.jsonl": log},
    }


def find(cells: list[MetricResult], label: str, metric: str) -> MetricResult:
    return next(
        cell for cell in cells if cell.label == label and cell.metric == metric and cell.last
    )


if __name__ == "__main__":
    write_study(Path(sys.argv[1]), images=400, absent=("sima/seed2/round1/grades/synthetic_chair",))
