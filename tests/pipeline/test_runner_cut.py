"""A run that is cut or killed anywhere ends with the same bytes when it is run again."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.models.base_cards import BaseCard
from harness.pipeline.progress import Display
from tests.pipeline.toy_study import a_study, do
from tests.toy_method import outputs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("small")


class Cut(BaseException):
    """Stands for a kill: nothing in the harness may catch it."""


@dataclass
class CuttingDisplay(Display):
    """Cuts the run at the n-th report of progress."""

    left: int = 0

    def stage(self, number: int, of: int, title: str) -> Callable[[str, int, int], None]:  # noqa: ARG002
        def progress(_what: str, _done: int, _total: int) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cut

        return progress


@pytest.mark.thorough
@pytest.mark.equality
def test_cut_at_every_report_of_progress_ends_with_the_same_bytes(
    undisturbed: Path, pool: str, tmp_path: Path
) -> None:
    study, cuts = a_study(pool, rounds=2), 0
    while (
        True
    ):  # lives grow longer, so that one of them gets through a training between its checkpoints
        try:
            do(study, tmp_path, CuttingDisplay(io.StringIO(), left=cuts))
            break
        except Cut:
            cuts += 1
    assert cuts >= 5
    assert outputs(tmp_path) == outputs(undisturbed)


@pytest.mark.thorough
@pytest.mark.equality
def test_cut_at_writes_ends_with_the_same_bytes(
    undisturbed: Path, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, real, left, cuts = a_study(pool, rounds=2), os.fsync, 0, 0

    def fsync(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    while True:
        left = 5 + 2 * cuts  # before a rename as often as behind it
        try:
            do(study, tmp_path)
            break
        except Cut:
            cuts += 1
    assert cuts >= 8
    assert outputs(tmp_path) == outputs(undisturbed)


@pytest.mark.thorough
def test_only_the_cut_shard_is_made_again(pool: str, tmp_path: Path) -> None:
    study = a_study(pool)
    do(study, tmp_path)
    folder = tmp_path / "runs/toy/seed0/round1/pairs"
    (folder / "DONE").unlink()
    (folder / "shards/00001.jsonl").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    said = do(study, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert {name for name in after if before.get(name) != after[name]} == {"00001.jsonl"}
    assert said.count(": done") == 1


SCRIPT = """
import io, os, random, signal, sys, threading
from pathlib import Path
from harness.artifacts.results_folder import Results
from harness.pipeline import progress, runner, tasks
from harness.pipeline.context import Context
from harness.models.base_cards import BASES
from tests.pipeline.toy_study import a_study
from tests.toy_method import card_of
base, pool, out = sys.argv[1:]
BASES["tiny"] = card_of(Path(base))
tasks.ITEMS_A_SHARD, tasks.QUESTIONS_A_SHARD, progress.EVERY = 3, 4, 0.0

# Starts a timer in the first training that kills this process. A process waits for its timers
# before it ends, so the kill comes for certain, however busy the machine is.
class Killing(io.StringIO):
    def write(self, text):
        if "round 1: train" in text:
            end = (os.getpid(), signal.SIGKILL)
            threading.Timer(random.uniform(0.0, 0.3), os.kill, end).start()
        return super().write(text)

runner.run(
    Context(a_study(pool, rounds=2), Results(Path(out))), progress.Display(Killing())
)
"""


@pytest.mark.slow
def test_killed_for_real_ends_with_the_same_bytes(
    undisturbed: Path, card: BaseCard, pool: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(card.source), pool, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    do(a_study(pool, rounds=2), tmp_path)
    assert outputs(tmp_path) == outputs(undisturbed)
