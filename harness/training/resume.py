"""A training that can be killed at any moment: trainable weights and optimiser state as
safetensors, the rest as JSON.

A checkpoint is a folder ``step-00012`` that appears by one rename; anything else in the folder is
half-written and removed. No random state is stored: all randomness is derived from (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from harness.artifacts.results_folder import explain_disk_errors, read_json, write_json, write_jsonl
from harness.errors import UserError
from harness.models.alignment import aligned
from harness.training.fsdp import into, whole

_PREFIX = "step-"


def save(
    folder: Path,
    step: int,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    state: object,
    *,
    writes: bool = True,
) -> None:
    """Write ``folder/step-<step>`` and remove the checkpoints before it. Sharded tensors are
    gathered one by one, for which every process must call; the one that ``writes`` keeps and writes
    them."""
    weights = gathered(
        {name: parameter.detach() for name, parameter in parameters.items()}, keep=writes
    )
    moments = gathered(
        {
            f"{name}/{part}": torch.as_tensor(value)
            for name, parameter in parameters.items()
            for part, value in optimizer.state.get(parameter, {}).items()
        },
        keep=writes,
    )
    if not writes:
        return
    final = folder / f"{_PREFIX}{step:07d}"
    beside = folder / f".{final.name}.tmp"
    with explain_disk_errors(folder):
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        beside.mkdir(parents=True)
    save_tensors(weights, beside / "model.safetensors")
    save_tensors(moments, beside / "optimizer.safetensors")
    write_json(beside / "state.json", state)
    with explain_disk_errors(folder):
        beside.rename(final)
        for old in folder.glob(f"{_PREFIX}*"):
            if old != final:
                shutil.rmtree(old)


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors, those of a device's memory moved to main memory where they were sharded; empty
    unless ``keep``."""
    kept = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if keep:
            kept[name] = one if one is tensor else one.cpu()
    return kept


def tidy(folder: Path) -> None:
    """Remove what a kill left half-written."""
    with explain_disk_errors(folder):
        for half in [
            *folder.glob(f".{_PREFIX}*"),
            *(path for path in folder.glob(f"{_PREFIX}*") if not _whole(path)),
        ]:
            shutil.rmtree(half, ignore_errors=True)


def newest(folder: Path) -> tuple[int, Any] | None:
    """(step, state) of the newest whole checkpoint; None where there is none."""
    found = sorted(path for path in folder.glob(f"{_PREFIX}*") if _whole(path))
    return (
        (int(found[-1].name.removeprefix(_PREFIX)), read_json(found[-1] / "state.json"))
        if found
        else None
    )


def load(
    folder: Path, step: int, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Put the checkpoint of ``step`` into ``parameters`` and ``optimizer``, tensor by tensor.

    Raises :class:`UserError` if the checkpoint's weights are not the ones being trained.
    """
    chosen = folder / f"{_PREFIX}{step:07d}"
    with safe_open(chosen / "model.safetensors", "pt") as weights, torch.no_grad():
        if set(weights.keys()) != set(parameters):
            raise UserError(
                f"{chosen} holds other weights than the ones being trained; delete {folder} and run"
                " again."
            )
        for name, parameter in parameters.items():
            parameter.copy_(into(parameter, weights.get_tensor(name)))
    with safe_open(chosen / "optimizer.safetensors", "pt") as moments:
        for key in moments.keys():  # noqa: SIM118  (it is no mapping)
            name, part = key.rsplit("/", 1)
            value = moments.get_tensor(key)
            # The 8-bit optimiser counts its steps in a plain integer.
            counted = value.ndim == 0 and not value.is_floating_point()
            optimizer.state[parameters[name]][part] = (
                int(value) if counted else into(parameters[name], aligned(value))
            )


def clear(folder: Path) -> None:
    """Remove all checkpoints: the training has ended."""
    with explain_disk_errors(folder):
        for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob(f".{_PREFIX}*")]:
            shutil.rmtree(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, of which several may be one and the same (as the 8-bit optimiser's tables
    are): each is written whole."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = (
            tensor.clone(memory_format=torch.contiguous_format)
            if place in seen
            else tensor.contiguous()
        )
        seen.add(place)
    try:
        with explain_disk_errors(path.parent):
            save_file(apart, path)
    except SafetensorError as error:
        raise UserError(
            f"{path} could not be written ({error}); free some space and run the same command"
            " again."
        ) from error


def continue_log(path: Path, step: int) -> None:
    """Cut a training log back to its first ``step`` lines: later ones belong to steps that are
    about to be done again."""
    kept: list[object] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:step] if path.exists() else []:
        try:
            kept.append(json.loads(line))
        except ValueError:
            break  # the half-written last line of a killed run
    write_jsonl(path, kept)


def append_log(path: Path, row: Mapping[str, object]) -> None:
    with explain_disk_errors(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def _whole(path: Path) -> bool:
    return all(
        (path / name).exists()
        for name in ("model.safetensors", "optimizer.safetensors", "state.json")
    )
