"""The optimiser steps of a training by trl's DPOTrainer instead of our own loop: slower, plain, and
a check on that loop which anyone can run.

**Ours** are the pairs with their order and token ids, the pixels, which parameters train, how new
adapters begin, the log's lines, and what is written at the end (trainer.py).

**trl's and transformers'** are the batches (one padded row an answer, nothing is packed), the
model's own forward pass from the pixels on, the log-probabilities, those of the reference (the
model before the first step, where new adapters add 0), the DPO and the supervised loss, gradient
accumulation, clipping, AdamW and the learning rates.

**Not trl's**: its chat templates and image processing; and checkpoints. Trainer pickles optimiser
and random state, and reads a LLaVA's weights back under old names, so that it would go on from the
initial ones. Ours (resume.py) hold safetensors and JSON.

The subclass adds SENA's alignment term to the loss, and for SIMA's released objective it changes
which tokens of the rejected answer are scored. It overrides hooks of trl and Trainer that are not
public; a test compares both trainers."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import PrinterCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from harness.artifacts.results_folder import read_json
from harness.models.find_family import family_of
from harness.training import resume
from harness.training.loggers import StepLog
from harness.training.loop import Training, check_finite, not_finite
from harness.training.lora import eval_tower, parameter_groups
from methods.objective import alignment_loss, likeliest_other

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""transformers' names of a recipe's schedules."""

IGNORED = -100
"""The label of a position without a loss."""

RANDOM = "random.safetensors"
"""A checkpoint's file of torch's random states."""


