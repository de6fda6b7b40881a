"""Preference pairs become a model: one small training loop for every method, so that a comparison
compares the pairs.

An own loop, not a transformers.Trainer subclass: Trainer writes its optimiser by pickle, its
checkpoints of a LLaVA come back with old key names (training silently goes on from the initial
weights), and a batch of packed rows with cached references fits none of its hooks. Optimiser,
clipping and schedules are Trainer's defaults (AdamW 0.9/0.999/1e-8, no weight decay, norm 1.0), and
a test holds the trajectory to trl's DPOTrainer."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import explain_disk_errors, read_json, write_json
from harness.errors import UserError
from harness.models.adapters import Parent
from harness.training import resume as checkpoint
from harness.training.fsdp import Policy, merge, shard, spread_again, widen
from harness.training.loggers import check_trackers, open_logs
from harness.training.loop import Loop, rehearse, take_step
from harness.training.lora import (
    adapter_of,
    add_adapters,
    check_merged,
    choose_trainable,
    parameter_groups,
    still_tower,
)
from harness.training.pair_batches import EncodedPair, encode, pack, picture_features, picture_spans
from harness.training.placement import AS_FITS, Placement, fit, make_optimizer, measured
from harness.training.ranks import Team, team
from harness.training.reference_logps import reference_logps, weights_digest
from harness.training.schedule import lr_factor, plan
from methods.interface import PreferencePair, Recipe

CHECKPOINTS = 4
"""About how many checkpoints a run writes where ``checkpoint_every`` is not given."""

Progress = Callable[[str, int, int], None]
"""(what, done, total); ``what`` is "images", "reference" (batches) or "train" (optimiser
steps)."""


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training used. ``visits`` counts pairs as often as they were trained on, ``tokens``
    the answer tokens (end tokens included) of these visits, ``cut`` the used pairs with an answer
    cut at the model's length; ``seconds`` is the loop's. The rest says how it was laid on the
    machine."""

    steps: int
    pairs_made: int
    pairs_used: int
    visits: int
    tokens: int
    cut: int
    seconds: float
    processes: int
    device_batch: int
    checkpointing: bool
    sharded: bool
    optimizer: str


