"""Training by trl's DPOTrainer gives the losses and weights of our own loop, and resumes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image
from safetensors.torch import load_file

from harness.artifacts.results_folder import Results
from harness.cli.main import main
from harness.errors import RowEnded, UserError
from harness.models.adapters import WEIGHTS
from harness.models.base_cards import BASES
from harness.pipeline import runner
from harness.pipeline.context import Context
from harness.pipeline.progress import Display
from harness.reporting.results import load_results
from harness.reporting.tables import build
from harness.study.study import Run, Study
from harness.training.placement import Placement, check_trainer
from methods.interface import Lora, Recipe
from methods.untrained import Untrained
from tests.models.twins import TWINS
from tests.toy_method import Toy, Words, save_base, save_pictures
from tests.training import cases
from tests.training.cases import TARGETS, saved, train
from tests.training.test_trainer import Cut, cut_after, log

FULL = Recipe(lr=1e-3, epochs=2, global_batch=3, warmup=0.25, beta=0.2, alignment_weight=0.5)
"""4 steps, 1 of them warm-up."""
LORA = replace(FULL, lora=Lora(r=4, alpha=8), projector_lr=2e-3, schedule="constant")
UNEVEN = replace(FULL, epochs=1.5, global_batch=4)
"""Steps of 4, 4 and 1 pairs."""
RELEASED = replace(
    FULL,
    objective="rejected_from_argmax",
    alignment_weight=0.0,
    schedule="linear",
    max_grad_norm=0.0,
    double_wrapped=True,
)
SFT = replace(FULL, objective="sft")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("llava-1.5", FULL),
        ("llava-1.5", LORA),
        ("llava-1.5", UNEVEN),
        ("llava-1.5", RELEASED),
        ("llava-1.5", SFT),
        ("qwen2.5-vl", FULL),
        ("qwen2.5-vl", LORA),
    ],
    ids=["llava", "llava-lora", "uneven", "argmax", "sft", "qwen", "qwen-lora"],
)
def test_losses_and_weights_are_those_of_the_own_loop(
    tmp_path: Path, family: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "tiny_llava", TWINS[family])
    for trainer in ("own", "trl"):
        model, _ = TWINS[family]()
        start = {name: value.detach().clone() for name, value in model.named_parameters()}
        train(tmp_path / trainer, recipe, model, lora_targets=TARGETS, trainer=trainer)
        moved = (model.get_parameter(name).detach() - value for name, value in start.items())
        # So that equal weights mean something.
        assert max(float(each.abs().max()) for each in moved) > 1e-3
    own, theirs = log(tmp_path / "own"), log(tmp_path / "trl")
    assert [list(row) for row in own] == [list(row) for row in theirs]
    for number, (mine, row) in enumerate(zip(own, theirs, strict=True)):
        for name in ("loss", "dpo", "alignment", "margin", "grad_norm", "lr"):
            same = mine[name] if mine[name] is None else pytest.approx(mine[name], abs=1e-5)
            assert row[name] == same, (number, name)
        if number:  # before the first step margins are 0, but for rounding
            assert row["accuracy"] == mine["accuracy"]
    ours, others = saved(tmp_path / "own"), saved(tmp_path / "trl")
    assert ours.keys() == others.keys()
    for name, value in ours.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5)
    for path in (tmp_path / "own" / "model").iterdir():
        other = tmp_path / "trl" / "model" / path.name
        assert path.suffix == ".safetensors" or path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.thorough
def test_a_base_in_half_precision_trains_alike_and_keeps_its_adapter_apart(tmp_path: Path) -> None:
    for trainer in ("own", "trl"):
        model = TWINS["llava-1.5"]()[0].to(torch.bfloat16)
        recipe = replace(LORA, projector_lr=None)
        summary = train(tmp_path / trainer, recipe, model, lora_targets=TARGETS, trainer=trainer)
        assert summary.update_kept > 0.99
        assert not (tmp_path / trainer / "model").exists()
    for mine, row in zip(log(tmp_path / "own"), log(tmp_path / "trl"), strict=True):
        assert row["loss"] == pytest.approx(mine["loss"], abs=0.02)
    ours, others = (load_file(tmp_path / name / "adapter" / WEIGHTS) for name in ("own", "trl"))
    assert {value.dtype for value in others.values()} == {torch.float32}
    assert ours.keys() == others.keys()


@pytest.mark.thorough
@pytest.mark.equality
@pytest.mark.parametrize(
    "recipe", [FULL, replace(LORA, lora=Lora(r=4, alpha=8, dropout=0.1))], ids=["full", "lora"]
)
def test_killed_and_continued_it_has_the_same_weights_and_log(
    tmp_path: Path, recipe: Recipe
) -> None:
    options: dict[str, Any] = {"checkpoint_every": 1, "lora_targets": TARGETS, "trainer": "trl"}
    straight = train(tmp_path / "straight", recipe, **options)
    cut = tmp_path / "cut"
    for step in (2, 4):  # before the step's checkpoint
        with pytest.raises(Cut):
            train(cut, recipe, **options, progress=cut_after(step))
    kept = cut / "checkpoints" / "step-0000003"
    assert {path.suffix for path in kept.iterdir()} == {".safetensors", ".json", ""}  # no pickle
    half = kept.with_name(".step-trl")  # Trainer's folder, left by a kill
    assert half.is_dir()
    steps = []
    resumed = train(cut, recipe, **options, progress=lambda *args: steps.append(args[:2]))
    assert [done for what, done in steps if what == "train"] == [4]
    weights = saved(tmp_path / "straight")
    assert all(torch.equal(value, weights[name]) for name, value in saved(cut).items())
    assert replace(resumed, seconds=0) == replace(straight, seconds=0)
    bare = [[{**row, "seconds": 0} for row in log(tmp_path / name)] for name in ("straight", "cut")]
    assert bare[0] == bare[1]
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == ["finished.json"]


def test_the_other_trainer_does_not_go_on_from_its_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, FULL, checkpoint_every=1, trainer="trl", progress=cut_after(2))
    with pytest.raises(UserError, match="holds another training"):
        train(tmp_path, FULL)
    path = tmp_path / "checkpoints" / "step-0000001" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"optimizer\.safetensors was cut"):
        train(tmp_path, FULL, trainer="trl")


def test_a_step_reads_its_own_images(tmp_path: Path) -> None:
    events = []

    def seen(item: str) -> Image:
        events.append("image")
        return cases.images(item)

    recipe = replace(FULL, epochs=1, global_batch=2)
    progress = lambda what, done, _total: events.append(f"{what} {done}")  # noqa: E731
    train(tmp_path, recipe, trainer="trl", images=seen, progress=progress)
    after = events[events.index("train 1") :]
    assert after.count("image") >= 2  # so the pixels of all are not held from the beginning


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    model, _ = TWINS["llava-1.5"]()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(RowEnded, match="not finite at step 1 of 4"):
        train(tmp_path, FULL, model, trainer="trl")


@pytest.mark.parametrize(
    ("asked", "processes", "on", "words"),
    [
        (Placement(trainer="trl"), 2, None, "start without torchrun"),
        (Placement(trainer="trl"), 1, "ray", "not been tried on a Ray cluster"),
        (Placement(trainer="trl", optimizer="adamw8bit"), 1, None, "leave --eight-bit"),
    ],
)
def test_where_it_cannot_work_it_is_one_sentence(
    asked: Placement, processes: int, on: str | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check_trainer(asked, processes, on)
    check_trainer(Placement(), processes, on)


def test_the_command_refuses_a_cluster_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "smoke", "--trainer", "trl", "--on", "ray", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "leave --on or --trainer out" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_a_study_says_who_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "tiny"))
    pool = str(save_pictures(tmp_path / "pool", 6))
    runs = (
        Run(label="untrained", base="tiny", method=Untrained()),
        Run(label="toy", base="tiny", method=Toy(), pool=pool, images=6),
    )
    made = Study(name="toys", question="?", runs=runs, benchmarks=(Words(pictures=1),))
    out = tmp_path / "out"
    display, results = Display(io.StringIO()), Results(out)
    by_trl = Context(made, results, Placement(trainer="trl", log_to=()))
    assert runner.run(by_trl, display) == []
    folder = out / "runs" / "toy" / "seed0" / "round1" / "train"
    assert json.loads((folder / "identity.json").read_text())["trainer"] == "trl"
    assert json.loads((folder / "record.json").read_text())["training"]["trainer"] == "trl"
    assert "| trained by | trl's DPOTrainer |" in (folder / "model" / "README.md").read_text()
    assert [row.trainer for row in load_results(out).rows] == ["own", "trl"]
    shown = build.load(out).table
    assert "toy (trained by trl)" in {row[0] for row in shown.blocks[0].rows}
    assert any("Training: toy: " in note and "by trl's DPOTrainer" in note for note in shown.notes)
    with pytest.raises(UserError, match=r'trainer: "trl" stored, absent requested'):
        runner.run(Context(made, results, Placement(log_to=())), display)
