"""Preference pairs become a model: one small training loop for every method, so that a comparison compares the pairs.

An own loop, not a transformers.Trainer subclass: Trainer writes its optimiser by pickle, its checkpoints of a LLaVA come back
with old key names (training silently goes on from the initial weights), and a batch of packed rows with cached references fits
none of its hooks. Optimiser, clipping and schedules are Trainer's defaults (AdamW 0.9/0.999/1e-8, no weight decay, norm 1.0),
and a test holds the trajectory to trl's DPOTrainer.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor

from harness.errors import Problem
from harness.identity import fingerprint
from harness.store import kindly, read_json, write_json
from harness.training import checkpoint
from harness.training.adapters import add_adapters, check_merged, choose_trainable, parameter_groups
from harness.training.data import EncodedPair, encode, pack, picture_features
from harness.training.plan import derived_seed, lr_factor, plan
from harness.training.policy import completion_logps, packed_logits
from harness.training.reference import reference_logps, weights_digest
from methods.interface import PreferencePair, Recipe
from methods.objective import alignment_loss, dpo_loss, dpo_margin, sft_loss

MAX_GRAD_NORM = 1.0
CHECKPOINTS = 4
"""About how many checkpoints a run writes where ``checkpoint_every`` is not given."""

Progress = Callable[[str, int, int], None]
"""(what, done, total); ``what`` is "pictures", "reference" (batches) or "train" (optimiser steps)."""


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training used. ``visits`` counts pairs as often as they were trained on, ``tokens`` the answer tokens (end tokens
    included) of these visits, ``cut`` the used pairs with an answer cut at the model's length; ``seconds`` is the loop's."""

    steps: int
    pairs_made: int
    pairs_used: int
    visits: int
    tokens: int
    cut: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """What stays the same from step to step."""

    model: Any
    features: Mapping[str, Tensor]
    references: Mapping[str, tuple[float, float]]
    recipe: Recipe
    seed: int
    pad: int
    device_batch: int
    autocast: Callable[[], AbstractContextManager[Any]]

    @property
    def sides(self) -> int:
        return 1 if self.recipe.objective == "sft" else 2


