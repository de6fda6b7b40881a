"""Preference objectives as pure functions of log-probabilities.

Shapes: B pairs, T completion tokens (right-padded; ``mask`` is True on real tokens, the end token
included), V words. Log-probabilities are natural logarithms, in float32 whatever the logits' type.

Sources: DPO, Rafailov et al., arXiv 2305.18290, eq. 7. Image content alignment, SENA, arXiv
2412.15650, second loss term. ``rejected_from_argmax`` is what SIMA's released trainer (arXiv
2405.15973) computes instead of eq. 7's rejected side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_logps(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """log p(label) at each position, 0 where ``mask`` is False.

    Args:
        logits: (B, T, V). Position t predicts ``labels[:, t]``: the caller has shifted them.
        labels, mask: (B, T).

    Returns:
        (B, T).
    """
    _check_shapes(logits, labels, mask)
    # gather - logsumexp keeps one (B, T, V) tensor for the backward pass; log_softmax would keep
    # two.
    chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).float()
    return (chosen - logits.float().logsumexp(-1)).masked_fill(~mask, 0.0)


def rejected_from_argmax(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """SIMA's released rejected side: at each position of the rejected completion, log p of the
    model's own most likely token.

    Where that token equals the rejected label, the second most likely token is taken. So the
    rejected text enters only as context. Shapes as in :func:`token_logps`. The choice of token
    carries no gradient; its log-probability does. The reference model's logits go through the same
    function, so the loss still starts at ln 2."""
    _check_shapes(logits, labels, mask)
    return token_logps(logits, likeliest_other(logits, labels), mask)


def likeliest_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The most likely token other than the label. logits (B, T, V); labels and result (B, T)."""
    first, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    return torch.where(first == labels, second, first)


def dpo_margin(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> Tensor:
    """The difference of implicit rewards, beta * [(log pi(y+) - log ref(y+)) - (log pi(y-) - log
    ref(y-))]. Inputs (B,): sums over the completion's tokens. Returns (B,)."""
    return beta * ((chosen_logps - ref_chosen) - (rejected_logps - ref_rejected))


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
) -> Tensor:
    """-log sigmoid(margin) per pair (arXiv 2305.18290, eq. 7); shapes as in
    :func:`dpo_margin`."""
    return -F.logsigmoid(dpo_margin(chosen_logps, rejected_logps, ref_chosen, ref_rejected, beta))


def sft_loss(chosen_token_logps: Tensor, mask: Tensor) -> Tensor:
    """-mean_t log p(y+_t) per row, over the tokens with ``mask`` True. Inputs (B, T). Returns (B,);
    0 for a row without tokens."""
    return -(chosen_token_logps * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def alignment_loss(chosen_token_logps: Tensor, mask: Tensor, aligned: Tensor) -> Tensor:
    """SENA's image content alignment loss: -mean_t log p(y+_t) on aligned (description) rows, 0
    elsewhere. It is weighted by lambda and added to the DPO loss.

    Args:
        chosen_token_logps, mask: (B, T).
        aligned: (B,), bool.

    Returns:
        (B,).
    """
    return torch.where(aligned, sft_loss(chosen_token_logps, mask), 0.0)


def _check_shapes(logits: Tensor, labels: Tensor, mask: Tensor) -> None:
    if not logits.shape[:-1] == labels.shape == mask.shape:
        shapes = f"{tuple(logits.shape)}, {tuple(labels.shape)} and {tuple(mask.shape)}"
        raise ValueError(
            f"logits, labels and mask have shapes {shapes}; they must be (B, T, V), (B, T) and"
            " (B, T)."
        )
