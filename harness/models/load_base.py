"""Loads a base model and its processor, after checks that it is complete and fits this machine.

harness/engine/load.py adds a check of the loaded model against transformers; callers use that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

from harness.errors import UserError
from harness.models import hub_snapshots
from harness.models.adapters import merge_adapter
from harness.models.alignment import align
from harness.models.base_cards import BaseCard, apply_card, source_of
from harness.models.checkpoints import BUFFERS, check_files, check_size
from harness.models.device_memory import free_memory
from harness.models.find_family import ARCHITECTURES
from harness.models.own_code import without_own_code

MAX_CPU_PARAMETERS = 1e9
"""Larger models are refused on the CPU."""
WORKING_GIB = 2.0
"""GiB beside a large model's weights: keys and values of one batch, features, workspaces."""


def load_base(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor.

    Args:
        weights: a folder with a fine-tuned model of the same architecture, loaded in place of the
            card's weights; the processor is always the card's.

    Raises:
        UserError: the model is missing, incomplete, too large for this machine, or of another
            architecture.
    """
    source = source_of(card)
    if weights is not None and not any(weights.glob("*.safetensors")):
        raise UserError(
            f"{weights} holds no *.safetensors weights; give a folder with a saved model of base"
            f" {card.name!r}."
        )
    folder = weights or (card.source if isinstance(card.source, Path) else None)
    stored_bytes = None if folder is None else check_files(folder)
    if folder is not None:
        check_size(folder)
    check_machine(card.name, device, stored_bytes, card.parameters, card.dtype)
    if isinstance(card.source, str):
        source = str(
            hub_snapshots.fetch(
                f"Base {card.name!r}", card.source, card.revision, weights=weights is None
            )
        )
        if weights is None:
            check_size(Path(source))
    dtype = torch.float32 if torch.device(device).type == "cpu" else getattr(torch, card.dtype)
    architecture = next(each for each in ARCHITECTURES.values() if each.name == card.family)
    place = weights or source
    try:
        with without_own_code(str(source), str(place)):
            processor = architecture.processor(source)
            model, loading = AutoModelForImageTextToText.from_pretrained(
                place,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except (OSError, SafetensorError) as error:
        raise hub_snapshots.load_error(
            f"Base {card.name!r}", str(place), card.revision, error
        ) from error
    if type(model).__name__ != architecture.model_class:
        raise UserError(
            f"{place} holds a {type(model).__name__}, base {card.name!r} is {architecture.name}"
            f" ({architecture.model_class}); give weights of that family."
        )
    if absent := absent_weights(loading):
        raise UserError(
            f"The weights in {place} do not fit base {card.name!r}: {len(absent)} absent, such as"
            f" {absent[0]}."
        )
    if left := unread_weights(loading):
        raise UserError(
            f"The weights in {place} do not fit base {card.name!r}: its config.json has no place"
            f" for {len(left)} of them, such as {left[0]}; give the config.json that was saved with"
            " them."
        )
    apply_card(processor, card)
    model = model.to(device).eval()
    align(model)
    for adapter in card.adapters if weights is None else ():
        # Merged on the device, as in training, so that the sums are the same.
        model = merge_adapter(model, adapter)
    return model, processor


def absent_weights(loading: Any) -> list[str]:
    """Weights that a load did not fill; transformers only warns and leaves them random."""
    return sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))


def unread_weights(loading: Any) -> list[str]:
    """Stored weights that a load left out, as with fewer layers in config.json than in the files;
    transformers only warns."""
    return sorted(
        name
        for name in loading["unexpected_keys"]
        if not name.endswith((*BUFFERS, "lm_head.weight"))  # a tied one is stored twice
    )


def check_machine(
    name: str, device: str, stored_bytes: int | None, parameters: float | None, dtype: str
) -> None:
    """Check, before loading, that a model fits this machine.

    Args:
        stored_bytes: the size of the weights, where they are here; else ``parameters`` counts.
        dtype: the precision of the weights as stored, and on an accelerator.

    Raises:
        UserError: there is too little memory, or a large model would run on the CPU.
    """
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    count = stored_bytes / width if stored_bytes is not None else parameters
    if count is None:
        return
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and count > MAX_CPU_PARAMETERS:
        raise UserError(
            f"Base {name!r} has {count / 1e9:.1f} billion parameters and this machine has no GPU"
            " that torch can use; run it on one that has, or take --base synthetic."
        )
    need = count * (4 if on_cpu else width) / 2**30
    working = WORKING_GIB if count > MAX_CPU_PARAMETERS else 0.0
    if (free := free_gib(device)) is not None and need + working > free:
        raise UserError(
            f"Base {name!r} needs about {need + working:.1f} GiB ({need:.1f} of weights and"
            f" {working:.1f} to work with), and {free:.1f} GiB of"
            f" {'memory' if on_cpu else 'GPU memory'} are free; free some, or take a smaller base."
        )


def free_gib(device: str) -> float | None:
    """Free memory of the device in GiB; None where the system does not report it."""
    if (free := free_memory(torch.device(device))) is not None:
        return free / 2**30
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
