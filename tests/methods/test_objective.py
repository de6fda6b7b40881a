"""The objectives against hand computations and against torch's own cross entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from methods.objective import (
    alignment_loss,
    dpo_loss,
    rejected_from_argmax,
    sft_loss,
    token_logps,
)

LOGITS = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)


def test_token_logps_are_minus_the_cross_entropy_and_zero_outside_the_mask() -> None:
    expected = -F.cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(token_logps(LOGITS, LABELS, MASK), expected * MASK)


def test_token_logps_of_half_precision_logits_are_summed_in_float32() -> None:
    result = token_logps(LOGITS.bfloat16(), LABELS, MASK)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, token_logps(LOGITS.bfloat16().float(), LABELS, MASK))


def test_dpo_starts_at_ln_2_and_follows_equation_7() -> None:
    policy, reference = torch.tensor([-3.0, -8.0]), torch.tensor([-5.0, -1.0])
    same = dpo_loss(policy, reference, policy, reference, 0.1)
    assert same.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)
    loss = dpo_loss(
        torch.tensor([-3.0]), torch.tensor([-9.0]), torch.tensor([-4.0]), torch.tensor([-6.0]), 0.1
    )
    assert loss.item() == pytest.approx(
        -math.log(1 / (1 + math.exp(-0.1 * ((-3 + 4) - (-9 + 6))))), abs=1e-6
    )


def test_dpo_is_finite_for_extreme_margins() -> None:
    far = torch.tensor([-1e4, 1e4])
    zero = torch.zeros(2)
    assert dpo_loss(far, zero, zero, zero, 1.0).tolist() == [1e4, 0.0]


def test_alignment_is_the_mean_over_the_chosen_tokens_of_aligned_rows_only() -> None:
    logps = torch.tensor([[-1.0, -3.0, 0.0], [-2.0, -2.0, -5.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert alignment_loss(logps, mask, torch.tensor([True, True])).tolist() == [2.0, 3.0]
    assert alignment_loss(logps, mask, torch.tensor([False, True])).tolist() == [0.0, 3.0]
    assert sft_loss(logps, mask).tolist() == [2.0, 3.0]


def test_alignment_gives_no_gradient_to_rows_that_are_not_aligned() -> None:
    logps = torch.full((2, 4), -1.0, requires_grad=True)
    alignment_loss(
        logps, torch.ones(2, 4, dtype=torch.bool), torch.tensor([True, False])
    ).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[-0.25] * 4, [0.0] * 4]


def test_rejected_from_argmax_takes_the_second_word_where_the_first_is_the_label() -> None:
    logits = torch.tensor([[[3.0, 2.0, 1.0], [0.0, 5.0, 4.0], [1.0, 2.0, 9.0]]])
    labels = torch.tensor([[0, 0, 2]])  # the first word, another word, masked
    expected = logits.log_softmax(-1)[0, [0, 1], [1, 1]].tolist()
    result = rejected_from_argmax(logits, labels, torch.tensor([[True, True, False]]))
    assert result[0].tolist() == pytest.approx([*expected, 0.0])


def test_other_shapes_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, T, V\), \(B, T\) and \(B, T\)"):
        token_logps(LOGITS, LABELS[:, 1:], MASK)
