"""A training that can be killed at any moment: trainable weights and optimiser state as safetensors, the rest as JSON.

A checkpoint is a folder ``step-00012`` that appears by one rename; anything else in the folder is half-written and removed.
No random state is stored: all randomness is derived from (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from harness.errors import Problem
from harness.store import kindly, read_json, write_json, write_jsonl

_PREFIX = "step-"


def save(folder: Path, step: int, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer, state: object) -> None:
    """Write ``folder/step-<step>`` and remove the checkpoints before it."""
    final = folder / f"{_PREFIX}{step:07d}"
    beside = folder / f".{final.name}.tmp"
    with kindly(folder):
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        beside.mkdir(parents=True)
    save_tensors({name: parameter.detach() for name, parameter in parameters.items()}, beside / "model.safetensors")
    moments = {
        f"{name}/{part}": value
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }
    save_tensors(moments, beside / "optimizer.safetensors")
    write_json(beside / "state.json", state)
    with kindly(folder):
        beside.rename(final)
        for old in folder.glob(f"{_PREFIX}*"):
            if old != final:
                shutil.rmtree(old)


def load(folder: Path, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer) -> tuple[int, Any] | None:
    """Put the newest whole checkpoint into ``parameters`` and ``optimizer``; (step, state), or None where there is none.

    Raises :class:`Problem` if the checkpoint's weights are not the ones being trained.
    """
    with kindly(folder):
        for half in [*folder.glob(f".{_PREFIX}*"), *(path for path in folder.glob(f"{_PREFIX}*") if not _whole(path))]:
            shutil.rmtree(half, ignore_errors=True)
    found = sorted(folder.glob(f"{_PREFIX}*"))
    if not found:
        return None
    newest = found[-1]
    weights = load_file(newest / "model.safetensors")
    moments = load_file(newest / "optimizer.safetensors")
    if set(weights) != set(parameters):
        raise Problem(f"{newest} holds other weights than the ones being trained; delete {folder} and run again.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in moments.items():
        name, part = key.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][part] = value.to(parameter.device)
    return int(newest.name.removeprefix(_PREFIX)), read_json(newest / "state.json")


def clear(folder: Path) -> None:
    """Remove all checkpoints: the training has ended."""
    with kindly(folder):
        for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob(f".{_PREFIX}*")]:
            shutil.rmtree(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        with kindly(path.parent):
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise Problem(f"{path} could not be written ({error}); free some space and run the same command again.") from error


def continue_log(path: Path, step: int) -> None:
    """Cut a training log back to its first ``step`` lines: later ones belong to steps that are about to be done again."""
    kept: list[object] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:step] if path.exists() else []:
        try:
            kept.append(json.loads(line))
        except ValueError:
            break  # the half-written last line of a killed run
    write_jsonl(path, kept)


def append_log(path: Path, row: Mapping[str, object]) -> None:
    with kindly(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def _whole(path: Path) -> bool:
    return all((path / name).exists() for name in ("model.safetensors", "optimizer.safetensors", "state.json"))
