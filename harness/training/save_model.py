"""A trained model as files: adapters merged or kept, sharded weights gathered, folders
written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness.artifacts.results_folder import explain_disk_errors
from harness.artifacts.safe_files import partial_folder
from harness.models.adapters import Parent
from harness.training.fsdp import merge_adapters, reshard
from harness.training.loop import Loop, Training
from harness.training.lora import Adapter, check_merged
from harness.training.pair_batches import EncodedPair, pack
from harness.training.policy import recompute_activations
from harness.training.resume import gather, not_written
from harness.training.update_kept import adapted_rows, full_share, merged_share, unmerged_share


def save(
    training: Training, processor: Any, lora_targets: str | None, parent: Parent | None
) -> float:
    """Write ``out/model``, ``out/adapter``, or both. Returns the share of the update that is left
    in them."""
    loop, model, is_main = training.loop, training.model, training.loop.ranks.is_main
    model.eval()
    if training.config.checkpointing:
        recompute_activations(model, on=False)
    if training.wrapped is not None:
        merges = training.dtype == torch.float32
        if parent is None and not merges:
            parent = Parent(name=model.config.name_or_path)
        if parent is not None and loop.recipe.lora and lora_targets:
            values = {name: parameter.detach() for name, parameter in loop.parameters.items()}
            full = gather(values, keep=is_main)  # every process must call
            if is_main:
                adapter = Adapter(
                    model=model,
                    parameters=full,
                    lora=loop.recipe.lora,
                    targets=lora_targets,
                    parent=parent,
                )
                write_folder(training.out / "adapter", adapter)
        if not merges:
            return unmerged_share(model, training.dtype)
        share = merge(loop, training.wrapped, training.encoded[: loop.device_batch])
    else:
        share = full_share(training.start, loop.parameters, training.dtype)
    if loop.sharded:
        model = gathered_model(model, training.dtype, is_main=is_main)
    else:
        model = model.to(training.dtype)
    if is_main:
        write_folder(training.out / "model", model, processor)
    return share


def merge(loop: Loop, wrapped: Any, sample: Sequence[EncodedPair]) -> float:
    """Merge the adapters of peft's ``wrapped`` model into float32 base weights, in place. Returns
    the share of the update that is left (update_kept.py).

    Raises:
        UserError: the logits of the ``sample`` changed by more than rounding.
    """
    batch, policy = pack(sample, sides=loop.sides, pad=loop.pad), loop.policy
    with torch.no_grad():
        before = policy.logits(batch)[batch.mask]
        rows = adapted_rows(policy.model)
        if loop.sharded:
            merge_adapters(policy.model)
            wrapped.unload()
        else:
            wrapped.merge_and_unload()
        after = policy.logits(batch)[batch.mask]
    reshard(policy)
    check_merged(before, after)
    return merged_share(rows)


def gathered_model(model: Any, dtype: torch.dtype, *, is_main: bool) -> Any:
    """A sharded model gathered into the main process's main memory, in ``dtype``. Every process
    must call; the others get an empty model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first_names = {id(parameter): name for name, parameter in reversed(parameters.items())}
    tensors = {
        name: parameter.detach()
        for name, parameter in parameters.items()
        if first_names[id(parameter)] == name  # tied ones once
    }
    tensors |= {name: value for name, value in model.state_dict().items() if name not in parameters}
    with torch.device("meta"):
        full_model = type(model)(model.config)
    gathered = gather(tensors, keep=is_main)
    if is_main:
        gathered = {name: value.to("cpu", dtype) for name, value in gathered.items()}
        full_model.load_state_dict(gathered, assign=True, strict=False)
        full_model.tie_weights()
    full_model.generation_config = model.generation_config
    return full_model


def write_folder(folder: Path, *parts: Any) -> None:
    """Write ``folder`` whole or not at all, by the ``save_pretrained`` of each part."""
    try:
        with explain_disk_errors(folder.parent), partial_folder(folder) as partial:
            for part in parts:
                part.save_pretrained(partial)
            for path in partial.glob("*.safetensors"):  # written for their owner alone
                shutil.copymode(next(partial.glob("*.json")), path)
    except SafetensorError as error:
        raise not_written(folder, error) from error
