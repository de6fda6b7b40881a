"""A trained model as files: adapters saved and merged, sharded weights gathered, folders written
whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness.artifacts.results_folder import explain_disk_errors
from harness.artifacts.safe_files import partial_folder
from harness.training.fsdp import merge_adapters, reshard
from harness.training.loop import Loop
from harness.training.lora import check_merged
from harness.training.pair_batches import EncodedPair, pack
from harness.training.resume import gather, not_written


def merge(loop: Loop, wrapped: Any, sample: Sequence[EncodedPair]) -> None:
    """Merge the adapters of peft's ``wrapped`` model into the base weights, in place.

    Raises:
        UserError: the logits of the ``sample`` changed by more than rounding.
    """
    batch, policy = pack(sample, sides=loop.sides, pad=loop.pad), loop.policy
    with torch.no_grad():
        with loop.autocast():
            before = policy.logits(batch)[batch.mask]
        # Without autocast, which would round the adapters' product.
        if loop.sharded:
            merge_adapters(policy.model)
            wrapped.unload()
        else:
            wrapped.merge_and_unload()
        with loop.autocast():
            after = policy.logits(batch)[batch.mask]
    reshard(policy)
    check_merged(before.float(), after.float(), policy.model.lm_head.weight.dtype)


def gathered_model(model: Any, dtype: torch.dtype, *, is_main: bool) -> Any:
    """A sharded model gathered into the main process's main memory, in ``dtype``. Every process
    must call; the others get an empty model."""
    named = dict(model.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named.items())}
    tensors = {
        name: parameter.detach()
        for name, parameter in named.items()
        if first[id(parameter)] == name  # tied ones once
    }
    tensors |= {name: value for name, value in model.state_dict().items() if name not in named}
    with torch.device("meta"):
        fresh = type(model)(model.config)
    kept = gather(tensors, keep=is_main)
    if is_main:
        kept = {name: value.to("cpu", dtype) for name, value in kept.items()}
        fresh.load_state_dict(kept, assign=True, strict=False)
        fresh.tie_weights()
    fresh.generation_config = model.generation_config
    return fresh


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
