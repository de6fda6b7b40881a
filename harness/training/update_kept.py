"""How much of a training's update is left in the precision of the model that answers.

The share is 1 - |stored - trained| / |trained - start|, over sampled values: 1 where all of it is
left, 0 where rounding is as large as the update (so never below 0)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from harness.models.adapters import lora_layers
from harness.training.fsdp import full_tensor

VALUES, ROWS = 4096, 8
"""How many values of a parameter, and rows of an adapted weight, are looked at."""


@dataclass(frozen=True, kw_only=True)
class AdaptedRows:
    """Rows of a weight before its adapter is merged, and the adapter's change of them."""

    layer: Any
    start: Tensor
    update: Tensor
    count: int
    """Rows of the weight for each one that is looked at."""


def spaced_values(parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """At most twice VALUES evenly spaced values of each parameter. With sharded parameters every
    process must call."""
    return {
        name: _spaced(full_tensor(parameter.detach()).flatten(), VALUES).double().cpu()
        for name, parameter in parameters.items()
    }


def full_share(
    start: Mapping[str, Tensor], parameters: Mapping[str, Parameter], dtype: torch.dtype
) -> float:
    """The share after full training, saved in ``dtype``; ``start`` is :func:`spaced_values` from
    before it."""
    parts = []
    for name, value in spaced_values(parameters).items():
        left, count = value.to(dtype).double() - start[name], parameters[name].numel() / len(value)
        parts.append((value - start[name], left, count))
    return _share(parts)


def unmerged_share(model: Any, dtype: torch.dtype) -> float:
    """The share of the trained adapters that stay beside their weights; ``dtype`` is that of their
    product when the model answers."""

    def part(layer: Any) -> tuple[Tensor, Tensor, float]:
        down, up, count = _factors(layer)
        return up @ down, up.to(dtype).double() @ down.to(dtype).double(), count

    return _share(map(part, _trained(model)))


def adapted_rows(model: Any) -> list[AdaptedRows]:
    """Rows of every adapted weight. With sharded weights every process must call."""
    found = []
    for layer in _trained(model):
        down, up, count = _factors(layer)
        base = layer.get_base_layer()
        found.append(AdaptedRows(layer=base, start=_rows(base), update=up @ down, count=count))
    return found


def merged_share(rows: Iterable[AdaptedRows]) -> float:
    """The share that merging left, of rows from before it."""
    return _share((each.update, _rows(each.layer) - each.start, each.count) for each in rows)


def _trained(model: Any) -> Iterable[Any]:
    return (layer for layer in lora_layers(model) if "default" in layer.lora_A)


def _factors(layer: Any) -> tuple[Tensor, Tensor, int]:
    """A, rows of B with its scale, and how many rows of B stand behind each of them."""
    up = layer.lora_B["default"].weight.detach()
    rows = _spaced(up, ROWS).double() * layer.scaling["default"]
    return layer.lora_A["default"].weight.detach().double(), rows, len(up) // len(rows)


def _rows(layer: Any) -> Tensor:
    """Rows of a layer's weight as it is now."""
    return _spaced(full_tensor(layer.weight.detach()), ROWS).double()


def _spaced(tensor: Tensor, count: int) -> Tensor:
    return tensor[:: max(1, len(tensor) // count)].clone()


def _share(parts: Iterable[tuple[Tensor, Tensor, float]]) -> float:
    """Of updates, what is left of each, and how many values stand behind each of its values."""
    moved = lost = 0.0
    for update, left, count in parts:
        moved += count * float(update.square().sum())
        lost += count * float((left - update).square().sum())
    return max(0.0, 1 - (lost / moved) ** 0.5) if moved else 1.0