def train_pairs(
    *,
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    recipe: Recipe,
    seed: int,
    out: Path,
    device_batch: int = 8,
    max_steps: int | None = None,
    lora_targets: str | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train ``model`` (in place, on its device) on ``pairs``; write ``out/model``, ``out/log.jsonl`` and ``out/checkpoints``.

    ``images`` gives the picture of an item id. ``device_batch`` pairs go through the model at once; gradients are accumulated
    up to ``recipe.global_batch``. ``max_steps`` fixes the number of optimiser steps (see :func:`plan`). With ``recipe.lora``
    the adapters sit on the modules that ``lora_targets`` (a regular expression) matches, the projector trains in full if
    ``projector_lr`` is given, and the saved model has the adapters merged; without it all but the vision tower trains.

    A run that was killed continues when called again with the same arguments and the model it began with: to bit-identical
    weights with the same ``device_batch`` on the same kind of machine, as far as its kernels are deterministic (the CPU's are).

    Raises :class:`Problem`: no pairs, a key twice, an unknown picture, a prompt that is too long, a loss that is not finite, or
    an ``out`` that holds another training.
    """
    report = progress or (lambda _what, _done, _total: None)
    _check(pairs, recipe, max_steps, device_batch, lora_targets)
    checkpoints = out / "checkpoints"
    policy = weights_digest(model)
    identity = fingerprint(
        [
            policy,
            recipe,
            seed,
            max_steps,
            lora_targets,
            [(pair.key, pair.item, pair.prompt, pair.chosen, pair.rejected, pair.anchored) for pair in pairs],
        ]
    )
    if (summary := _finished(checkpoints, identity, out / "model")) is not None:
        return summary
    steps = plan(len(pairs), recipe, seed, max_steps)
    used = sorted({index for step in steps for index in step})
    kept = [pairs[index] for index in used]

    model.eval()
    loaded_dtype, autocast = model.dtype, _autocast(model)
    features = picture_features(model, processor, kept, images, progress=report)
    encoded = encode(
        kept,
        processor,
        patches=len(next(iter(features.values()))),
        positions=model.config.get_text_config().max_position_embeddings,
    )
    by_index = dict(zip(used, encoded, strict=True))
    pad = processor.tokenizer.pad_token_id

    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        wrapped = add_adapters(model, recipe.lora, lora_targets, seed) if recipe.lora and lora_targets else None
        parameters = choose_trainable(model, recipe)
        references: Mapping[str, tuple[float, float]] = {}
        if recipe.objective != "sft":
            references = reference_logps(
                model,  # fresh adapters add exactly 0: this is the policy at the round's start
                encoded,
                features,
                policy=policy,
                cache=out / "reference.jsonl",
                batch=2 * device_batch,  # nothing is kept for a backward pass
                pad=pad,
                rejected_argmax=recipe.objective == "rejected_from_argmax",
                autocast=autocast,
                progress=report,
            )
        loop = _Loop(
            model=model,
            features=features,
            references=references,
            recipe=recipe,
            seed=seed,
            pad=pad,
            device_batch=device_batch,
            autocast=autocast,
        )
        optimizer = torch.optim.AdamW(parameter_groups(parameters, recipe), weight_decay=0.0, fused=True)
        done, state = checkpoint.load(checkpoints, parameters, optimizer) or (0, {"identity": identity, "seconds": 0.0})
        if state["identity"] != identity:
            raise Problem(f"{checkpoints} holds another training (settings, pairs or base); delete {out} and run again.")
        log = out / "log.jsonl"
        checkpoint.continue_log(log, done)
        every = checkpoint_every or math.ceil(len(steps) / CHECKPOINTS)
        began = time.perf_counter() - state["seconds"]

        model.train()
        model.model.vision_tower.eval()
        for step in range(done, len(steps)):
            factor = lr_factor(step, len(steps), recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch = [by_index[index] for index in steps[step]]
            row = _step(loop, optimizer, batch, step, len(steps))
            seconds = time.perf_counter() - began
            row = {"step": step + 1, "steps": len(steps), **row, "lr": recipe.lr * factor, "seconds": round(seconds, 3)}
            checkpoint.append_log(log, row)
            if (step + 1) % every == 0 and step + 1 < len(steps):
                state = {"identity": identity, "seconds": seconds}
                checkpoint.save(checkpoints, step + 1, parameters, optimizer, state)
            report("train", step + 1, len(steps))
        seconds = time.perf_counter() - began
        optimizer.zero_grad()

    model.eval()
    if wrapped is not None:
        _merge(loop, wrapped, encoded[:device_batch])
    _save(model.to(loaded_dtype), processor, out / "model")
    summary = TrainSummary(
        steps=len(steps),
        pairs_made=len(pairs),
        pairs_used=len(used),
        visits=sum(map(len, steps)),
        tokens=sum(_tokens(by_index[index], loop.sides) for step_pairs in steps for index in step_pairs),
        cut=sum(one.cut for one in encoded),
        seconds=seconds,
    )
    _finish(checkpoints, identity, summary)
    return summary


def pair_losses(recipe: Recipe, logps: Tensor, mask: Tensor, references: Tensor, anchored: Tensor) -> dict[str, Tensor]:
    """The objective a pair, each value (B,): ``loss`` and, unless it is supervised fine-tuning, ``dpo``, ``anchor``, ``margin``.

    logps, mask (2B, T): chosen rows, then rejected ones (chosen alone, (B, T), for ``sft``). references (B, 2). anchored (B,).
    """
    if recipe.objective == "sft":
        return {"loss": sft_loss(logps, mask)}
    n = len(anchored)
    sums = (logps[:n].sum(-1), logps[n:].sum(-1), references[:, 0], references[:, 1])
    dpo = dpo_loss(*sums, recipe.beta)
    anchor = alignment_loss(logps[:n], mask[:n], anchored)
    margin = dpo_margin(*sums, recipe.beta)
    return {"loss": dpo + recipe.anchor_weight * anchor, "dpo": dpo, "anchor": anchor, "margin": margin}


def _step(
    loop: _Loop, optimizer: torch.optim.Optimizer, batch: Sequence[EncodedPair], step: int, steps: int
) -> dict[str, float | None]:
    """One optimiser step on the mean loss of ``batch``; its means for the log. Leaves the weights alone if that is not finite."""
    batch = sorted(batch, key=lambda one: one.length)  # like lengths together: less padding, the same sum
    device, parts = loop.model.device, []
    optimizer.zero_grad()
    for start in range(0, len(batch), loop.device_batch):
        rows = batch[start : start + loop.device_batch]
        torch.manual_seed(derived_seed(loop.seed, step, start))  # the adapters' dropout
        packed = pack(rows, sides=loop.sides, pad=loop.pad)
        with loop.autocast():
            logps, mask = completion_logps(
                loop.model, packed, loop.features, rejected_argmax=loop.recipe.objective == "rejected_from_argmax"
            )
        known = torch.tensor([loop.references.get(one.pair.key, (0.0, 0.0)) for one in rows], device=device)
        losses = pair_losses(loop.recipe, logps, mask, known, packed.anchored.to(device))
        (losses["loss"].sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
        parts.append({name: value.detach() for name, value in losses.items()})
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
    if not math.isfinite(norm) or not bool(values["loss"].isfinite().all()):
        bad = [one.pair.key for one, loss in zip(batch, values["loss"].tolist(), strict=True) if not math.isfinite(loss)]
        raise Problem(
            f"The loss or its gradient is not finite at step {step + 1} of {steps} (pairs: {', '.join(bad[:3]) or 'any'}); "
            "lower the recipe's learning rate and train in a fresh folder. The checkpoints before it are kept."
        )
    optimizer.step()
    means: dict[str, float | None] = {name: float(value.mean()) for name, value in values.items()}
    accuracy = float((values["margin"] > 0).float().mean()) if "margin" in values else None
    return {"loss": None, "dpo": None, "anchor": None, "margin": None, **means, "accuracy": accuracy, "grad_norm": norm}


def _merge(loop: _Loop, wrapped: Any, sample: Sequence[EncodedPair]) -> None:
    """Fold the adapters into the base's weights, in place, and hold the result to the unmerged logits."""
    batch = pack(sample, sides=loop.sides, pad=loop.pad)
    with torch.no_grad(), loop.autocast():
        before = packed_logits(loop.model, batch, loop.features)[batch.mask]
        wrapped.merge_and_unload()
        after = packed_logits(loop.model, batch, loop.features)[batch.mask]
    check_merged(before.float(), after.float(), loop.model.lm_head.weight.dtype)


def _save(model: Any, processor: Any, folder: Path) -> None:
    """Write ``folder`` whole or not at all."""
    beside = folder.with_name(f".{folder.name}.tmp")
    with kindly(folder.parent):
        shutil.rmtree(beside, ignore_errors=True)
        try:
            model.save_pretrained(beside)
            processor.save_pretrained(beside)
        except SafetensorError as error:
            raise Problem(f"{folder} could not be written ({error}); free some space and run the same command again.") from error
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def _finished(checkpoints: Path, identity: str, model: Path) -> TrainSummary | None:
    """The summary of a training that had come to its end before the stage was cut."""
    marker = checkpoints / "finished.json"
    if not (marker.exists() and model.exists()):
        return None
    content = read_json(marker)
    if content["identity"] != identity:
        raise Problem(
            f"{model} is the result of another training (settings, pairs or base); delete {model.parent} and run again."
        )
    return TrainSummary(**content["summary"])


def _finish(checkpoints: Path, identity: str, summary: TrainSummary) -> None:
    write_json(checkpoints / "finished.json", {"identity": identity, "summary": asdict(summary)})
    checkpoint.clear(checkpoints)


def _check(
    pairs: Sequence[PreferencePair], recipe: Recipe, max_steps: int | None, device_batch: int, targets: str | None
) -> None:
    if not pairs:
        raise Problem("There are no pairs to train on; see drops.jsonl for the reasons, and give the method more pictures.")
    keys = [pair.key for pair in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Problem(f"Two pairs have the key {twice}; each pair of a round needs a key of its own.")
    if device_batch < 1 or (max_steps is not None and max_steps < 1):
        raise Problem(f"device_batch is {device_batch} and max_steps {max_steps}; both must be at least 1.")
    if recipe.lora is not None and not targets:
        raise Problem(
            "The recipe asks for LoRA but the base names no target modules; give lora_targets, as the base's card does."
        )


def _autocast(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A base loaded in half precision runs in bfloat16 (trained weights are kept in float32); a float32 one as it is."""
    if model.dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(model.device.type, torch.bfloat16)


def _tokens(one: EncodedPair, sides: int) -> int:
    return sum(map(len, (one.chosen, one.rejected)[:sides]))
