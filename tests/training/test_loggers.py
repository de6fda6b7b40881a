"""Trackers beside log.jsonl: each step is logged once, also after a kill. A missing tracker is an
error before any work, and a failing one does not end a training.

trackio and wandb are not in the test requirements, as theirs conflict with ours. They are run where
they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as cli
from harness.errors import UserError
from harness.training import loggers
from harness.training.loggers import MIN_VERSIONS, TrackerRun
from methods.interface import Recipe
from tests.training.cases import train

RECIPE = Recipe(lr=1e-3, epochs=2, global_batch=3)


def test_an_unknown_tracker_and_a_missing_one_are_errors_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no tracker 'tensorbord'; did you mean 'tensorboard'"):
        train(tmp_path / "a", RECIPE, log_to=("tensorbord",))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "wandb" else found(name, *rest),
    )
    with pytest.raises(UserError, match=r'wandb is not installed; pip install "wandb>=0\.31"'):
        train(tmp_path / "a", RECIPE, log_to=("wandb",))
    assert not (tmp_path / "a").exists()


def test_the_command_line_refuses_what_is_not_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["run", "smoke", "--log-to", "trackoi"]) == 2
    assert "There is no tracker 'trackoi'; did you mean 'trackio'?" in capsys.readouterr().err
    if importlib.util.find_spec("bitsandbytes") is None:
        assert cli.main(["run", "smoke", "--eight-bit"]) == 2
        said = capsys.readouterr().err
        assert "needs bitsandbytes, which is not installed: pip install bitsandbytes" in said
        assert cli.main(["plan", "smoke", "--eight-bit"]) == 0
        assert "needs bitsandbytes" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard_holds_the_curves_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, RECIPE, log_to=("",))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [point.step for point in losses] == [row["step"] for row in rows]
    assert [point.value for point in losses] == pytest.approx(
        [row["loss"] for row in rows], rel=1e-6
    )


def test_a_version_that_is_too_old_is_an_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: found("json" if name == "trackio" else name, *rest),
    )
    monkeypatch.setattr(
        metadata, "version", lambda _name: "0.0.6"
    )  # what pip installs beside an old Pillow
    with pytest.raises(
        UserError,
        match=(
            r"trackio is installed as version 0\.0\.6, which is too old; pip install"
            r' "trackio>=0\.43"'
        ),
    ):
        train(tmp_path / "a", RECIPE, log_to=("trackio",))


class FakeTracker:
    """A tracker that records steps, holds those up to ``last_step`` and fails from step ``fails``
    on."""

    def __init__(self, last_step: int = 0, fails: int = 1000) -> None:
        self.steps: list[tuple[int, Mapping[str, float]]] = []
        self.last_step, self.fails = last_step, fails

    def __call__(self, *_: Any) -> TrackerRun:
        if self.fails == 0:
            raise ConnectionError("no route to the tracker\nand a second line")
        return TrackerRun(log=self.log, last_step=self.last_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.fails:
            raise OSError("it went away")
        self.steps.append((step, values))


class Cut(Exception):  # noqa: N818
    """A training that was cut."""


def cut_at(step: int) -> Any:
    def progress(what: str, done: int, _total: int) -> None:
        if what == "train" and done == step:
            raise Cut

    return progress


def test_a_continued_training_logs_each_step_once_and_the_missed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = FakeTracker()
    monkeypatch.setattr(loggers, "_tensorboard", tracker)
    with pytest.raises(Cut):
        train(tmp_path, RECIPE, log_to=("tensorboard",), checkpoint_every=1, progress=cut_at(3))
    assert [step for step, _ in tracker.steps] == [1, 2, 3]
    for last in (0, 1, 3):  # the kill lost some of the steps; it lost none
        again = FakeTracker(last_step=last)
        monkeypatch.setattr(loggers, "_tensorboard", again)
        copy = tmp_path.with_name(f"{tmp_path.name}-{last}")
        subprocess.run(["cp", "-r", tmp_path, copy], check=True)
        train(copy, RECIPE, log_to=("tensorboard",), checkpoint_every=1)
        rows = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
        assert [step for step, _ in again.steps] == [*range(last + 1, 5), -1]
        for (_, values), row in zip(again.steps, rows[last:], strict=False):
            assert values == {
                name: row[name] for name in row if name not in ("step", "steps", "seconds")
            }


@pytest.mark.parametrize("fails", [0, 2])
def test_a_tracker_that_fails_is_left_out_with_one_sentence(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = FakeTracker(fails=fails)
    monkeypatch.setattr(loggers, "_tensorboard", tracker)
    assert train(tmp_path, RECIPE, log_to=("tensorboard",)).steps == 4
    lines = capsys.readouterr().err.splitlines()
    why = "ConnectionError: no route to the tracker" if fails == 0 else "OSError: it went away"
    sentence = (
        f"harness: the tracker tensorboard is left out from here on ({why}); log.jsonl goes on."
    )
    assert [line for line in lines if line.startswith("harness: ")] == [sentence]
    assert len(tracker.steps) == max(0, fails - 1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


PROGRAM = """
import os, signal, sys
from pathlib import Path
from tests.training.cases import train
from tests.training.test_loggers import RECIPE

