"""One forward pass over packed rows: the log-probability of every answer token. Logits are computed
at the answers' positions only, not at those of prompt and image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.models.find_family import family_of
from harness.training.pair_batches import Packed
from methods.objective import rejected_from_argmax, token_logps


def packed_logits(model: Any, batch: Packed, features: Mapping[str, Tensor]) -> Tensor:
    """Logits (sides * B, T, V) that predict ``batch.labels``. ``features`` are the images' before
    the projector.

    Gradients reach the projector, the language model and the head, but not the vision tower."""
    device = model.device
    ids = batch.ids.to(device)
    embeds = model.get_input_embeddings()(ids)
    device_type = embeds.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else embeds.dtype
    image_features = [features[item] for item in batch.items]
    if model.dtype == torch.float16:
        # Autocast's bfloat16 and float16 have no common precision but float32.
        image_features = [value.to(dtype) for value in image_features]
        embeds = embeds.to(dtype) if embeds.dtype == torch.float16 else embeds
    patches = torch.cat(family_of(model).project(image_features))
    is_image = (ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(is_image, patches.to(embeds.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=aligned_mask(batch.allowed[:, None].to(device), dtype),
        position_ids=batch.positions.to(device),
        use_cache=False,
    ).last_hidden_state  # (B, L, H)
    sources = batch.sources.to(device)
    rows = torch.arange(len(batch.items), device=device).repeat(len(sources) // len(batch.items))
    return model.lm_head(hidden[rows[:, None], sources])  # type: ignore[no-any-return]


def aligned_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where ``allowed`` (B, 1, L, L) and the lowest finite number elsewhere; each row's memory
    starts at a multiple of eight values.

    The mask is additive because eager attention adds a boolean mask as 0 and 1 without complaint.
    It is aligned, and of the computing ``dtype``, because every layer would otherwise make and keep
    such a copy."""
    length = allowed.shape[-1]
    padded_shape = (*allowed.shape[:-1], -(-length // 8) * 8)
    mask = torch.zeros(padded_shape, dtype=dtype, device=allowed.device)[..., :length]
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def completion_logps(
    model: Any, batch: Packed, features: Mapping[str, Tensor], *, rejected_argmax: bool = False
) -> tuple[Tensor, Tensor]:
    """Token log-probabilities and their mask, both (sides * B, T). With ``rejected_argmax`` the
    rejected half is what SIMA's released code computes."""
    logits = packed_logits(model, batch, features)
    labels, mask = batch.labels.to(logits.device), batch.mask.to(logits.device)
    if not rejected_argmax:
        return token_logps(logits, labels, mask), mask
    n = len(batch.items)
    chosen = token_logps(logits[:n], labels[:n], mask[:n])
    return torch.cat([chosen, rejected_from_argmax(logits[n:], labels[n:], mask[n:])]), mask


def recompute_activations(model: Any, *, on: bool = True) -> None:
    """Make the model recompute activations in the backward pass, or keep them again."""
    # transformers 5.23 gave these methods their names and deprecated the old ones.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()
