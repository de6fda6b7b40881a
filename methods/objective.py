"""Preference objectives as pure functions of log-probabilities; nothing here knows a model, a batch
file or an optimiser.

Shapes: B pairs, T completion tokens (right-padded; ``mask`` is True on real tokens, the end token
included), V words. Log-probabilities are natural and in float32 whatever the logits' type.

Sources: DPO, Rafailov et al., arXiv 2305.18290, eq. 7. Image content alignment, SENA, arXiv
    2412.15650, its second loss term.
``rejected_from_argmax`` is what SIMA's released trainer (arXiv 2405.15973) computes in place of eq.
7's rejected side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LN2 = 0.6931471805599453
"""The DPO loss of a pair before the first update, where policy and reference are equal: -log
sigmoid(0)."""


def token_logps(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """log p(label) at each position, 0 where ``mask`` is False.

    logits (B, T, V): position t's logits *predict* ``labels[:, t]`` (the caller has shifted).
    labels, mask and the result (B, T)."""
    _same_shape(logits, labels, mask)
    # Gather minus logsumexp, not log_softmax then gather: no second (B, T, V) tensor is kept for
    # the backward pass.
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).float()
    return (chosen - logits.float().logsumexp(-1)).masked_fill(~mask, 0.0)


def rejected_from_argmax(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """SIMA's released rejected side: log p of the model's own most likely token at each position of
    the rejected completion.

    Where the most likely token *is* the rejected label, the second most likely one is taken. The
    rejected text therefore enters only as context. Shapes as in :func:`token_logps`. The choice of
    token carries no gradient, its log-probability does. The reference model goes through the same
    function with its own logits, so the loss still starts at ln 2."""
    _same_shape(logits, labels, mask)
    first, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    return token_logps(logits, torch.where(first == labels, second, first), mask)


def dpo_margin(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> Tensor:
    """beta * [(log pi(y+) - log ref(y+)) - (log pi(y-) - log ref(y-))]: the difference of implicit
    rewards. All (B,)."""
    return beta * ((chosen_logps - ref_chosen) - (rejected_logps - ref_rejected))


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> Tensor:
    """-log sigmoid(margin) a pair (arXiv 2305.18290, eq. 7). Inputs (B,): sums over the
    completion's tokens. Returns (B,)."""
    return -F.logsigmoid(dpo_margin(chosen_logps, rejected_logps, ref_chosen, ref_rejected, beta))


def sft_loss(chosen_token_logps: Tensor, mask: Tensor) -> Tensor:
    """-mean_t log p(y+_t) a row, over the tokens that ``mask`` marks. Inputs (B, T). Returns (B,);
    0 for a row without tokens."""
    return -(chosen_token_logps * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def alignment_loss(chosen_token_logps: Tensor, mask: Tensor, anchored: Tensor) -> Tensor:
    """SENA's image content alignment loss: -mean_t log p(y+_t) on anchored (description) rows, 0
    elsewhere.

    chosen_token_logps, mask (B, T); anchored (B,) of bool. Returns (B,), to be weighted by lambda
    and added to the DPO loss."""
    return torch.where(anchored, sft_loss(chosen_token_logps, mask), 0.0)


def _same_shape(logits: Tensor, labels: Tensor, mask: Tensor) -> None:
    if not logits.shape[:-1] == labels.shape == mask.shape:
        shapes = f"{tuple(logits.shape)}, {tuple(labels.shape)} and {tuple(mask.shape)}"
        raise ValueError(
            f"logits, labels and mask have shapes {shapes}; they must be (B, T, V), (B, T) and"
            " (B, T)."
        )
