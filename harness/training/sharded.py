"""The policy as one module, whole on each device or sharded over the team (FSDP2, ``fully_shard``).

Sharded weights are DTensors: :func:`whole` gathers one, :func:`into` puts a whole one back. Checkpoints hold whole tensors, so a
training may be continued on another number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from harness.training.data import Packed
from harness.training.policy import completion_logps


class Policy(nn.Module):
    """A model and its cached picture features; called with packed rows it gives the token log-probabilities and their mask.

    One module whose ``forward`` is the whole forward pass: what FSDP gathers and frees weights around.
    """

    def __init__(self, model: Any, features: Mapping[str, Tensor], *, rejected_argmax: bool) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.rejected_argmax = rejected_argmax

    def forward(self, batch: Packed) -> tuple[Tensor, Tensor]:
        return completion_logps(self.model, batch, self.features, rejected_argmax=self.rejected_argmax)


def shard(policy: Policy, processes: int, *, half: bool) -> None:
    """Spread what trains over the processes, layer by layer; the frozen vision tower stays whole. In place."""
    device = policy.model.device
    mesh = init_device_mesh(device.type, (processes,))
    # Half precision travels and computes; what is added up and kept is float32.
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for layer in policy.model.model.language_model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    frozen = {parameter for parameter in policy.parameters() if not parameter.requires_grad}
    fully_shard(policy, mesh=mesh, mp_policy=mixed, ignored_params=frozen)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of a sharded one: then every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def into(like: Tensor, value: Tensor) -> Tensor:
    """``value``, whole, laid out as ``like`` is: on its device, and sharded where it is."""
    if isinstance(like, DTensor) and value.ndim:
        # Every process has read the same file: nothing needs sending.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value.to(like.device)
