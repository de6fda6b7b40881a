"""The policy as one module, whole on each device or sharded over the team (FSDP2, ``fully_shard``).

Sharded weights are DTensors: :func:`whole` gathers one, :func:`into` puts a whole one back.
Checkpoints hold whole tensors, so a training may be continued on another number of processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from harness.models.find_family import family_of
from harness.training.pair_batches import Packed
from harness.training.policy import completion_logps, packed_logits


class Policy(nn.Module):
    """A model and its cached image features; called with packed rows it gives the token
    log-probabilities and their mask.

    One module whose ``forward`` is the whole forward pass: what FSDP gathers and frees weights
    around."""

    def __init__(
        self, model: Any, features: Mapping[str, Tensor], *, rejected_argmax: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.rejected_argmax = rejected_argmax

    def logits(self, batch: Packed) -> Tensor:
        """Logits (sides * B, T, V) at the answers' places."""
        return packed_logits(self.model, batch, self.features)

    def forward(self, batch: Packed) -> tuple[Tensor, Tensor]:
        return completion_logps(
            self.model, batch, self.features, rejected_argmax=self.rejected_argmax
        )


def widen(parameters: Iterable[Parameter]) -> None:
    """Make what trains float32, in place: an update of 2e-6 is lost in bfloat16's eight bits."""
    for parameter in parameters:
        parameter.data = parameter.data.float()


def shard(policy: Policy, processes: int, *, half: bool, adapted: bool) -> None:
    """Spread the language model over the processes, layer by layer; the frozen vision tower stays
    whole. In place.

    What trains becomes float32 a layer at a time just before it is spread, so that no device ever
    holds all of it. Adapters (and the projector beside them) stay whole on every process, and only
    the frozen weights under them are spread: FSDP adds nothing up then, the training does."""
    device = policy.model.device
    mesh = init_device_mesh(device.type, (processes,))
    # Half precision travels and computes; what is added up and kept is float32.
    mixed = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if half and not adapted
        else MixedPrecisionPolicy()
    )
    tower = family_of(policy.model).tower
    apart = {
        parameter
        for name, parameter in policy.model.named_parameters()
        if re.match(tower, name) or (adapted and parameter.requires_grad)
    }
    for part in [*policy.model.model.language_model.layers, policy]:
        widen(
            parameter
            for parameter in part.parameters()
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        )
        fully_shard(part, mesh=mesh, mp_policy=mixed, ignored_params=apart)
    register_fsdp_forward_method(policy, "logits")


def merge(model: Any) -> None:
    """Add every adapter's product to the weight under it, whole or sharded, as peft's merge does;
    the adapters stay in place."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                weight = module.get_base_layer().weight
                weight.add_(into(weight, module.get_delta_weight("default")))


def spread_again(policy: Policy) -> None:
    """Free what a forward pass without a backward pass leaves whole on every process: the weights
    outside of layers."""
    if isinstance(policy, FSDPModule):
        policy.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of a sharded one: then every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def into(like: Tensor, value: Tensor) -> Tensor:
    """``value``, whole, laid out as ``like`` is: on its device, and sharded where it is."""
    if isinstance(like, DTensor) and value.ndim:
        # Every process has read the same file: nothing needs sending.
        return distribute_tensor(
            value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )
    return value.to(like.device)
