"""Checkpoints of the trainings here: one safetensors file with weights and AdamW's moments,
replaced as a whole; no pickle.

Randomness is drawn from (seed, step). So a checkpoint needs no random state, and a resumed training
equals an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.artifacts.safe_files import partial_folder, remove
from harness.models.alignment import aligned


def save(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.AdamW,
    step: int,
    recipe: str,
) -> None:
    """Write weights, moments and step to ``path`` by rename. ``recipe``: the fingerprint of the
    training."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
    with partial_folder(path.with_suffix(".half")) as partial:
        save_file(tensors, partial / path.name, metadata={"step": str(step), "recipe": recipe})
        (partial / path.name).replace(path)
    remove(path.with_suffix(".half"))


def load(
    path: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW, recipe: str
) -> int:
    """Restore from ``path`` and return its step; 0: there is no checkpoint of this recipe."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("recipe") != recipe:
            return 0
        names = set(file.keys())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(f"weight/{name}"))
                state = {
                    key: aligned(file.get_tensor(f"{key}/{name}"))
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}/{name}" in names
                }
                if state:
                    optimizer.state[parameter] = state
        return int(metadata["step"])
