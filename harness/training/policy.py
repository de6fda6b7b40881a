"""One forward pass over packed rows: the log-probability of every completion token, and of nothing
else.

Logits are computed at completion positions only; prompt and image positions never meet the
vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.models.find_family import family_of
from harness.training.pair_batches import Packed
from methods.objective import rejected_from_argmax, token_logps


def packed_logits(model: Any, batch: Packed, features: Mapping[str, Tensor]) -> Tensor:
    """Logits (sides * B, T, V) that predict ``batch.labels``; ``model`` is the bare model (adapters
    injected or not).

    Gradients reach the projector, the language model and the head, not the vision tower.
    """
    device = model.device
    ids = batch.ids.to(device)
    embeds = model.get_input_embeddings()(ids)
    pictures = torch.cat(family_of(model).project([features[item] for item in batch.items]))
    where = (ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(where, pictures.to(embeds.dtype))
    blocked = additive_mask(batch.allowed[:, None].to(device), _computes_in(embeds))
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=blocked,
        position_ids=batch.positions.to(device),
        use_cache=False,
    ).last_hidden_state  # (B, L, H)
    sources = batch.sources.to(device)
    rows = torch.arange(len(batch.items), device=device).repeat(len(sources) // len(batch.items))
    return model.lm_head(hidden[rows[:, None], sources])  # type: ignore[no-any-return]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``allowed`` (B, 1, L, L) and the lowest number elsewhere, in rows that begin at
    multiples of eight values.

    Additive, as the eager attention would add a boolean mask as 0 and 1 without complaint; aligned
    and of the type that is computed with, as every layer would otherwise make and keep such a copy
    of its own."""
    length = allowed.shape[-1]
    blocked = torch.zeros(
        *allowed.shape[:-1], -(-length // 8) * 8, dtype=dtype, device=allowed.device
    )[..., :length]
    return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)


def _computes_in(embeds: Tensor) -> torch.dtype:
    kind = embeds.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embeds.dtype


def completion_logps(
    model: Any, batch: Packed, features: Mapping[str, Tensor], *, rejected_argmax: bool = False
) -> tuple[Tensor, Tensor]:
    """(token log-probabilities, mask), both (sides * B, T); with ``rejected_argmax`` the rejected
    half as SIMA released it."""
    logits = packed_logits(model, batch, features)
    labels, mask = batch.labels.to(logits.device), batch.mask.to(logits.device)
    if not rejected_argmax:
        return token_logps(logits, labels, mask), mask
    n = len(batch.items)
    chosen = token_logps(logits[:n], labels[:n], mask[:n])
    return torch.cat([chosen, rejected_from_argmax(logits[n:], labels[n:], mask[n:])]), mask
