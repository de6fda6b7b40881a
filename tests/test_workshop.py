"""What a study's stages share: the model in memory makes room before it trains."""

from __future__ import annotations

import io
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.world import suite
from harness import runner, stages
from harness.bases import BASES
from harness.engine import vlm
from harness.engine.vlm import Engine
from harness.progress import Display
from harness.store import Results, Stage
from harness.study import Run, Study
from harness.workshop import Workshop
from methods.untrained import Untrained
from tests.toys import Toy, Words, save_base, save_pictures


def test_a_baseline_that_is_trained_is_weighed_after_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "base"))
    pool = str(save_pictures(tmp_path / "pool", 8))
    toy = Run(label="toy", base="tiny", method=Toy(), pool=pool, images=4)
    study = Study(
        name="toys",
        question="?",
        runs=(toy, replace(toy, label="other")),
        benchmarks=(suite.pope("dev", 2),),
        baseline="toy",
        split="dev",
        limit=2,
    )
    steps = Workshop(study, Results(tmp_path / "out")).runs()
    train = next(step for step in steps if step.kind == "train")
    [weighed] = [step for step in steps if step.kind == "choices"]
    assert weighed.inputs == (train.stage.folder,)


def test_no_engine_and_no_kept_picture_takes_memory_while_a_model_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembered(Engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            engines.append(weakref.ref(self))

    engines: list[weakref.ref[Engine]] = []
    alive: list[int] = []
    learn = stages.train

    def train(stage: Stage, **options: Any) -> None:
        alive.append(sum(engine() is not None for engine in engines))
        learn(stage, **options)

    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "base"))
    monkeypatch.setattr(vlm, "Engine", Remembered)
    monkeypatch.setattr(stages, "train", train)
    pool = str(save_pictures(tmp_path / "pool", 8))
    runs = (
        Run(label="untrained", base="tiny", method=Untrained()),
        Run(label="toy", base="tiny", method=Toy(), pool=pool, images=4, rounds=2),
    )
    study = Study(name="toys", question="Does it make room?", runs=runs, benchmarks=(Words(),))
    runner.run(study, tmp_path / "out", Display(io.StringIO()))
    assert len(engines) >= 2
    assert alive == [0, 0]
