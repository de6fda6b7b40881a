"""The training loop: what trains, resuming after a kill, gradient accumulation, adapters,
errors."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from harness.errors import UserError
from harness.training.pair_batches import encode, image_features, pack
from harness.training.policy import packed_logits
from harness.training.schedule import lr_factor, plan
from methods.interface import Lora, Recipe
from tests.tiny_models import tiny_llava
from tests.training.cases import PAIRS, TARGETS, images, saved, train

RECIPE = Recipe(lr=1e-3, epochs=2, global_batch=3, warmup=0.0, alignment_weight=0.5)
ADAPTED = replace(RECIPE, lora=Lora(r=4, alpha=8, dropout=0.1), projector_lr=1e-3)


class Cut(Exception):  # noqa: N818
    """Stands for a kill."""


def cut_after(step: int) -> object:
    def progress(what: str, done: int, _total: int) -> None:
        if what == "train" and done == step:
            raise Cut

    return progress


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["dpo", "rejected_from_argmax"])
def test_the_first_step_starts_at_ln_2_and_the_loss_falls(tmp_path: Path, objective: str) -> None:
    summary = train(
        tmp_path,
        replace(RECIPE, alignment_weight=0.0, objective=objective, epochs=4, global_batch=6),
    )
    rows = log(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[-1]["dpo"] < rows[0]["dpo"]
    assert rows[-1]["margin"] > 0.1
    assert (summary.steps, summary.pairs_made, summary.pairs_used, summary.visits, summary.cut) == (
        4,
        6,
        6,
        24,
        0,
    )


def test_sft_needs_no_reference_and_lowers_its_loss(tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, objective="sft", epochs=4))
    rows = log(tmp_path)
    assert not (tmp_path / "reference.jsonl").exists()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["accuracy"] is None


@pytest.mark.equality
def test_everything_trains_but_the_vision_tower_and_the_saved_model_is_the_trained_one(
    tmp_path: Path,
) -> None:
    model, _ = tiny_llava()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(tmp_path, RECIPE, model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "vision_tower" not in name}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert all(torch.equal(p, loaded.get_parameter(name)) for name, p in model.named_parameters())
    AutoProcessor.from_pretrained(tmp_path / "model", backend="pil")


def test_two_and_two_accumulated_is_four(tmp_path: Path) -> None:
    recipe = replace(RECIPE, global_batch=4)
    train(tmp_path / "a", recipe, max_steps=1, device_batch=4)
    train(tmp_path / "b", recipe, max_steps=1, device_batch=2)
    a, b = log(tmp_path / "a")[0], log(tmp_path / "b")[0]
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    for name, value in saved(tmp_path / "a").items():
        torch.testing.assert_close(value, saved(tmp_path / "b")[name], rtol=0, atol=1e-6)


@pytest.mark.equality
@pytest.mark.parametrize("recipe", [RECIPE, ADAPTED], ids=["full", "lora"])
def test_a_run_cut_anywhere_and_continued_has_the_same_weights_and_log(
    tmp_path: Path, recipe: Recipe
) -> None:
    options = {"checkpoint_every": 1, "lora_targets": TARGETS}
    straight = train(tmp_path / "straight", recipe, **options)
    cut = tmp_path / "cut"
    for step in (1, 3):
        with pytest.raises(Cut):
            train(cut, recipe, **options, progress=cut_after(step))
    # A kill while writing leaves a log line of a step without a checkpoint, and half a checkpoint.
    with (cut / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (cut / "checkpoints" / ".step-0000004.tmp").mkdir()
    (cut / "checkpoints" / "step-0000005").mkdir()
    (cut / "checkpoints" / "step-0000005" / "model.safetensors").write_bytes(b"half")
    steps = []
    resumed = train(
        cut, recipe, **options, progress=lambda what, done, _total: steps.append((what, done))
    )
    assert [done for what, done in steps if what == "train"] == [
        4
    ]  # it continued, from the complete checkpoint
    weights = saved(tmp_path / "straight")
    assert all(torch.equal(value, weights[name]) for name, value in saved(cut).items())
    assert replace(resumed, seconds=0) == replace(straight, seconds=0)
    bare = [[{**row, "seconds": 0} for row in log(tmp_path / name)] for name in ("straight", "cut")]
    assert bare[0] == bare[1]
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == ["finished.json"]


def test_a_finished_training_is_not_repeated_and_another_one_is_an_error(tmp_path: Path) -> None:
    first = train(tmp_path, RECIPE)
    called = []
    assert train(tmp_path, RECIPE, progress=lambda *args: called.append(args)) == first
    assert not called
    with pytest.raises(UserError, match="holds another training"):
        train(tmp_path, replace(RECIPE, lr=2e-3))
    with pytest.raises(UserError, match="holds another training"):
        train(tmp_path, RECIPE, tiny_llava(seed=1)[0])


def test_checkpoints_of_another_training_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, RECIPE, checkpoint_every=1, progress=cut_after(2))
    with pytest.raises(UserError, match="holds another training"):
        train(tmp_path, replace(RECIPE, lr=2e-3), checkpoint_every=1)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_broken_checkpoint_is_named(tmp_path: Path, name: str, hashed: bool) -> None:
    with pytest.raises(Cut):
        train(tmp_path, RECIPE, checkpoint_every=1, progress=cut_after(2))
    checkpoint = tmp_path / "checkpoints" / "step-0000002"
    content = bytearray((checkpoint / name).read_bytes())
    if hashed:
        content[-3] ^= 1  # in the last tensor, or a digit
        words = "was changed after its stage was finished"
    else:  # as an earlier version wrote it
        (checkpoint / "DONE").unlink()
        content = content[: len(content) // 2]
        words = "cannot be read|is not readable"
    (checkpoint / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        train(tmp_path, RECIPE, checkpoint_every=1)
    assert str(checkpoint) in str(caught.value)
    assert "delete" not in str(caught.value)


def test_lora_moves_adapters_and_projector_only(tmp_path: Path) -> None:
    model, processor = tiny_llava()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(tmp_path, ADAPTED, model, lora_targets=TARGETS)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()  # adapters are merged and removed
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    expected = {name for name in before if "multi_modal_projector" in name} | {
        f"model.language_model.layers.{layer}.{module}.weight"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    }
    assert moved == expected
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    features = image_features(model, processor, PAIRS, images)
    batch = pack(encode(PAIRS, processor, patches=36, positions=512))
    with torch.no_grad():
        assert torch.equal(
            packed_logits(loaded, batch, features), packed_logits(model, batch, features)
        )


@pytest.mark.parametrize(
    "recipe",
    [
        replace(ADAPTED, projector_lr=None),
        replace(ADAPTED, projector_lr=0.0),
        replace(RECIPE, projector_lr=0.0),
    ],
    ids=["lora", "lora frozen", "full frozen"],
)
def test_a_frozen_projector_stays(tmp_path: Path, recipe: Recipe) -> None:
    model, _ = tiny_llava()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(tmp_path, recipe, model, lora_targets=TARGETS, max_steps=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not any("projector" in name for name in moved)


def test_gradients_are_clipped_to_the_recipes_norm(tmp_path: Path) -> None:
    def after(limit: float) -> dict[str, torch.Tensor]:
        train(tmp_path / str(limit), replace(RECIPE, max_grad_norm=limit), max_steps=2)
        return saved(tmp_path / str(limit))

    unclipped, wide, narrow = after(0), after(1e9), after(1e-7)
    assert all(torch.equal(value, wide[name]) for name, value in unclipped.items())
    # AdamW is blind to the gradient's scale, except near its epsilon (1e-8).
    assert not all(torch.equal(value, narrow[name]) for name, value in unclipped.items())


def test_the_projector_has_its_own_rate(tmp_path: Path) -> None:
    model, _ = tiny_llava()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(tmp_path, replace(RECIPE, lr=1e-5, projector_lr=1e-2), model, max_steps=1)
    # Adam's first step is the learning rate in each coordinate.
    for name, rate in (
        ("model.multi_modal_projector.linear_1.weight", 1e-2),
        ("lm_head.weight", 1e-5),
    ):
        parameter = dict(model.named_parameters(remove_duplicate=False))[name]
        start = before.get(name, before["model.language_model.embed_tokens.weight"])
        assert (parameter - start).abs().max().item() == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases_train_in_float32_and_are_saved_in_half_precision(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    recipe = replace(RECIPE, lr=1e-3)
    model, exact = tiny_llava()[0].to(dtype), tiny_llava()[0].to(dtype).float()
    train(tmp_path / "half", recipe, model, max_steps=6)
    train(tmp_path / "float", recipe, exact, max_steps=6)
    assert {value.dtype for value in saved(tmp_path / "half").values()} == {dtype}
    losses = [[row["dpo"] for row in log(tmp_path / kind)] for kind in ("half", "float")]
    assert losses[0][0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[1][-1] < losses[1][0] - 0.04
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_the_plan_visits_each_pair_once_an_epoch_and_fits_max_steps() -> None:
    recipe = Recipe(lr=1.0, epochs=2, global_batch=4)
    steps = plan(10, recipe, 0)
    assert [len(step) for step in steps] == [4, 4, 4, 4, 4]
    order = [index for step in steps for index in step]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert plan(10, recipe, 0) == steps != plan(10, recipe, 1)
    subsampled = plan(10, recipe, 0, max_steps=1)
    assert len(set(subsampled[0])) == 4
    cycled = [index for step in plan(3, recipe, 0, max_steps=3) for index in step]
    assert len(cycled) == 12
    assert all(cycled.count(index) == 4 for index in range(3))
    assert [len(step) for step in plan(5, replace(recipe, epochs=0.5), 0)] == [2]


def test_independent_shuffles_miss_a_third_of_the_pairs() -> None:
    recipe = Recipe(lr=1.0, global_batch=1, shuffles=8)
    order = [index for [index] in plan(8000, recipe, 0)]
    assert len(order) == 8000
    # A pair is missed if none of eight processes has it in its eighth: (7/8)^8 = 0.344.
    assert 1 - len(set(order)) / 8000 == pytest.approx((7 / 8) ** 8, abs=0.02)
    assert plan(40, replace(recipe, shuffles=1), 0) == plan(40, Recipe(lr=1.0, global_batch=1), 0)


def test_pairs_made_and_used_are_both_counted(tmp_path: Path) -> None:
    summary = train(tmp_path, replace(RECIPE, global_batch=2), max_steps=2)
    assert (summary.pairs_made, summary.pairs_used, summary.visits) == (6, 4, 4)


def test_schedules_equal_transformers() -> None:
    from transformers import get_scheduler

    for name, theirs in (
        ("cosine", "cosine"),
        ("linear", "linear"),
        ("constant", "constant_with_warmup"),
    ):
        recipe = Recipe(lr=1.0, warmup=0.25, schedule=name)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = get_scheduler(theirs, optimizer, num_warmup_steps=3, num_training_steps=10)
        for step in range(10):
            assert lr_factor(step, 10, recipe) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
            optimizer.step()
            schedule.step()


def test_no_pairs_a_repeated_key_an_unknown_image_and_bad_targets_are_errors(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"no pairs to train on; see drops\.jsonl"):
        train(tmp_path, RECIPE, pairs=[])
    with pytest.raises(UserError, match="Two pairs have the key k0"):
        train(tmp_path, RECIPE, pairs=[PAIRS[0], PAIRS[0]])
    with pytest.raises(UserError, match="Pair lost is about image 'gone'"):
        train(tmp_path, RECIPE, pairs=[*PAIRS, replace(PAIRS[0], key="lost", item="gone")])
    with pytest.raises(UserError, match="give lora_targets"):
        train(tmp_path, ADAPTED)
    with pytest.raises(UserError, match="match no module"):
        train(tmp_path, ADAPTED, lora_targets="nothing")
    with pytest.raises(UserError, match=r"match modules below model\.language_model only"):
        train(tmp_path, ADAPTED, lora_targets=r".*q_proj")
    assert not (tmp_path / "model").exists()


def test_a_base_with_damaged_weights_is_an_error(tmp_path: Path) -> None:
    model, _ = tiny_llava()
    with torch.no_grad():
        model.model.language_model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="log-probability that is not finite"):
        train(tmp_path, RECIPE, model)
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model, _ = tiny_llava()

    def break_it(what: str, done: int, _total: int) -> None:
        if what == "train" and done == 2:
            with torch.no_grad():
                model.model.language_model.norm.weight[0] = float("inf")

    with pytest.raises(UserError, match=r"not finite at step 3 of 4 \(pairs: k\d, k\d, k\d\)"):
        train(tmp_path, RECIPE, model, checkpoint_every=1, progress=break_it)
    assert len(log(tmp_path)) == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]
    assert not (tmp_path / "model").exists()
