"""The trajectory equals that of trl's DPOTrainer with the same pairs, order, optimiser and
schedule, losses to 5 decimals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from harness.models.chat_format import renderer
from harness.training.schedule import plan
from methods.interface import Recipe
from tests.tiny_models import tiny_llava
from tests.training.cases import PAIRS, images, train

RECIPE = Recipe(lr=1e-3, epochs=2, global_batch=3, warmup=0.25, beta=0.2)  # 4 steps, 1 of warm-up


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)  # trl's own use of the old name
def test_the_trajectory_is_that_of_trls_dpo_trainer(tmp_path: Path) -> None:
    train(tmp_path / "ours", RECIPE, device_batch=2)
    ours = [json.loads(line) for line in (tmp_path / "ours" / "log.jsonl").read_text().splitlines()]
    theirs, model = trl_trajectory(tmp_path / "trl")
    assert len(ours) == len(theirs) == 4
    for mine, row in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(row["loss"], abs=1e-5)
        assert mine["margin"] == pytest.approx(row["rewards/margins"], abs=1e-4)
        for side in ("chosen", "rejected"):
            theirs_too = row[f"rewards/{side}"]
            assert mine[f"reward_{side}"] == pytest.approx(theirs_too, abs=1e-4)
        assert mine["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
        assert mine["lr"] == pytest.approx(row["learning_rate"], abs=1e-9)
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.05  # so that equal trajectories mean something
    trained = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours" / "model")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained.get_parameter(name), parameter, rtol=0, atol=1e-4)


def trl_trajectory(out: Path) -> tuple[list[dict[str, float]], Any]:
    """trl's log, a line a step, and the trained model."""
    from datasets import Dataset, Features, Image, List, Value
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    class InOurOrder(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    model, processor = tiny_llava()
    reference, _ = tiny_llava()
    model.model.vision_tower.requires_grad_(False)
    render = renderer(processor)
    order = [PAIRS[index] for step in plan(len(PAIRS), RECIPE, 0) for index in step]
    columns: dict[str, list[Any]] = {
        "images": [[images(pair.item)] for pair in order],
        "prompt": [render.render_prompt(pair.prompt, True) for pair in order],
        "chosen": [render.render_completion(pair.chosen) for pair in order],
        "rejected": [render.render_completion(pair.rejected) for pair in order],
    }
    text = Value("string")
    features = Features({"images": List(Image()), "prompt": text, "chosen": text, "rejected": text})
    settings = DPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=RECIPE.global_batch,
        num_train_epochs=1,  # the data holds both of our epochs
        learning_rate=RECIPE.lr,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        beta=RECIPE.beta,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = InOurOrder(
        model=model,
        ref_model=reference,
        args=settings,
        processing_class=processor,
        train_dataset=Dataset.from_dict(columns, features=features),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row], model
