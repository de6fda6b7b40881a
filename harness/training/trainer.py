"""Preference pairs become a model: one training loop for every method, so that a comparison
compares the pairs.

The loop is our own, not a subclass of transformers' Trainer. Trainer pickles its optimiser, its
checkpoints of a LLaVA come back with old key names (training then silently starts from the initial
weights), and packed rows with cached references fit none of its hooks. Optimiser, clipping and
schedules are Trainer's (AdamW 0.9/0.999/1e-8, no weight decay, norm 1.0). trl's
DPOTrainer can take the steps in its place (``Placement.trainer``), as a check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from harness.artifacts.fingerprint import fingerprint
from harness.errors import UserError
from harness.models.adapters import Parent, saved_model
from harness.training import resume, save_model
from harness.training.fsdp import Policy, shard, upcast_trainable
from harness.training.loggers import StepLog, check_trackers
from harness.training.loop import (
    Loop,
    Training,
    TrainSummary,
    find_batch_size,
    summary_of,
    take_step,
)
from harness.training.lora import add_adapters, choose_trainable, eval_tower, parameter_groups
from harness.training.pair_batches import encode, image_features, image_spans
from harness.training.placement import (
    DEFAULT_PLACEMENT,
    Placement,
    check_trainer,
    fit,
    make_optimizer,
    with_device_memory,
)
from harness.training.policy import recompute_activations
from harness.training.ranks import ranks
from harness.training.reference_logps import reference_logps, weights_digest
from harness.training.schedule import lr_factor, plan
from harness.training.update_kept import spaced_values
from methods.interface import PreferencePair, Recipe

CHECKPOINTS = 4
"""About how many checkpoints a run writes if ``checkpoint_every`` is not given."""

Progress = Callable[[str, int, int], None]
"""(what, done, total); ``what`` is "images", "reference" (batches) or "train" (optimiser steps)."""


def train_pairs(
    *,
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    recipe: Recipe,
    seed: int,
    out: Path,
    placement: Placement = DEFAULT_PLACEMENT,
    max_steps: int | None = None,
    lora_targets: str | None = None,
    parent: Parent | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train ``model`` (in place, on its device) on ``pairs``; write ``out/model`` and
    ``out/log.jsonl``. Adapters of a base in half precision are not merged, which would lose most of
    a small update: ``out/adapter`` is then written alone.

    A killed training continues when called again with the same arguments and the same initial
    model. The weights are bit-identical on the same kind of machine with the same placement, as far
    as its kernels are deterministic (the CPU's are).

    Args:
        images: the image of an item id.
        recipe: with LoRA, the adapters train, and the projector if ``projector_lr`` is above
            0. Without it all but the vision tower trains.
        placement: how to use the machine. Gradients are accumulated up to ``recipe.global_batch``
            pairs, over all processes.
        max_steps: the number of optimiser steps (see :func:`plan`).
        lora_targets: a regular expression of the modules with adapters.
        parent: the model that the adapters are trained on; beside a merged model ``out/adapter``
            is then written, too.
        checkpoint_every: optimiser steps between two checkpoints.

    Raises:
        UserError: no pairs, a repeated key, an unknown image, a prompt that is too long, a loss
            that is not finite, too little memory, or an ``out`` that holds another training.
    """
    report = progress or (lambda _what, _done, _total: None)
    _check_arguments(pairs, recipe, max_steps, lora_targets)
    check_trackers(placement.log_to)
    check_trainer(placement, ranks().size)
    policy_digest = weights_digest(model)
    texts = [(p.key, p.item, p.prompt, p.chosen, p.rejected, p.aligned) for p in pairs]
    choices = placement.identity.values()
    identity = fingerprint([policy_digest, recipe, seed, max_steps, lora_targets, texts, *choices])
    if saved_model(out / "model").exists() and (
        summary_fields := resume.finished(out / "checkpoints", identity)
    ):
        return TrainSummary(**summary_fields)
    plans = plan(len(pairs), recipe, seed, max_steps)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        training = prepare(
            model=model,
            processor=processor,
            pairs=pairs,
            images=images,
            plans=plans,
            recipe=recipe,
            seed=seed,
            out=out,
            placement=placement,
            lora_targets=lora_targets,
            policy_digest=policy_digest,
            report=report,
        )
        interval = checkpoint_every or math.ceil(len(plans) / CHECKPOINTS)
        if placement.trainer == "own":
            training, seconds = run_steps(training, identity, interval, report)
        else:
            from harness.training import trl_training  # it imports trl, which takes seconds

            training, seconds = trl_training.run_steps(
                training, processor, images, identity, interval, report
            )
    update_kept = save_model.save(training, processor, lora_targets, parent)
    summary = summary_of(training, len(pairs), seconds, update_kept)
    ranks().on_main(lambda: resume.finish(training.checkpoints, identity, asdict(summary)))
    return summary