def train_pairs(
    *,
    model: Any,
    processor: Any,
    pairs: Sequence[PreferencePair],
    images: Callable[[str], Image],
    recipe: Recipe,
    seed: int,
    out: Path,
    placement: Placement = AS_FITS,
    max_steps: int | None = None,
    lora_targets: str | None = None,
    parent: Parent | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train ``model`` (in place, on its device) on ``pairs``; write ``out/model``,
    ``out/log.jsonl`` and ``out/checkpoints``.

    ``images`` gives the image of an item id. ``placement`` says how many pairs go through the
    model at once and how the work is laid on the machine; gradients are accumulated up to
    ``recipe.global_batch``, over the processes of a team too.
    ``max_steps`` fixes the number of optimiser steps (see :func:`plan`). With ``recipe.lora`` the
    adapters sit on the modules that ``lora_targets`` (a regular expression) matches, the projector
    trains in full if ``projector_lr`` is given, and the saved model has the adapters merged;
    ``out/adapter`` holds them unmerged where ``parent`` says what they sit on. Without it all but
    the vision tower trains.

    A run that was killed continues when called again with the same arguments and the model it began
    with: to bit-identical weights with the same placement on the same kind of machine, as far as
    its kernels are deterministic (the CPU's are).

    Raises :class:`UserError`: no pairs, a key twice, an unknown image, a prompt that is too long,
    a loss that is not finite, too little memory, or an ``out`` that holds another training."""
    report = progress or (lambda _what, _done, _total: None)
    _check(pairs, recipe, max_steps, lora_targets)
    check_trackers(placement.log_to)
    crew = team()
    checkpoints = out / "checkpoints"
    policy = weights_digest(model)
    identity = fingerprint(
        [
            policy,
            recipe,
            seed,
            max_steps,
            lora_targets,
            [
                (pair.key, pair.item, pair.prompt, pair.chosen, pair.rejected, pair.aligned)
                for pair in pairs
            ],
            *([] if placement.optimizer == "adamw" else [placement.optimizer]),
        ]
    )
    if (summary := _finished(checkpoints, identity, out / "model")) is not None:
        return summary
    steps = plan(len(pairs), recipe, seed, max_steps)
    used = sorted({index for step in steps for index in step})
    kept = [pairs[index] for index in used]

    model.eval()
    loaded_dtype = model.dtype
    features = picture_features(model, processor, kept, images, progress=report)
    encoded = encode(
        kept,
        processor,
        patches=picture_spans(model, processor, kept, images),
        positions=model.config.get_text_config().max_position_embeddings,
    )
    by_index = dict(zip(used, encoded, strict=True))
    pad = processor.tokenizer.pad_token_id

    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        wrapped = (
            add_adapters(model, recipe.lora, lora_targets, seed)
            if recipe.lora and lora_targets
            else None
        )
        parameters = choose_trainable(model, recipe)
        sides = 1 if recipe.objective == "sft" else 2
        told = measured(placement, model, crew)
        laid = fit(
            told,
            model,
            parameters,
            encoded,
            sides=sides,
            processes=crew.size,
            adapted=recipe.lora is not None,
        )
        autocast = _autocast(model, laid)
        if not (laid.sharded and recipe.lora is None):  # there it is done as each layer is spread
            widen(parameters.values())
        references: Mapping[str, tuple[float, float]] = {}
        if recipe.objective != "sft":
            references = reference_logps(
                model,  # fresh adapters add exactly 0: this is the policy at the round's start
                encoded,
                features,
                policy=policy,
                cache=out / "reference.jsonl",
                batch=2 * laid.device_batch,  # nothing is kept for a backward pass
                pad=pad,
                rejected_argmax=recipe.objective == "rejected_from_argmax",
                autocast=autocast,
                team=crew,
                progress=report,
            )
        wrapper = Policy(
            model, features, rejected_argmax=recipe.objective == "rejected_from_argmax"
        )
        if laid.sharded:
            shard(
                wrapper,
                crew.size,
                half=loaded_dtype != torch.float32,
                adapted=recipe.lora is not None,
            )
            parameters = {name: model.get_parameter(name) for name in parameters}
        loop = Loop(
            policy=wrapper,
            parameters=parameters,
            references=references,
            recipe=recipe,
            seed=seed,
            pad=pad,
            device_batch=laid.device_batch,
            sharded=bool(laid.sharded),
            team=crew,
            autocast=autocast,
        )
        optimizer = make_optimizer(parameter_groups(model, parameters, recipe), laid.optimizer)
        if crew.first:
            checkpoint.tidy(checkpoints)
        crew.barrier()
        done, state = checkpoint.newest(checkpoints) or (0, {"identity": identity, "seconds": 0.0})
        if state["identity"] != identity:
            raise UserError(
                f"{checkpoints} holds another training (settings, pairs or base); delete {out} and"
                " run again."
            )
        if laid.checkpointing:
            recompute_activations(model)
        model.train()
        still_tower(model)
        if done:
            checkpoint.load(checkpoints, done, parameters, optimizer)
            # What the rehearsal found; less where this machine has less memory than the one before.
            loop = replace(loop, device_batch=min(loop.device_batch, state["device_batch"]))
        elif laid.rehearse:
            loop = rehearse(loop, encoded)

        log = out / "log.jsonl"
        crew.barrier()
        if crew.first:
            checkpoint.continue_log(log, done)
        title = out.resolve().parent.as_posix()[-120:]
        trackers = (
            open_logs(laid.log_to, out, title=title, settings=asdict(recipe), done=done)
            if crew.first
            else []
        )
        every = checkpoint_every or math.ceil(len(steps) / CHECKPOINTS)
        began = time.perf_counter() - state["seconds"]
        for step in range(done, len(steps)):
            factor = lr_factor(step, len(steps), recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch = [by_index[index] for index in steps[step]]
            row = take_step(loop, optimizer, batch, step, len(steps))
            row["lr"] = recipe.lr * factor
            seconds = time.perf_counter() - began
            if crew.first:
                line = {"step": step + 1, "steps": len(steps), **row, "seconds": round(seconds, 3)}
                checkpoint.append_log(log, line)
                for tracker in trackers:
                    tracker(
                        step + 1, {name: value for name, value in row.items() if value is not None}
                    )
            if (step + 1) % every == 0 and step + 1 < len(steps):
                state = {
                    "identity": identity,
                    "seconds": seconds,
                    "device_batch": loop.device_batch,
                }
                checkpoint.save(
                    checkpoints, step + 1, parameters, optimizer, state, writes=crew.first
                )
            report("train", step + 1, len(steps))
        seconds = time.perf_counter() - began
        optimizer.zero_grad()
        for tracker in trackers:
            tracker(-1, {})

    model.eval()
    if laid.checkpointing:
        recompute_activations(model, False)
    if wrapped is not None:
        if parent is not None and recipe.lora and lora_targets:
            values = {name: parameter.detach() for name, parameter in parameters.items()}
            whole = checkpoint.gathered(values, keep=crew.first)  # for which every process calls
            if crew.first:
                _save(out / "adapter", adapter_of(model, whole, recipe.lora, lora_targets, parent))
        _merge(loop, wrapped, encoded[: loop.device_batch])
    trained = _whole_model(model, loaded_dtype, crew) if laid.sharded else model.to(loaded_dtype)
    if crew.first:
        _save(out / "model", trained, processor)
    summary = TrainSummary(
        steps=len(steps),
        pairs_made=len(pairs),
        pairs_used=len(used),
        visits=sum(map(len, steps)),
        tokens=sum(
            _tokens(by_index[index], loop.sides) for step_pairs in steps for index in step_pairs
        ),
        cut=sum(one.cut for one in encoded),
        seconds=seconds,
        processes=crew.size,
        device_batch=loop.device_batch,
        checkpointing=bool(laid.checkpointing),
        sharded=bool(laid.sharded),
        optimizer=laid.optimizer,
    )
    if crew.first:
        _finish(checkpoints, identity, summary)
    crew.barrier()
    return summary


def recompute_activations(model: Any, on: bool = True) -> None:
    """Make the model recompute activations in the backward pass, or keep them again."""
    # transformers 5.23 gave these methods their names and deprecated the old ones.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()


def _merge(loop: Loop, wrapped: Any, sample: Sequence[EncodedPair]) -> None:
    """Fold the adapters into the base's weights, in place, and hold the result to the unmerged
    logits."""
    batch, policy = pack(sample, sides=loop.sides, pad=loop.pad), loop.policy
    with torch.no_grad():
        with loop.autocast():
            before = policy.logits(batch)[batch.mask]
        # In the adapters' own precision: autocast would round their product, too.
        if loop.sharded:
            merge(policy.model)
            wrapped.unload()
        else:
            wrapped.merge_and_unload()
        with loop.autocast():
            after = policy.logits(batch)[batch.mask]
    spread_again(policy)
    check_merged(before.float(), after.float(), policy.model.lm_head.weight.dtype)


def _whole_model(model: Any, dtype: torch.dtype, crew: Team) -> Any:
    """A sharded model gathered into the first process's main memory, in ``dtype``; the others get
    an empty one."""
    named = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    tensors = {
        name: parameter.detach()
        for name, parameter in named.items()
        if first[id(parameter)] == name
    }  # tied ones once
    tensors |= {name: value for name, value in model.state_dict().items() if name not in named}
    kept = {
        name: value.to("cpu", dtype)
        for name, value in checkpoint.gathered(tensors, keep=crew.first).items()
    }
    with torch.device("meta"):
        fresh = type(model)(model.config)
    if crew.first:
        fresh.load_state_dict(kept, assign=True, strict=False)
        fresh.tie_weights()
    fresh.generation_config = model.generation_config
    return fresh


def _save(folder: Path, *parts: Any) -> None:
    """Write ``folder`` whole or not at all; each part knows its own files."""
    beside = folder.with_name(f".{folder.name}.tmp")
    with explain_disk_errors(folder.parent):
        shutil.rmtree(beside, ignore_errors=True)
        try:
            for part in parts:
                part.save_pretrained(beside)
            for path in beside.glob(
                "*.safetensors"
            ):  # written for their owner alone, though they are to be shared
                shutil.copymode(next(beside.glob("*.json")), path)
        except SafetensorError as error:
            raise UserError(
                f"{folder} could not be written ({error}); free some space and run the same command"
                " again."
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def _finished(checkpoints: Path, identity: str, model: Path) -> TrainSummary | None:
    """The summary of a training that had come to its end before the stage was cut."""
    marker = checkpoints / "finished.json"
    if not (marker.exists() and model.exists()):
        return None
    content = read_json(marker)
    if content["identity"] != identity:
        raise UserError(
            f"{model} is the result of another training (settings, pairs or base); delete"
            f" {model.parent} and run again."
        )
    return TrainSummary(**content["summary"])


def _finish(checkpoints: Path, identity: str, summary: TrainSummary) -> None:
    write_json(checkpoints / "finished.json", {"identity": identity, "summary": asdict(summary)})
    checkpoint.clear(checkpoints)


def _check(
    pairs: Sequence[PreferencePair], recipe: Recipe, max_steps: int | None, targets: str | None
) -> None:
    if not pairs:
        raise UserError(
            "There are no pairs to train on; see drops.jsonl for the reasons, and give the method"
            " more images."
        )
    keys = [pair.key for pair in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(
            f"Two pairs have the key {twice}; each pair of a round needs a key of its own."
        )
    if max_steps is not None and max_steps < 1:
        raise UserError(f"max_steps is {max_steps}; it must be at least 1.")
    if recipe.lora is not None and not targets:
        raise UserError(
            "The recipe asks for LoRA but the base names no target modules; give lora_targets, as"
            " the base's card does."
        )


def _autocast(model: Any, laid: Placement) -> Callable[[], AbstractContextManager[Any]]:
    """A base loaded in half precision runs in bfloat16 (trained weights are kept in float32); a
    float32 one as it is."""
    if model.dtype == torch.float32:
        return nullcontext
    # Where activations are computed anew, so are the rounded copies of the weights: they would take
    # half as much again.
    return lambda: torch.autocast(
        model.device.type, torch.bfloat16, cache_enabled=not laid.checkpointing
    )


def _tokens(one: EncodedPair, sides: int) -> int:
    return sum(map(len, (one.chosen, one.rejected)[:sides]))
