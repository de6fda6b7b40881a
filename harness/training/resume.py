"""Checkpoints of a training that may be killed at any moment: trained weights and optimiser state
as safetensors, the rest as JSON.

A checkpoint is a folder ``step-00012`` that appears by one rename; other entries are half-written
and removed. Our own loop stores no random state, as all its randomness comes from (seed, step). The
file ``finished.json`` beside them says that the training is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from harness.artifacts.fingerprint import fingerprint
from harness.artifacts.results_folder import (
    explain_disk_errors,
    read_json,
    write_bytes,
    write_json,
)
from harness.artifacts.safe_files import flush, partial_folder, remove
from harness.artifacts.stored_files import NAME as DONE
from harness.artifacts.stored_files import check_files, cure, done_content
from harness.errors import UserError
from harness.models.alignment import aligned
from harness.training.fsdp import full_tensor, like_parameter

_PREFIX = "step-"
_FINISHED = "finished.json"
WEIGHTS = "model.safetensors"
"""A checkpoint's file of the trained weights."""
MOMENTS = "optimizer.safetensors"
"""A checkpoint's file of the optimiser's state."""


def save(
    folder: Path,
    step: int,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, object],
    *,
    is_main: bool = True,
    more: Callable[[Path], None] = lambda _folder: None,
) -> None:
    """Write ``folder/step-<step>`` and remove earlier checkpoints. Every process must call, as
    sharded tensors are gathered one by one; the main one keeps and writes them. ``more`` adds files
    to the checkpoint's folder."""
    weights = gather({name: p.detach() for name, p in parameters.items()}, keep=is_main)
    moments = {
        f"{name}/{part}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }
    moments = gather(moments, keep=is_main)
    if not is_main:
        return
    final = checkpoint_path(folder, step)
    with explain_disk_errors(folder):
        with partial_folder(final) as partial:
            save_tensors(weights, partial / WEIGHTS)
            save_tensors(moments, partial / MOMENTS)
            more(partial)
            write_json(partial / "state.json", state)
            done = done_content(partial, fingerprint(state["identity"]))
            write_bytes(partial / DONE, done)
        for old in folder.glob(f"{_PREFIX}*"):
            if old != final:
                remove(old)


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:07d}"


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Full tensors; sharded ones are gathered and moved to main memory. Empty unless ``keep``."""
    kept = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor)
        if keep:
            kept[name] = full if full is tensor else full.cpu()
    return kept


def remove_partial(folder: Path) -> None:
    """Remove checkpoints that a kill left half-written."""
    partial = [path for path in folder.glob(f"{_PREFIX}*") if not _complete(path)]
    with explain_disk_errors(folder):
        for path in [*folder.glob(f".{_PREFIX}*"), *partial]:
            remove(path)


def latest(folder: Path, identity: str) -> tuple[int, Any] | None:
    """(step, state) of the latest complete checkpoint; None if there is none.

    Raises:
        UserError: it belongs to another training, or a file of it was cut or changed.
    """
    complete = sorted(path for path in folder.glob(f"{_PREFIX}*") if _complete(path))
    if not complete:
        return None
    check_files(complete[-1])
    state = read_json(complete[-1] / "state.json")
    _check_identity(folder, state["identity"], identity)
    return int(complete[-1].name.removeprefix(_PREFIX)), state


def load(
    folder: Path, step: int, parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Load the checkpoint of ``step`` into ``parameters`` and ``optimizer``, tensor by tensor.

    Raises:
        UserError: the checkpoint holds other weights than the trained ones, or is broken.
    """
    chosen = checkpoint_path(folder, step)
    try:
        with safe_open(chosen / WEIGHTS, "pt") as weights, torch.no_grad():
            if set(weights.keys()) != set(parameters):
                raise UserError(
                    f"{chosen} holds other weights than the ones being trained; {cure(chosen)}"
                )
            for name, parameter in parameters.items():
                parameter.copy_(like_parameter(parameter, weights.get_tensor(name)))
        with safe_open(chosen / MOMENTS, "pt") as moments:
            for key in moments.keys():  # noqa: SIM118  (it is no mapping)
                name, part = key.rsplit("/", 1)
                value = moments.get_tensor(key)
                # The 8-bit optimiser counts its steps in a plain integer.
                is_count = value.ndim == 0 and not value.is_floating_point()
                optimizer.state[parameters[name]][part] = (
                    int(value) if is_count else like_parameter(parameters[name], aligned(value))
                )
    except (SafetensorError, OSError) as error:
        raise UserError(f"{chosen} cannot be read ({error}); {cure(chosen)}") from error


def finish(folder: Path, identity: str, summary: Mapping[str, object]) -> None:
    """Mark the training as done and remove its checkpoints."""
    if (log := folder.parent / "log.jsonl").exists():
        with explain_disk_errors(folder):
            flush(log)
    write_json(folder / _FINISHED, {"identity": identity, "summary": summary})
    with explain_disk_errors(folder):
        for path in [*folder.glob(f"{_PREFIX}*"), *folder.glob(f".{_PREFIX}*")]:
            remove(path)


def finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a training that is done; None if it is not.

    Raises:
        UserError: another training is done there.
    """
    marker = folder / _FINISHED
    if not marker.exists():
        return None
    content = read_json(marker)
    _check_identity(folder, content["identity"], identity)
    return dict(content["summary"])


def _check_identity(folder: Path, stored: str, identity: str) -> None:
    if stored != identity:
        raise UserError(
            f"{folder.parent} holds another training (settings, pairs or base);"
            f" {cure(folder.parent)}"
        )


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors. Several may share memory (as the 8-bit optimiser's tables do); each is written
    in full."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        separate[name] = tensor.contiguous()
        seen.add(address)
    try:
        with explain_disk_errors(path.parent):
            save_file(separate, path)
    except SafetensorError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} could not be written ({error}); free some space and run the same command again."
    )


def _complete(path: Path) -> bool:
    return all((path / name).exists() for name in (WEIGHTS, MOMENTS, "state.json"))