def progress(what, done, total):
    if what == "train" and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

train(Path(sys.argv[1]), RECIPE, log_to=(sys.argv[2],), checkpoint_every=2, progress=progress)
"""
SECRET = "c0ffee" * 7


def installed(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    version = tuple(int(part) for part in metadata.version(name).split(".")[:2])
    if version < MIN_VERSIONS[name]:
        pytest.skip(f"{name} is too old")


def started(
    tracker: str, out: Path, home: Path, stop: int = 0, **settings: str
) -> subprocess.CompletedProcess[str]:
    """A training in a process of its own, killed at that step (0: not)."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "HF_TOKEN": SECRET,
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), tracker, str(stop)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def no_secret_in(*folders: Path) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            assert not (path.is_file() and SECRET.encode() in path.read_bytes()), path


@pytest.mark.slow
def test_trackio_has_every_step_once_after_a_kill(tmp_path: Path) -> None:
    installed("trackio")
    home, store = tmp_path / "home", tmp_path / "store"
    out = tmp_path / "results" / "compare" / "runs" / "sena" / "seed0" / "round1" / "train"
    assert started("trackio", out, home, 3, TRACKIO_DIR=str(store)).returncode == -signal.SIGKILL
    again = started("trackio", out, home, TRACKIO_DIR=str(store))
    assert again.returncode == 0, again.stderr
    assert "left out" not in again.stderr
    with sqlite3.connect(store / "selfsight.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
        [[name]] = database.execute("select distinct run_name from metrics").fetchall()
    assert [(step, json.loads(metrics)["loss"]) for step, metrics in rows] == losses(out)
    assert str(tmp_path.parent) not in name  # it may be published: no path of this machine
    no_secret_in(out, store, home)
    assert not [
        path for path in home.rglob("*") if path.is_file()
    ]  # it writes to its own folder alone


@pytest.mark.slow
def test_wandb_offline_has_every_step_in_its_last_piece_and_the_same_run(tmp_path: Path) -> None:
    installed("wandb")
    home, out = tmp_path / "home", tmp_path / "out"
    assert (
        started("wandb", out, home, 3, WANDB_MODE="offline", WANDB_API_KEY=SECRET).returncode
        == -signal.SIGKILL
    )
    again = started("wandb", out, home, WANDB_MODE="offline", WANDB_API_KEY=SECRET)
    assert again.returncode == 0, again.stderr
    pieces = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(pieces) == 2
    assert len({piece.name for piece in pieces}) == 1  # two pieces of one run
    assert wandb_losses(pieces[1]) == losses(out)
    no_secret_in(out, home)


def wandb_losses(path: Path) -> list[tuple[int, float]]:
    """The history in wandb's own file: 7 bytes, then records of a checksum (4 bytes), a length (2),
    a kind (1) and protobuf."""
    from wandb.proto import wandb_internal_pb2

    content, at, found = path.read_bytes(), 7, []
    assert len(content) < 2**15  # one block of the format; longer files have several
    while at + 7 < len(content):
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[at + 7 : at + 7 + length])
        at += 7 + length
        if record.WhichOneof("record_type") == "history":
            values = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            found.append((values["_step"], values["loss"]))
    return found


@pytest.mark.slow
def test_wandb_without_a_key_ends_no_training(tmp_path: Path) -> None:
    installed("wandb")
    done = started("wandb", tmp_path / "out", tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count(
            "harness: the tracker wandb is left out from here on (UsageError: No API key"
            " configured."
        )
        == 1
    )
    assert len(losses(tmp_path / "out")) == 4
