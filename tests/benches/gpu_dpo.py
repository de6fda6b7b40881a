"""DPO pairs a second: our packed training with references computed once, against trl's DPOTrainer
on the same pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from torch.utils.data import SequentialSampler

from harness.artifacts.results_folder import read_jsonl
from harness.models.base_cards import LLAMA_LINEARS
from harness.models.chat_format import renderer
from harness.training.placement import Placement
from harness.training.schedule import plan
from harness.training.trainer import train_pairs
from methods.interface import Lora, PreferencePair, Recipe
from tests.benches.gpu_work import clock


def recipe(shape: str, batch: int) -> Recipe:
    """One epoch: LoRA r 128 on the 7B shape; the small ones in full, so that losses can be compared
    with trl's."""
    lora = Lora(r=128, alpha=256) if shape == "7b" else None
    return Recipe(lr=1e-6 if lora else 1e-4, epochs=1, global_batch=batch, warmup=0.0, lora=lora)


def ours(
    model: Any,
    processor: Any,
    work: Sequence[PreferencePair],
    images: Sequence[PILImage.Image],
    given: Recipe,
    at_once: int,
) -> tuple[float, list[float], str]:
    """Seconds of the whole training (images, references, steps; not the writing of the model),
    its losses, its placement."""
    ended = [0.0]

    def progress(_what: str, _done: int, _total: int) -> None:
        ended[0] = clock(model.device.type)

    with tempfile.TemporaryDirectory() as folder:
        began = clock(model.device.type)
        summary = train_pairs(
            model=model,
            processor=processor,
            pairs=work,
            images=lambda item: images[int(item)],
            recipe=given,
            seed=0,
            out=Path(folder),
            placement=Placement(device_batch=at_once, log_to=(), find_batch_size=False),
            lora_targets=LLAMA_LINEARS if given.lora else None,
            checkpoint_every=10**9,
            progress=progress,
        )
        losses = [row["loss"] for row in read_jsonl(Path(folder) / "log.jsonl")]
    laid = f"{summary.device_batch} pairs at once" + (
        ", activations recomputed" if summary.checkpointing else ""
    )
    return ended[0] - began, losses, laid


def trls(
    model: Any,
    reference: Any,
    processor: Any,
    work: Sequence[PreferencePair],
    images: Sequence[PILImage.Image],
    given: Recipe,
    at_once: int,
) -> tuple[float, list[float]]:
    """The same pairs in the same order through trl's DPOTrainer; ``reference`` None with adapters
    (they are switched off)."""
    from datasets import Dataset, Features, Image, List, Value
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    class InOurOrder(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    render = renderer(processor)
    order = [work[index] for step in plan(len(work), given, 0) for index in step]
    columns: dict[str, list[Any]] = {
        "images": [[images[int(pair.item)]] for pair in order],
        "prompt": [render.render_prompt(pair.prompt, True) for pair in order],
        "chosen": [render.render_completion(pair.chosen) for pair in order],
        "rejected": [render.render_completion(pair.rejected) for pair in order],
    }
    text = Value("string")
    features = Features({"images": List(Image()), "prompt": text, "chosen": text, "rejected": text})
    model.model.vision_tower.requires_grad_(False)
    cuda = model.device.type == "cuda"
    lora = given.lora and LoraConfig(
        r=given.lora.r, lora_alpha=given.lora.alpha, target_modules=LLAMA_LINEARS, bias="none"
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=min(at_once, given.global_batch),
            gradient_accumulation_steps=max(1, given.global_batch // at_once),
            num_train_epochs=1,
            learning_rate=given.lr,
            lr_scheduler_type="cosine",
            beta=given.beta,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=not cuda,
            bf16=cuda,
            gradient_checkpointing=False,
            dataloader_pin_memory=cuda,
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = InOurOrder(
            model=model,
            ref_model=reference,
            args=settings,
            processing_class=processor,
            train_dataset=Dataset.from_dict(columns, features=features),
            peft_config=lora,
        )
        began = clock(model.device.type)
        trainer.train()
        seconds = clock(model.device.type) - began
    return seconds, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def floor_pairs_a_second(
    parameters: float, prompt: float, side: float, *, tflops: float = 790.0
) -> float:
    """Pairs a second on one H200 at its peak with adapters: the reference's forward pass (2 FLOPs a
    weight and token), and the policy's forward and backward pass, which leaves the frozen weights'
    gradients out (4); the prompt once for both sides."""
    return tflops * 1e12 / (6.0 * parameters * (prompt + 2 * side))
