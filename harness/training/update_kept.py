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

SAMPLED_VALUES, SAMPLED_ROWS = 4096, 8
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
    """At most twice SAMPLED_VALUES evenly spaced values of each parameter. With sharded parameters
    every process must call."""
    return {
        name: _spaced(full_tensor(parameter.detach()).flatten(), SAMPLED_VALUES).double().cpu()
        for name, parameter in parameters.items()
    }


def full_share(
    start: Mapping[str, Tensor], parameters: Mapping[str, Parameter], dtype: torch.dtype
) -> float:
    """The share after full training, saved in ``dtype``; ``start`` is :func:`spaced_values` from
    before it."""
    updates = []
    for name, value in spaced_values(parameters).items():
        kept, count = value.to(dtype).double() - start[name], parameters[name].numel() / len(value)
        updates.append((value - start[name], kept, count))
    return _kept_share(updates)


def unmerged_share(model: Any, dtype: torch.dtype) -> float:
    """The share of the trained adapters that stay beside their weights; ``dtype`` is that of their
    product when the model answers."""

    def update(layer: Any) -> tuple[Tensor, Tensor, float]:
        a, b, count = _factors(layer)
        return b @ a, b.to(dtype).double() @ a.to(dtype).double(), count

    return _kept_share(map(update, _trained_layers(model)))


def adapted_rows(model: Any) -> list[AdaptedRows]:
    """Rows of every adapted weight. With sharded weights every process must call."""
    rows = []
    for layer in _trained_layers(model):
        a, b, count = _factors(layer)
        base = layer.get_base_layer()
        rows.append(AdaptedRows(layer=base, start=_sampled_rows(base), update=b @ a, count=count))
    return rows


def merged_share(rows: Iterable[AdaptedRows]) -> float:
    """The share that merging left; ``rows`` are from before it."""
    return _kept_share(
        (row.update, _sampled_rows(row.layer) - row.start, row.count) for row in rows
    )


def _trained_layers(model: Any) -> Iterable[Any]:
    return (layer for layer in lora_layers(model) if "default" in layer.lora_A)


def _factors(layer: Any) -> tuple[Tensor, Tensor, int]:
    """A, some rows of B times its scale, and how many rows of B each of them stands for."""
    b = layer.lora_B["default"].weight.detach()
    rows = _spaced(b, SAMPLED_ROWS).double() * layer.scaling["default"]
    return layer.lora_A["default"].weight.detach().double(), rows, len(b) // len(rows)


def _sampled_rows(layer: Any) -> Tensor:
    """Rows of a layer's weight as it is now."""
    return _spaced(full_tensor(layer.weight.detach()), SAMPLED_ROWS).double()


def _spaced(tensor: Tensor, count: int) -> Tensor:
    return tensor[:: max(1, len(tensor) // count)].clone()


def _kept_share(updates: Iterable[tuple[Tensor, Tensor, float]]) -> float:
    """The share that is left of (update, what is kept of it, number of values for which each of its
    values stands)."""
    moved = lost = 0.0
    for update, kept, count in updates:
        moved += count * float(update.square().sum())
        lost += count * float((kept - update).square().sum())
    return max(0.0, 1 - (lost / moved) ** 0.5) if moved else 1.0