def run_steps(
    training: Training,
    processor: Any,
    images: Callable[[str], Image],
    identity: str,
    every: int,
    report: Callable[[str, int, int], None],
) -> tuple[Training, float]:
    """Take the optimiser steps that are left; as :func:`harness.training.trainer.run_steps`."""
    loop, model, checkpoints = training.loop, training.model, training.checkpoints
    total, family = len(training.steps), family_of(model, processor)
    resume.remove_partial(checkpoints)
    start, state = resume.latest(checkpoints, identity) or (0, {"seconds": 0.0})
    texts = DataCollatorForPreference(pad_token_id=loop.pad)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch for the model's own forward pass: trl's of the token ids, with each row's image
        and whether its pair has the alignment term."""
        batch: dict[str, Tensor] = texts(examples)
        pairs = [training.encoded[example["number"]].pair for example in examples]
        items = dict.fromkeys(pair.item for pair in pairs)
        pixels = {item: family.pixels([images(item)])[0] for item in items}
        shown = [pixels[pair.item] for pair in pairs] * 2  # chosen rows, then rejected ones
        batch |= family.forward_inputs(batch["input_ids"], shown)
        return {**batch, "aligned": torch.tensor([pair.aligned for pair in pairs])}

    log = StepLog(training.out, training.config.log_to, asdict(loop.recipe), total, start)
    batch = rows_at_once(training)
    began: float = time.perf_counter() - state["seconds"]

    def seconds() -> float:
        return time.perf_counter() - began

    def write(step: int, row: Mapping[str, float | None]) -> None:
        if not math.isfinite((row["loss"] or 0.0) + (row["grad_norm"] or 0.0)):
            raise not_finite(step - 1, total)
        log.write(step, row, seconds())
        report("train", step, total)

    def keep(trainer: PairTrainer) -> None:
        content = {"identity": identity, "seconds": seconds(), "scheduler": trainer.rates()}
        step = trainer.state.global_step
        resume.save(
            checkpoints, step, loop.parameters, trainer.optimizer, content, more=trainer.write_state
        )

    model.eval()  # so that the reference has no dropout
    with _restored(model):
        trainer = PairTrainer(
            training=training,
            collate=collate,
            settings=_settings(training, batch, every),
            tokenizer=processor.tokenizer,
            write=write,
            keep=keep,
        )
        trainer.train(str(resume.checkpoint_path(checkpoints, start)) if start else None)
        trainer.remove_hooks()
    check_finite(loop)
    model.zero_grad()
    log.close()
    return replace(training, loop=replace(loop, device_batch=batch)), seconds()


def rows_at_once(training: Training) -> int:
    """Pairs in one forward pass: as many as fit and divide every step, because Trainer takes the
    mean over passes. One for fine-tuning, of which trl takes the mean over all tokens of a pass."""
    if training.loop.recipe.objective == "sft":
        return 1
    sizes = {len(step) for step in training.steps}
    most = range(training.config.device_batch, 0, -1)
    return next(number for number in most if not any(size % number for size in sizes))


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """trl's trainer on pairs that are encoded already, in a given order.

    Args:
        write: called after each step with the step (from 1) and the log's values.
        keep: called after each step that ends with a checkpoint.
    """

    def __init__(
        self,
        *,
        training: Training,
        collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        settings: DPOConfig,
        tokenizer: Any,
        write: Callable[[int, Mapping[str, float | None]], None],
        keep: Callable[[PairTrainer], None],
    ) -> None:
        self.training, self.recipe = training, training.loop.recipe
        self.write, self.keep = write, keep
        numbers = {each.pair.key: number for number, each in enumerate(training.encoded)}
        self.order = [numbers[each.pair.key] for step in training.steps for each in step]
        model = training.model
        # Hooks, because trl calls the model itself and keeps the log-probabilities of each token.
        self.hooks = (
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward),
        )
        columns = {
            "prompt_ids": [each.prompt for each in training.encoded],
            "chosen_ids": [each.chosen for each in training.encoded],
            "rejected_ids": [each.rejected for each in training.encoded],
            "number": list(range(len(training.encoded))),
        }
        super().__init__(
            model=model,
            args=settings,
            data_collator=collate,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
        )
        self.processing_class = None  # else Trainer changes the model's special tokens
        self.remove_callback(PrinterCallback)

    def remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        return dataset  # it is tokenised

    def _get_train_sampler(self, _dataset: Any = None) -> list[int]:
        return self.order

    def create_optimizer(self, _model: Any = None) -> torch.optim.Optimizer:
        """Trainer's AdamW, with the projector's own rate where the recipe has one."""
        made, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        groups = [
            {"params": group["params"], "lr": group["peak"], "weight_decay": self.args.weight_decay}
            for group in parameter_groups(self.model, self.training.loop.parameters, self.recipe)
        ]
        optimizer: torch.optim.Optimizer = made(groups, **options)
        self.optimizer = optimizer
        return optimizer

    def _before_forward(self, model: Any, args: Any, given: dict[str, Any]) -> tuple[Any, Any]:
        given.pop("aligned", None)
        if self.recipe.objective == "rejected_from_argmax":
            given["labels"] = self._argmax_labels(model, **given)
        return args, given

    def _argmax_labels(
        self, model: Any, labels: Tensor, fused_lm_head: bool, **inputs: Any
    ) -> Tensor:
        """The labels, with the model's own tokens in the rejected rows. They are what is scored;
        the rows stay as they are."""
        assert fused_lm_head
        with torch.no_grad(), self.accelerator.autocast():
            logits = type(model).forward(model, **inputs).logits  # past trl's head and these hooks
        n = len(labels) // 2
        rejected = labels[n:, 1:]
        others = likeliest_other(logits[n:, :-1], rejected)
        changed = labels.clone()
        changed[n:, 1:] = torch.where(rejected == IGNORED, IGNORED, others)
        return changed

    def _after_forward(self, _model: Any, _args: Any, output: Any) -> None:
        self.log_probs = output.log_probs

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **more: Any) -> Any:
        eval_tower(self.model)  # Trainer has just put all of the model into training mode
        aligned, mask = inputs["aligned"], inputs["completion_mask"][:, 1:].bool()
        loss = super().compute_loss(model, inputs, *args, **more)
        if self.recipe.objective == "sft":
            return loss
        n = len(aligned)
        alignment = alignment_loss(self.log_probs[:n], mask[:n], aligned).mean()
        self._metrics["train"]["dpo"].append(loss.item())
        self._metrics["train"]["alignment"].append(alignment.item())
        return loss + self.recipe.alignment_weight * alignment

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:  # the summary at the end
            return
        names = {"dpo": "dpo", "alignment": "alignment", "margin": "rewards/margins"}
        names |= {"reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected"}
        names["accuracy"] = "rewards/accuracies"
        pairwise = self.recipe.objective != "sft"
        row = {name: logs[theirs] if pairwise else None for name, theirs in names.items()}
        norm, rate = logs["grad_norm"], logs["learning_rate"]
        row = {"loss": logs["loss"], **row, "grad_norm": norm, "lr": rate}
        self.write(self.state.global_step, row)

    def create_model_card(self, *_args: Any, **_more: Any) -> None:
        """None for a checkpoint."""

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        if self.state.global_step < self.state.max_steps:  # after the last the model is written
            self.keep(self)

    def rates(self) -> dict[str, Any]:
        """The state of the learning rates' schedule, for JSON."""
        state: dict[str, Any] = self.lr_scheduler.state_dict()
        return state

    def write_state(self, folder: Path) -> None:
        """What a checkpoint holds beside weights, moments and :meth:`rates`: Trainer's counters and
        torch's random states, from which dropout draws."""
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        states = {"cpu": torch.get_rng_state()}
        if self.model.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.model.device)
        resume.save_tensors(states, folder / RANDOM)

    def _load_from_checkpoint(self, _folder: str, _model: Any = None) -> None:
        """Nothing: the weights are loaded with their moments."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        step, state = self.state.global_step, read_json(Path(checkpoint) / "state.json")
        resume.load(Path(checkpoint).parent, step, self.training.loop.parameters, self.optimizer)
        self.lr_scheduler.load_state_dict(state["scheduler"])
        rates = self.lr_scheduler.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(Path(checkpoint) / RANDOM)
        torch.set_rng_state(states["cpu"])
        if self.model.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.model.device)


def _settings(training: Training, batch: int, every: int) -> DPOConfig:
    loop, config, total = training.loop, training.config, len(training.steps)
    recipe, device = loop.recipe, training.model.device
    dropout = recipe.lora.dropout if recipe.lora else 0.0
    settings = DPOConfig(
        # Trainer makes this folder. It has a half-written checkpoint's name, so it is removed.
        output_dir=str(training.checkpoints / ".step-trl"),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=len(training.steps[0]) // batch,
        max_steps=total,
        learning_rate=recipe.lr,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=math.ceil(recipe.warmup * total),
        max_grad_norm=recipe.max_grad_norm,
        weight_decay=0.0,
        loss_type=["sft" if recipe.objective == "sft" else "sigmoid"],
        beta=recipe.beta,
        precompute_ref_log_probs=True,
        max_length=None,
        disable_dropout=dropout == 0.0,
        seed=loop.seed,
        bf16=training.dtype != torch.float32,
        gradient_checkpointing=bool(config.checkpointing),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=every,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        report_to=[],
        disable_tqdm=True,
    )
    if device.type == "cuda":
        settings._n_gpu = 1  # one of several; else Trainer splits batches over all
    return settings


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Undo afterwards what trl and Trainer change of a model beside its weights, so that the same
    files are written as by our own loop. Progress bars are off: the caller shows its own."""
    parts = (model, model.config, model.config.get_text_config(), model.generation_config)
    before = [dict(vars(part)) for part in parts]
    bars, shown = os.environ.get("TQDM_DISABLE"), not datasets.are_progress_bars_disabled()
    os.environ["TQDM_DISABLE"] = "1"
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # Theirs, about old names in each other.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated")
            yield
    finally:
        for part, values in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(values)
        del os.environ["TQDM_DISABLE"]
        if bars is not None:
            os.environ["TQDM_DISABLE"] = bars
        if shown:
            datasets.enable_progress_bars()
