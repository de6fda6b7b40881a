"""What a study's tasks share: decoded images, and one model that makes room before it trains."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.synthetic import suite
from harness.artifacts.results_folder import Results
from harness.data.open_pool import open_pool
from harness.data.pool import Pool
from harness.engine.engine import Engine
from harness.models.base_cards import BASES
from harness.pipeline import context, preflight
from harness.pipeline.context import Context, ImageCache
from harness.pipeline.stages import train_round
from harness.pipeline.tasks import run_tasks
from harness.study.study import Run, Study
from harness.training import trainer
from methods.interface import Item
from methods.untrained import Untrained
from tests.running import run_study
from tests.tiny_models import picture
from tests.toy_method import Toy, Words, save_base, save_pictures


def test_a_baseline_that_is_trained_is_weighed_after_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    tasks = run_tasks(Context(study, Results(tmp_path / "out")))
    train = next(task for task in tasks if task.kind == "train")
    [weighed] = [task for task in tasks if task.kind == "choices"]
    assert weighed.depends_on == ("export/synthetic_pope", train.key)


def test_a_run_may_use_the_same_images_in_each_round(tmp_path: Path) -> None:
    pool = str(save_pictures(tmp_path / "pool", 8))
    fresh = Run(label="fresh", base="tiny", method=Toy(), pool=pool, images=4, rounds=2)
    same = replace(fresh, label="same", rounds=3, same_images=True)
    study = Study(
        name="toys",
        question="?",
        runs=(fresh, same),
        benchmarks=(suite.pope("dev", 2),),
        baseline="fresh",
        split="dev",
        limit=2,
    )
    context = Context(study, Results(tmp_path / "out"))
    first, second = context.draw(fresh, 1), context.draw(fresh, 2)
    assert not set(first.ids) & set(second.ids)
    assert all(context.draw(same, round) == first for round in (1, 2, 3))
    assert preflight.of_pools(context, study.runs) == []  # three rounds of four images, of eight


@pytest.mark.thorough
def test_memory_that_runs_out_in_a_training_is_said_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "base"))
    toy = Run(
        label="toy",
        base="tiny",
        method=Toy(),
        pool=str(save_pictures(tmp_path / "pool", 8)),
        images=4,
    )
    study = Study(name="toys", question="?", runs=(toy,), benchmarks=(Words(),), baseline="toy")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "take_step", full)
        (ended,) = run_study(study, tmp_path / "out")
        assert "Memory ran out in the training" in ended
        assert "toy" in ended
    assert not run_study(study, tmp_path / "out")
    assert list((tmp_path / "out").rglob("train/DONE"))


@pytest.mark.thorough
def test_no_engine_and_no_kept_picture_takes_memory_while_a_model_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Remembered(Engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            engines.append(weakref.ref(self))

    engines: list[weakref.ref[Engine]] = []
    alive: list[int] = []
    fit = train_round.fit

    def counting(*arguments: Any) -> Any:
        alive.append(sum(engine() is not None for engine in engines))
        return fit(*arguments)

    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "base"))
    monkeypatch.setattr(context, "Engine", Remembered)
    monkeypatch.setattr(train_round, "fit", counting)
    pool = str(save_pictures(tmp_path / "pool", 8))
    runs = (
        Run(label="untrained", base="tiny", method=Untrained()),
        Run(label="toy", base="tiny", method=Toy(), pool=pool, images=4, rounds=2),
    )
    study = Study(name="toys", question="Does it make room?", runs=runs, benchmarks=(Words(),))
    run_study(study, tmp_path / "out")
    assert len(engines) >= 2
    assert alive == [0, 0]


@pytest.mark.thorough
def test_an_image_is_decoded_once_a_round_and_a_pool_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing, making pairs and training ask for the same images; so do rows of one seed."""
    decoded, opened = Counter[str](), Counter[str]()

    def counting(spec: str) -> Pool:
        opened[spec] += 1
        pool = open_pool(spec)

        def read(id: str) -> Item:
            decoded[id] += 1
            return pool.read(id)

        return replace(pool, read=read)

    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "base"))
    monkeypatch.setattr(context, "open_pool", counting)
    pool = str(save_pictures(tmp_path / "pool", 8))
    runs = (
        Run(label="untrained", base="tiny", method=Untrained()),
        Run(label="toy", base="tiny", method=Toy(), pool=pool, images=4, rounds=2),
        Run(label="other", base="tiny", method=Toy(tokens=5), pool=pool, images=4, rounds=2),
    )
    study = Study(name="toys", question="?", runs=runs, benchmarks=(Words(),))
    run_study(study, tmp_path / "out")
    assert opened == {pool: 1}
    assert len(decoded) == 8
    assert set(decoded.values()) == {1}


def test_the_cache_of_images_is_bounded_and_prefers_the_present_round() -> None:
    loads: list[str] = []
    cache = ImageCache(limit=2 * 4 * 60 * 60)  # two images of 60 x 60

    def get(name: str) -> None:
        cache.get(("pool", name), lambda: loads.append(name) or picture(1), lambda image: image)

    for name in ("a", "b", "c", "c", "a", "b"):
        get(name)
    assert loads == ["a", "b", "c", "c"]  # without a round, what came first stays
    cache.begin_round([("pool", "c")])
    for name in ("c", "c", "b", "d", "d", "a"):
        get(name)
    assert loads[4:] == ["c", "d", "d", "a"]  # c took the place of a; no other image may
