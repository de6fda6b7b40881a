"""The policy as one module, whole on each device or sharded over the processes (FSDP2's
``fully_shard``).

Sharded weights are DTensors. :func:`full_tensor` gathers one and :func:`like_parameter` shards one.
Checkpoints hold full tensors, so a training may continue on another number of processes."""

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
    """A model and its cached image features. FSDP gathers and frees weights around ``forward``,
    which is the whole forward pass."""

    def __init__(
        self, model: Any, features: Mapping[str, Tensor], *, rejected_argmax: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.rejected_argmax = rejected_argmax

    def logits(self, batch: Packed) -> Tensor:
        """Logits (sides * B, T, V) that predict the answers' tokens."""
        return packed_logits(self.model, batch, self.features)

    def forward(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """Token log-probabilities and their mask, both (sides * B, T)."""
        return completion_logps(
            self.model, batch, self.features, rejected_argmax=self.rejected_argmax
        )


def upcast_trainable(parameters: Iterable[Parameter]) -> None:
    """Convert trained parameters to float32, in place: bfloat16 has eight significant bits, in
    which an update of 2e-6 is lost."""
    for parameter in parameters:
        parameter.data = parameter.data.float()


def shard(policy: Policy, processes: int, *, half: bool, adapted: bool) -> None:
    """Shard the language model over the processes, layer by layer, in place. The frozen vision
    tower stays whole.

    Trained parameters become float32 one layer at a time, just before the layer is sharded, so no
    device holds them all. Of an adapted model only the frozen base weights are sharded. Adapters
    of all rounds (and the projector, if it is or was trained) stay whole on every process, and the
    training adds up their gradients."""
    device = policy.model.device
    mesh = init_device_mesh(device.type, (processes,))
    # Weights travel and compute in half precision; gradients are reduced in float32.
    dtypes = (torch.bfloat16, torch.float32) if half and not adapted else ()
    mixed = MixedPrecisionPolicy(*dtypes)
    tower = family_of(policy.model).tower
    ignored = {
        parameter
        for name, parameter in policy.model.named_parameters()
        if re.match(tower, name)
        or (adapted and (parameter.requires_grad or parameter.dtype != policy.model.dtype))
    }
    for module in [*policy.model.model.language_model.layers, policy]:
        upcast_trainable(
            parameter
            for parameter in module.parameters()
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        )
        fully_shard(module, mesh=mesh, mp_policy=mixed, ignored_params=ignored)
    register_fsdp_forward_method(policy, "logits")


def merge_adapters(model: Any) -> None:
    """Add every adapter's product to its base weight, full or sharded, as peft's merge does. The
    adapters stay in place."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                weight = module.get_base_layer().weight
                weight.add_(like_parameter(weight, module.get_delta_weight("default")))


def reshard(policy: Policy) -> None:
    """Free the weights outside of layers, which a forward pass without a backward pass leaves
    gathered on every process."""
    if isinstance(policy, FSDPModule):
        policy.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is sharded; then every process must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like_parameter(parameter: Tensor, value: Tensor) -> Tensor:
    """A full ``value`` on the parameter's device, and sharded if the parameter is."""
    if isinstance(parameter, DTensor) and value.ndim:
        # Every process has read the same file, so no data is sent.
        mesh, placements = parameter.device_mesh, parameter.placements
        return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
    return value.to(parameter.device)