def prepare(
    *,
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    plans: Sequence[Sequence[int]],
    recipe: Recipe,
    seed: int,
    out: Path,
    placement: Placement,
    lora_targets: str | None,
    policy_digest: str,
    report: Progress,
) -> Training:
    """Encode the pairs, choose what trains and how, and compute the reference log-probabilities.
    ``plans`` holds the indices of each step's pairs, ``policy_digest`` the model's digest."""
    dtype, size, adapted = model.dtype, ranks().size, recipe.lora is not None
    model.eval()
    used = sorted({index for step in plans for index in step})
    chosen = [pairs[index] for index in used]
    own_loop = placement.trainer == "own"
    # trl reads pixels; features then serve to check merged adapters alone.
    feature_pairs = chosen if own_loop else chosen[: placement.device_batch]
    features = image_features(model, processor, feature_pairs, images, progress=report)
    encoded = encode(
        chosen,
        processor,
        patches=image_spans(model, processor, chosen, images),
        positions=model.config.get_text_config().max_position_embeddings,
        double_wrapped=recipe.double_wrapped,
    )
    by_index = dict(zip(used, encoded, strict=True))
    wrapped = add_adapters(model, recipe.lora, lora_targets or "", seed) if recipe.lora else None
    parameters = choose_trainable(model, recipe)
    start = {} if adapted else spaced_values(parameters)
    with_memory = with_device_memory(placement, model, ranks())
    sides = 1 if recipe.objective == "sft" else 2
    # trl's two rows of a pair hold the prompt each.
    rows = encoded if own_loop else [replace(pair, prompt=pair.prompt * 2) for pair in encoded]
    config = fit(with_memory, model, parameters, rows, sides=sides, processes=size, adapted=adapted)
    if adapted or not config.sharded:  # else each layer is converted as it is sharded
        upcast_trainable(parameters.values())
    loop = Loop(
        policy=Policy(model, features, rejected_argmax=recipe.objective == "rejected_from_argmax"),
        parameters=parameters,
        references={},
        recipe=recipe,
        seed=seed,
        pad=processor.tokenizer.pad_token_id,
        device_batch=config.device_batch,
        sharded=bool(config.sharded),
        ranks=ranks(),
        autocast=_autocast(model, config),
    )
    if own_loop and recipe.objective != "sft":
        # New adapters add exactly 0: the model is still the policy at the round's start.
        cache = out / "reference.jsonl"
        references = reference_logps(
            loop, encoded, policy=policy_digest, cache=cache, progress=report
        )
        loop = replace(loop, references=references)
    if config.sharded:
        shard(loop.policy, size, half=dtype != torch.float32, adapted=adapted)
        loop = replace(loop, parameters={name: model.get_parameter(name) for name in parameters})
    optimizer = make_optimizer(parameter_groups(model, loop.parameters, recipe), config.optimizer)
    return Training(
        out=out,
        model=model,
        dtype=dtype,
        wrapped=wrapped,
        config=config,
        loop=loop,
        optimizer=optimizer,
        steps=[[by_index[index] for index in step] for step in plans],
        encoded=encoded,
        start=start,
    )


def run_steps(
    training: Training, identity: str, interval: int, report: Progress
) -> tuple[Training, float]:
    """Take the remaining optimiser steps, with a checkpoint after every ``interval`` steps. Returns
    the training with the batch size that it ran with, and its seconds over all pieces."""
    loop, optimizer, checkpoints = training.loop, training.optimizer, training.checkpoints
    config, model, total = training.config, training.model, len(training.steps)
    loop.ranks.on_main(lambda: resume.remove_partial(checkpoints))
    start, state = resume.latest(checkpoints, identity) or (0, {"seconds": 0.0})
    if config.checkpointing:
        recompute_activations(model)
    model.train()
    eval_tower(model)
    if start:
        resume.load(checkpoints, start, loop.parameters, optimizer)
        # The size that was found to fit, or less on a device with less memory.
        loop = replace(loop, device_batch=min(loop.device_batch, state["device_batch"]))
    elif config.find_batch_size:
        loop = find_batch_size(loop, training.encoded)
    loop.ranks.barrier()
    log = None
    if loop.ranks.is_main:
        log = StepLog(training.out, config.log_to, asdict(loop.recipe), total, start)
    start_time = time.perf_counter() - state["seconds"]
    for step in range(start, total):
        factor = lr_factor(step, total, loop.recipe)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        row = take_step(loop, optimizer, training.steps[step], step, total)
        row["lr"] = loop.recipe.lr * factor
        seconds = time.perf_counter() - start_time
        if log:
            log.write(step + 1, row, seconds)
        if (step + 1) % interval == 0 and step + 1 < total:
            state = {"identity": identity, "seconds": seconds, "device_batch": loop.device_batch}
            main = loop.ranks.is_main
            resume.save(checkpoints, step + 1, loop.parameters, optimizer, state, is_main=main)
        report("train", step + 1, total)
    seconds = time.perf_counter() - start_time
    optimizer.zero_grad()
    if log:
        log.close()
    return replace(training, loop=loop), seconds


def _check_arguments(
    pairs: Sequence[PreferencePair], recipe: Recipe, max_steps: int | None, targets: str | None
) -> None:
    if not pairs:
        raise UserError(
            "There are no pairs to train on; see drops.jsonl for the reasons, and give the method"
            " more images."
        )
    keys = [pair.key for pair in pairs]
    if len(set(keys)) < len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise UserError(
            f"Two pairs have the key {repeated}; each pair of a round needs a key of its own."
        )
    if max_steps is not None and max_steps < 1:
        raise UserError(f"max_steps is {max_steps}; it must be at least 1.")
    if recipe.lora is not None and not targets:
        raise UserError(
            "The recipe asks for LoRA but the base names no target modules; give lora_targets, as"
            " the base's card does."
        )


def _autocast(model: Any, config: Placement) -> Callable[[], AbstractContextManager[Any]]:
    """bfloat16 for a base that was loaded in half precision, no autocast for a float32 one."""
    if model.dtype == torch.float32:
        return nullcontext
    # With recomputed activations the rounded weights are not cached: they would take half as much
    # memory again.
    return lambda: torch.autocast(
        model.device.type, torch.bfloat16, cache_enabled=not config.checkpointing
    )
