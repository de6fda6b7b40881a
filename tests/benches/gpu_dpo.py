"""DPO pairs a second: our packed training with references computed once, against trl's DPOTrainer
on the same pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image as PILImage
from torch.utils.data import SequentialSampler

from harness.artifacts.results_folder import read_jsonl
from harness.models.base_cards import LLAMA_LINEARS
from harness.models.chat_format import renderer
from harness.training import save_model
from harness.training import trainer as training
from harness.training.lora import add_adapters
from harness.training.placement import Placement, estimate, fit
from harness.training.schedule import plan
from harness.training.trainer import train_pairs
from methods.interface import Lora, PreferencePair, Recipe
from tests.benches.gpu_work import clock


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Seconds of a whole training (images, references, steps; the model is not written), its
    losses, how it was laid on the device and with how many pairs at once, the bytes that were
    counted for that, and seconds of each step but the first."""

    seconds: float
    losses: list[float]
    laid: str
    at_once: int
    counted: int
    steps: list[float]


def recipe(shape: str, batch: int, adapted: bool | None = None) -> Recipe:
    """One epoch: LoRA r 128 on the 7B shape, the small ones in full; or as ``adapted`` says."""
    adapted = shape == "7b" if adapted is None else adapted
    lora = (Lora(r=128, alpha=256) if shape == "7b" else Lora(r=8, alpha=16)) if adapted else None
    rate = 1e-6 if shape == "7b" else 1e-4
    return Recipe(lr=rate, epochs=1, global_batch=batch, warmup=0.0, lora=lora)


def ours(
    model: Any,
    processor: Any,
    work: Sequence[PreferencePair],
    images: Sequence[PILImage.Image],
    given: Recipe,
    at_once: int,
    placement: Placement | None = None,
) -> Trained:
    """A training by our loop; ``placement``: instead of ``at_once`` pairs and what fits."""
    ended, counted = [0.0], [0]
    asked = placement or Placement(device_batch=at_once, log_to=(), find_batch_size=False)

    def progress(_what: str, _done: int, _total: int) -> None:
        ended[0] = clock(model.device.type)

    def counting(asked: Placement, model: Any, trained: Any, pairs: Any, **more: Any) -> Placement:
        """What fits, and how many bytes are counted for it."""
        laid = fit(asked, model, trained, pairs, **more)
        longest = sorted(pairs, key=lambda one: -one.length)[: laid.device_batch]
        recomputed, sides = bool(laid.checkpointing), more["sides"]
        need = estimate(model, trained, longest, sides=sides, checkpointing=recomputed)
        counted[0] = need.total
        return laid

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(training, "fit", counting),
        patch.object(save_model, "write_folder"),  # 14 GB that nobody reads
    ):
        began = clock(model.device.type)
        summary = train_pairs(
            model=model,
            processor=processor,
            pairs=work,
            images=lambda item: images[int(item)],
            recipe=given,
            seed=0,
            out=Path(folder),
            placement=asked,
            lora_targets=LLAMA_LINEARS if given.lora else None,
            checkpoint_every=10**9,
            progress=progress,
        )
        rows = read_jsonl(Path(folder) / "log.jsonl")
    laid = f"{summary.device_batch} pairs at once" + (
        ", activations recomputed" if summary.checkpointing else ""
    )
    return Trained(
        seconds=ended[0] - began,
        losses=[row["loss"] for row in rows],
        laid=laid,
        at_once=summary.device_batch,
        counted=counted[0],
        steps=[b["seconds"] - a["seconds"] for a, b in pairwise(rows)],
    )


def first_adapters(model: Any, given: Recipe) -> dict[str, Any]:
    """The adapters that our training starts from, by name; the model is left as it was."""
    assert given.lora is not None
    wrapped = add_adapters(model, given.lora, LLAMA_LINEARS, 0)
    named = model.named_parameters()
    found = {name: one.detach().clone() for name, one in named if "lora_A" in name}
    wrapped.unload()
    return found


def trls(
    model: Any,
    reference: Any,
    processor: Any,
    work: Sequence[PreferencePair],
    images: Sequence[PILImage.Image],
    given: Recipe,
    at_once: int,
    checkpointing: bool = False,
) -> tuple[float, list[float]]:
    """The same pairs in the same order through trl's DPOTrainer: seconds, losses.

    ``reference`` is None with adapters, which are switched off for it; they start as ours do.
    """
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
    start = first_adapters(model, given) if given.lora else {}
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
            gradient_checkpointing=checkpointing,
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
        for name, parameter in trainer.model.named_parameters():
            if (known := start.get(name.removeprefix("base_model.model."))) is not None:
                parameter.data.copy_(known)
        began = clock(model.device.type)
        trainer.train()
        seconds = clock(model.device.type) - began
    return seconds, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def floor_pairs_a_second(
    parameters: float, prompt: float, side: float, *, tflops: float = 790.0, full: bool = False
) -> float:
    """Pairs a second on a card at its peak (one H200's): the reference's forward pass (2 FLOPs a
    weight and token), and the policy's forward and backward pass, which leaves frozen weights'
    gradients out (4; 6 in ``full`` training); the prompt once for both sides."""
    flops = (8.0 if full else 6.0) * parameters * (prompt + 2 * side)
    return tflops * 1e12 / flops
