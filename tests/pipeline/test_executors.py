"""Processes beside this one write the same bytes as this one alone, also when one of them is
killed; a row without pairs ends alone there, too."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from harness.artifacts.results_folder import Results, Stage
from harness.errors import RowEnded, UserError
from harness.pipeline import runner
from harness.pipeline.context import Context
from harness.pipeline.executors import pooled, processes
from harness.pipeline.executors.pooled import Schedule, urgency
from harness.pipeline.executors.processes import LocalProcesses
from harness.pipeline.progress import Display, StudyProgress
from harness.pipeline.tasks import Kind, Task
from harness.study.reference import StudyReference
from harness.study.study import Run, Study
from methods.untrained import Untrained
from tests.distributed.studies import write_study
from tests.running import run_study
from tests.toy_method import Words, outputs

ROOT = Path(__file__).resolve().parents[2]


def run(study: Path, out: Path, jobs: int = 2) -> str:
    """A run of the study's file with so many processes; what it showed."""
    reference, stream = StudyReference(str(study)), io.StringIO()
    with LocalProcesses(reference, out, jobs) as workers:
        execute = partial(pooled.execute, workers=workers)
        context = Context(reference.load(), Results(out))
        runner.run(context, Display(stream), execute=execute)
    return stream.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def alone(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process made."""
    out = tmp_path_factory.mktemp("alone") / "out"
    run_study(StudyReference(str(study)).load(), out)
    return out


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(
    study: Path, alone: Path, tmp_path: Path
) -> None:
    output = run(study, tmp_path)
    assert outputs(tmp_path) == outputs(alone)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl")} == {
        path.relative_to(alone) for path in alone.rglob("*.jsonl")
    }
    every = sum(1 for _ in tmp_path.rglob("DONE"))
    assert f"[{every}/{every}] " in output.splitlines()[-1]
    assert "[" not in run(study, tmp_path)


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_the_run_continues_to_the_same_bytes(
    study: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE", "0")  # each worker kills itself in its second shard
    arguments = ["run", str(study), "--out", str(tmp_path), "--jobs", "2", "--log-to", "none"]
    command = [sys.executable, "-m", "harness", *arguments]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == 2, killed.stderr
    assert "A worker process was killed" in killed.stderr
    assert "Traceback" not in killed.stderr
    shards = list((tmp_path / "runs/toy/seed0/round1/pairs/shards").glob("*.jsonl"))
    assert 1 <= len(shards) < 4
    monkeypatch.delenv("DIE")
    run(study, tmp_path)
    assert outputs(tmp_path) == outputs(alone)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_run_that_is_ended(
    how: signal.Signals, study: Path, alone: Path, tmp_path: Path
) -> None:
    """Workers that went on would write beside the next run."""
    arguments = ["run", str(study), "--out", str(tmp_path), "--jobs", "2", "--log-to", "none"]
    environment = os.environ | {"SLOW": "1.0"}
    shards = tmp_path / "runs/toy/seed0/round1/pairs/shards"
    with subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as child:  # fmt: skip
        while not list(shards.glob("*.jsonl")):
            assert child.poll() is None
            time.sleep(0.05)
        # Ctrl-C reaches the whole group; a kill the first process alone.
        os.killpg(child.pid, how) if how == signal.SIGINT else child.kill()
        _, stderr = child.communicate()  # ends when no process holds the pipes any more
    assert child.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stderr
    count = len(list(shards.glob("*.jsonl")))
    time.sleep(1.5)
    assert len(list(shards.glob("*.jsonl"))) == count < 4
    run(study, tmp_path)
    assert outputs(tmp_path) == outputs(alone)


class ScriptedWorkers:
    """Workers that write nothing; a training has no pairs."""

    slots = 2
    reloads_model = False
    only_model_tasks = False

    def __init__(self) -> None:
        self.order: list[str] = []

    def submit(self, task: Task, shards: list[int]) -> Future[UserError | None]:
        self.order.append(f"{task.key} {shards}")
        future: Future[UserError | None] = Future()
        future.set_result(RowEnded("no pair") if task.key == "train/b" else None)
        return future


def a_task(folder: Path, kind: Kind, label: str, *needs: str, after: tuple[str, ...] = ()) -> Task:
    return Task(
        key=f"{kind}/{label}",
        kind=kind,
        title=f"{label}: {kind}",
        name=label,
        stage=Stage(folder / kind / label, {"stage": kind, "format": 1, "of": label}),
        benchmark=label,
        depends_on=needs,
        after=after,
    )


def test_the_longest_chain_goes_first_and_a_row_without_pairs_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled.work, "merge", lambda _context, task: task.stage.finish())
    tasks = [
        a_task(tmp_path, "answer", "a"),
        a_task(tmp_path, "train", "b"),
        a_task(tmp_path, "answer", "b", "train/b"),
        a_task(tmp_path, "grade", "b", "answer/b"),
        a_task(tmp_path, "train", "c", after=("train/b",)),
        a_task(tmp_path, "answer", "c", "train/c"),
    ]
    assert urgency(tasks) == {
        "answer/a": 1, "train/b": 6, "answer/b": 2, "grade/b": 1, "train/c": 5, "answer/c": 1,
    }  # fmt: skip
    study = Study(
        name="toys",
        question="?",
        runs=(Run(label="untrained", base="synthetic", method=Untrained()),),
        benchmarks=(Words(),),
    )
    stream, workers = io.StringIO(), ScriptedWorkers()
    display = Display(stream, stamp=lambda: "12:00:00")
    progress = StudyProgress(display, weight=lambda _task: 1.0)
    progress.plan(tasks)
    context = Context(study, Results(tmp_path))
    schedule = Schedule(context, list(tasks), progress, workers, urgency(tasks))
    assert schedule.run() == ["b: no pair"]
    assert workers.order == ["train/b [0]", "answer/a [0]", "train/c [0]", "answer/c [0]"]
    assert not tasks[2].stage.folder.exists()
    lines = stream.getvalue().splitlines()
    assert "12:00:00 b: no pair" in lines
    assert lines[-1].startswith("12:00:00 [3/3] c: answer: done in")


def test_jobs_are_of_processors_and_of_the_synthetic_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untrained = Run(label="untrained", base="synthetic", method=Untrained())
    study = Study(name="s", question="?", runs=(untrained,), benchmarks=(Words(),))
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(processes, "_free_memory", lambda: 3.9)
    assert processes.default_jobs(study) == 3
    other = Run(label="untrained", base="llava-1.5-7b", method=Untrained())
    real = Study(name="s", question="?", runs=(other,), benchmarks=(Words(),))
    assert processes.default_jobs(real) == 1
    with pytest.raises(UserError, match="--jobs is 0; it must be at least 1"):
        processes.check_jobs(0)
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: True)
    assert processes.default_jobs(study) == 1
    with pytest.raises(UserError, match="--jobs is for processors"):
        processes.check_jobs(2)
