"""Loads a base model and its processor, after checks that it is complete and fits this machine.

harness/engine/load.py adds a check of the loaded model against transformers; callers use that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

from harness.errors import UserError
from harness.models.adapters import attach_adapter, merge_adapter
from harness.models.alignment import align
from harness.models.base_cards import BaseCard, fetch_base, source_of, stored_model
from harness.models.checkpoints import BUFFERS, check_files, check_size
from harness.models.device_memory import free_memory
from harness.models.find_family import ARCHITECTURES
from harness.models.own_code import without_own_code
from harness.models.processor_checks import (
    check_generation,
    check_processor,
    check_small_files,
    explain_load_errors,
)

MAX_CPU_PARAMETERS = 1e9
"""Larger models are refused on the CPU."""
WORKING_GIB = 2.0
"""GiB beside a large model's weights: keys and values of one batch, features, workspaces."""


def load_base(card: BaseCard, device: str = "cpu", weights: Path | None = None) -> tuple[Any, Any]:
    """The model, in eval mode on ``device``, and its processor.

    Args:
        weights: a folder with a fine-tuned model of the same architecture, or with an adapter of
            this base, loaded in place of the card's weights; the processor is always the card's.

    Raises:
        UserError: the model is missing, incomplete, too large for this machine, or of another
            architecture.
    """
    weights, adapters = stored_model(card, weights)
    source, weights_folder = _checked_source(card, device, weights)
    label, dtype = f"Base {card.name!r}", loaded_dtype(card, device)
    architecture = next(item for item in ARCHITECTURES.values() if item.name == card.family)
    with (
        explain_load_errors(label, str(source), card.revision),
        without_own_code(str(source), str(weights_folder)),
    ):
        # The small files first: they tell most faults before anything large is read.
        config = AutoConfig.from_pretrained(weights_folder, trust_remote_code=False)
        if (other := ARCHITECTURES.get(config.model_type)) is not architecture:
            raise UserError(
                f"{weights_folder} holds a {other.model_class if other else config.model_type},"
                f" base {card.name!r} is {architecture.name} ({architecture.model_class}); give"
                " weights of that family."
            )
        processor = architecture.processor(str(source))
        check_processor(processor, config, str(source))
        card.apply_to(processor)
    with explain_load_errors(label, str(weights_folder), card.revision):
        check_weights(label, weights_folder, AutoModelForImageTextToText)
        model = AutoModelForImageTextToText.from_pretrained(
            weights_folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        check_generation(model, str(weights_folder))
    model = model.to(device).eval()
    align(model)
    add_adapter = merge_adapter if dtype == torch.float32 else attach_adapter
    for adapter in adapters:
        with explain_load_errors("The adapter", str(adapter)):
            # Merged on the device, as in training, so that the sums are the same.
            model = add_adapter(model, adapter)
    return model, processor


def _checked_source(card: BaseCard, device: str, weights: Path | None) -> tuple[Path, Path]:
    """The folders of the processor and of the weights, complete and small enough for the device.

    Raises:
        UserError: as :func:`load_base`.
    """
    source_of(card)
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
    source = fetch_base(card, weights=weights is None)
    if folder is None:
        check_size(source)
    for path in dict.fromkeys((source, weights or source)):
        check_small_files(path)
    return source, weights or source


def loaded_dtype(card: BaseCard, device: str) -> torch.dtype:
    """The precision of a base's weights in memory. Adapters keep their own."""
    return torch.float32 if torch.device(device).type == "cpu" else getattr(torch, card.dtype)


def check_weights(label: str, folder: Path, auto_class: Any, *, torch_file: bool = False) -> None:
    """Check names and shapes of the stored weights against config.json, without memory.

    transformers leaves absent weights random and others out, with a warning.

    Args:
        auto_class: the class of transformers that loads the model.
        torch_file: accept a torch file where there are no safetensors.

    Raises:
        UserError: weights are absent, have another shape, or have no place in the model.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else transformers prints a table of all of them
    try:
        _, loading = auto_class.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=None if torch_file else True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    finally:
        logging.set_verbosity(verbosity)
    prefix = f"The weights in {folder} do not fit {label[:1].lower()}{label[1:]}:"
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{prefix} {len(missing)} absent, such as {missing[0]}.")
    if mismatched := sorted(loading["mismatched_keys"]):
        name, stored, built = mismatched[0]
        raise UserError(
            f"{prefix} {len(mismatched)} of another shape, such as {name}, which is {list(stored)}"
            f" and by config.json {list(built)}; give the config.json that was saved with them."
        )
    unexpected = sorted(
        name
        for name in loading["unexpected_keys"]
        if not name.endswith((*BUFFERS, "lm_head.weight"))  # a tied one is stored twice
    )
    if unexpected:
        raise UserError(
            f"{prefix} its config.json has no place for {len(unexpected)} of them, such as"
            f" {unexpected[0]}; give the config.json that was saved with them."
        )


def default_device() -> str:
    """The device that models are loaded on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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
    value_bytes = {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]
    count = stored_bytes / value_bytes if stored_bytes is not None else parameters
    if count is None:
        return
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and count > MAX_CPU_PARAMETERS:
        raise UserError(
            f"Base {name!r} has {count / 1e9:.1f} billion parameters and this machine has no GPU"
            " that torch can use; run it on one that has, or take --base synthetic."
        )
    need = count * (4 if on_cpu else value_bytes) / 2**30
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
