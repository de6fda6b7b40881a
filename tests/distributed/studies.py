"""A study small enough for tests of several processes: a tiny base, two rounds, shards of two and
three."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.artifacts.results_folder import read_jsonl
from tests.toy_method import OUTPUTS, save_base, save_pictures

STUDY = '''
"""Written by a test."""
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from harness.pipeline import tasks
from harness.models.base_cards import BASES
from harness.study.study import Run, Study
from methods.untrained import Untrained
from tests.toy_method import Toy, Words, card_of

BASES["tiny"] = card_of(Path({base!r}))
tasks.ITEMS_A_SHARD, tasks.QUESTIONS_A_SHARD = 2, 3
calls = [0]


class Mortal(Toy):
    """A slow toy that dies in its second shard where the environment says so."""

    def pairs(self, items, tools) -> Iterator:
        calls[0] += 1
        time.sleep(float(os.environ.get("SLOW", "0")))
        if os.environ.get("DIE", "") == os.environ.get("RANK", "0") and calls[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().pairs(items, tools)


def study() -> Study:
    toy = Run(label="toy", base="tiny", method=Mortal(), pool={pool!r}, images=8, rounds=2)
    untrained = Run(label="untrained", base="tiny", method=Untrained())
    words = (Words(pictures=5),)
    return Study(name="toys", question="Does it run?", runs=(untrained, toy), benchmarks=words)
'''


def write_study(folder: Path) -> Path:
    """The study's file, with its base and its pool beside it."""
    save_base(folder / "tiny")
    pool = save_pictures(folder / "pool", 16)
    path = folder / "own.py"
    path.write_text(STUDY.format(base=str(folder / "tiny"), pool=str(pool)))
    return path


def exact(out: Path) -> dict[str, bytes]:
    """What must be the same bytes whoever did it: made by one and the same model."""
    first = [
        *out.glob("runs/untrained/**/*"),
        *out.glob("runs/toy/seed0/round1/pairs/*"),
        *out.glob("questions/**/*"),
    ]
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(first)
        if path.name in OUTPUTS
    }


def told(out: Path) -> dict[str, object]:
    """The texts and grades of every round: equal where trained weights differ by rounding alone."""
    found: dict[str, object] = {}
    for path in sorted(out.glob("runs/**/*.jsonl")):
        rows = read_jsonl(path)
        if path.name == "answers.jsonl":
            found[path.relative_to(out).as_posix()] = [
                (row["id"], row["answer"], row["n_tokens"]) for row in rows
            ]
        if path.name == "pairs.jsonl":
            found[path.relative_to(out).as_posix()] = [
                (row["key"], row["chosen"], row["rejected"]) for row in rows
            ]
    for path in sorted(out.glob("runs/**/grades.parquet")):
        found[path.relative_to(out).as_posix()] = pd.read_parquet(path).to_csv()
    return found
