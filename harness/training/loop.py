"""A training that is ready to run; one optimiser step on a batch of pairs, by one process or shared
by several; the search for a batch size that fits in memory.

A step's pairs are sorted by length and cut into pieces of ``device_batch`` pairs. Process r of n
takes every n-th piece. Each piece's loss is divided by the whole batch's size, so the gradients add
up to that of the batch's mean, whichever process computed a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from harness.errors import RowEnded, UserError
from harness.models.device_memory import out_of_memory, release_memory
from harness.training.fsdp import Policy, full_tensor
from harness.training.pair_batches import EncodedPair, pack
from harness.training.placement import Placement
from harness.training.ranks import Ranks
from harness.training.schedule import derived_seed
from methods.interface import Recipe
from methods.objective import alignment_loss, dpo_loss, dpo_margin, sft_loss

LOGGED = ("loss", "dpo", "alignment", "margin", "reward_chosen", "reward_rejected")
"""Means over a step's pairs in ``log.jsonl``; null where the objective has no such value."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The parts of a training that are the same in every step."""

    policy: Policy
    parameters: Mapping[str, Parameter]
    """The trained parameters, by name."""
    references: Mapping[str, tuple[float, float]]
    """(chosen, rejected) log-probabilities of the reference model, by the pair's key."""
    recipe: Recipe
    seed: int
    pad: int
    """The padding token's id."""
    device_batch: int
    """Pairs in one forward pass."""
    sharded: bool
    """Whether the weights are sharded over the processes."""
    ranks: Ranks
    autocast: Callable[[], AbstractContextManager[Any]]

    @property
    def sides(self) -> int:
        """Answers a pair: the chosen one, and the rejected one unless it is fine-tuning."""
        return 1 if self.recipe.objective == "sft" else 2

    def losses(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """The objective of pairs in one forward pass, each value (B,)."""
        device = self.policy.model.device
        packed = pack(pairs, sides=self.sides, pad=self.pad)
        with self.autocast():
            logps, mask = self.policy(packed)
        values = [self.references.get(encoded.pair.key, (0.0, 0.0)) for encoded in pairs]
        references, aligned = torch.tensor(values, device=device), packed.aligned.to(device)
        return pair_losses(self.recipe, logps, mask, references, aligned)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is ready to run."""

    out: Path
    model: Any
    dtype: torch.dtype
    """In which the model was loaded and is saved."""
    wrapped: Any
    """peft's LoraModel around it; None for full training."""
    config: Placement
    loop: Loop
    optimizer: torch.optim.Optimizer
    steps: list[list[EncodedPair]]
    """The pairs of each optimiser step."""
    encoded: list[EncodedPair]
    """The pairs used."""
    start: Mapping[str, Tensor]
    """Some of the trained weights' values before training; empty with adapters."""

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training used."""

    steps: int
    """Optimiser steps."""
    pairs_made: int
    pairs_used: int
    visits: int
    """Pairs, counted as often as they were trained on."""
    tokens: int
    """Answer tokens of these visits, end tokens included."""
    cut: int
    """Used pairs with an answer that was cut at the model's length."""
    seconds: float
    """Of the optimiser steps, over all pieces of a resumed training."""
    processes: int
    device_batch: int
    """Pairs in one forward pass."""
    checkpointing: bool
    sharded: bool
    optimizer: str
    trainer: str = "own"
    update_kept: float | None = None
    """The share of the update that is left in the precision of the model that answers."""


def summary_of(training: Training, pairs_made: int, seconds: float, kept: float) -> TrainSummary:
    """``pairs_made``: pairs of the round; ``kept``: see ``update_kept``."""
    config, loop = training.config, training.loop
    visited = [pair for step in training.steps for pair in step]
    answers = (answer for pair in visited for answer in (pair.chosen, pair.rejected)[: loop.sides])
    return TrainSummary(
        steps=len(training.steps),
        pairs_made=pairs_made,
        pairs_used=len(training.encoded),
        visits=len(visited),
        tokens=sum(map(len, answers)),
        cut=sum(pair.cut for pair in training.encoded),
        seconds=seconds,
        processes=loop.ranks.size,
        device_batch=loop.device_batch,
        checkpointing=bool(config.checkpointing),
        sharded=loop.sharded,
        optimizer=config.optimizer,
        trainer=config.trainer,
        update_kept=kept,
    )


def pair_losses(
    recipe: Recipe, logps: Tensor, mask: Tensor, references: Tensor, aligned: Tensor
) -> dict[str, Tensor]:
    """The objective a pair, each value (B,): ``loss`` and, unless it is supervised fine-tuning,
    ``dpo``, ``alignment``, ``margin``, and the two rewards of which ``margin`` is the difference.

    logps, mask (2B, T): chosen rows, then rejected ones; for ``sft`` chosen ones alone, (B, T).
    references (B, 2). aligned (B,) of bool: pairs with the alignment term."""
    if recipe.objective == "sft":
        return {"loss": sft_loss(logps, mask)}
    n = len(aligned)
    sums = (logps[:n].sum(-1), logps[n:].sum(-1), references[:, 0], references[:, 1])
    dpo = dpo_loss(*sums, recipe.beta)
    alignment = alignment_loss(logps[:n], mask[:n], aligned)
    loss = dpo + recipe.alignment_weight * alignment
    return {
        "loss": loss,
        "dpo": dpo,
        "alignment": alignment,
        "margin": dpo_margin(*sums, recipe.beta),
        "reward_chosen": recipe.beta * (sums[0] - sums[2]),
        "reward_rejected": recipe.beta * (sums[1] - sums[3]),
    }


def gradients(loop: Loop, order: Sequence[EncodedPair], step: int) -> list[dict[str, float]]:
    """Compute the gradient of the pairs' mean loss into the parameters. Returns each pair's values
    in ``order``, from all processes."""
    ranks = loop.ranks
    size = min(loop.device_batch, math.ceil(len(order) / ranks.size))
    pieces = [(start, order[start : start + size]) for start in range(0, len(order), size)]
    local_pieces = [(start, pairs, 1.0) for start, pairs in ranks.share(pieces)]
    if loop.sharded and len(local_pieces) < math.ceil(len(pieces) / ranks.size):
        # Gathering weights takes every process: one without a piece joins with weight 0.
        local_pieces.append((*pieces[0], 0.0))
    # FSDP averages the gradients of sharded weights, but ours add up; it leaves adapters alone.
    averaged = loop.sharded and loop.recipe.lora is None
    scale = ranks.size if averaged else 1
    values: dict[int, dict[str, float]] = {}
    for start, pairs, weight in local_pieces:
        torch.manual_seed(derived_seed(loop.seed, step, start))  # for the adapters' dropout
        losses = loop.losses(pairs)
        (losses["loss"].sum() * (weight * scale / len(order))).backward()  # type: ignore[no-untyped-call]
        if weight:
            columns = {name: value.detach().tolist() for name, value in losses.items()}
            for index in range(len(pairs)):
                values[start + index] = {name: column[index] for name, column in columns.items()}
    if not averaged and ranks.size > 1:
        for parameter in loop.parameters.values():
            if parameter.grad is None:  # this process had no piece
                parameter.grad = torch.zeros_like(parameter)
        grads = (parameter.grad for parameter in loop.parameters.values())
        ranks.sum([grad for grad in grads if grad is not None])
    all_values = {
        index: row for rank_values in ranks.gather(values) for index, row in rank_values.items()
    }
    return [all_values[index] for index in range(len(order))]


def take_step(
    loop: Loop,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[EncodedPair],
    step: int,
    steps: int,
) -> dict[str, float | None]:
    """One optimiser step on the mean loss of ``batch``. Returns its means for the log.

    Raises:
        RowEnded: the loss or its gradient is not finite; the weights are then unchanged.
    """
    optimizer.zero_grad()
    order = sorted(
        batch, key=lambda encoded: encoded.length
    )  # similar lengths together: less padding
    rows = gradients(loop, order, step)
    limit = loop.recipe.max_grad_norm or math.inf
    clipped = torch.nn.utils.clip_grad_norm_(loop.parameters.values(), limit)
    norm = float(full_tensor(clipped))
    pair_rows = zip(order, rows, strict=True)
    bad_keys = [encoded.pair.key for encoded, row in pair_rows if not math.isfinite(row["loss"])]
    if bad_keys or not math.isfinite(norm):
        raise not_finite(step, steps, bad_keys)
    optimizer.step()
    if step + 1 == steps:
        check_finite(loop)
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    accuracy = sum(row["margin"] > 0 for row in rows) / len(rows) if "margin" in rows[0] else None
    return {**dict.fromkeys(LOGGED), **means, "accuracy": accuracy, "grad_norm": norm}


def not_finite(step: int, steps: int, pairs: Sequence[str] = ()) -> RowEnded:
    """The end of a training whose loss is not a number at ``step`` (from 0)."""
    return RowEnded(
        f"The loss or its gradient is not finite at step {step + 1} of {steps} (pairs:"
        f" {', '.join(pairs[:3]) or 'any'}); lower the recipe's learning rate and train in a"
        " fresh folder. The checkpoints before it are kept."
    )


def check_finite(loop: Loop) -> None:
    """Check the trained weights of all processes.

    Raises:
        RowEnded: a weight is not finite.
    """
    local_tensors = [
        getattr(parameter, "to_local", lambda parameter=parameter: parameter)()
        for parameter in loop.parameters.values()
    ]
    if loop.ranks.sum_of(sum(not bool(tensor.isfinite().all()) for tensor in local_tensors)):
        raise RowEnded(
            "The weights are not finite after the last step; lower the recipe's learning rate and"
            " train in a fresh folder."
        )


def find_batch_size(loop: Loop, pairs: Sequence[EncodedPair]) -> Loop:
    """Try the longest pairs, forward and backward, and halve ``device_batch`` until they fit. A
    lack of memory so shows in the first minute. No weight changes.

    Raises:
        RowEnded: one pair does not fit.
        UserError: with sharded weights, memory ran out on some of the processes only.
    """
    longest = sorted(pairs, key=lambda pair: -pair.length)
    while True:
        failed = loop.ranks.sum_of(int(_exceeds_memory(loop, longest[: loop.device_batch])))
        if not failed:
            return loop
        if loop.sharded and failed < loop.ranks.size:
            raise UserError(
                f"Memory ran out on {failed} of {loop.ranks.size} devices while weights are sharded"
                " over them, so they are out of step; end what else runs on those devices and run"
                " the same command again."
            )
        if loop.device_batch == 1:
            raise RowEnded(
                f"The longest pair ({longest[0].length} tokens) does not fit in memory on its own;"
                " train with LoRA (--lora), on more GPUs, or with shorter answers."
            )
        loop = replace(loop, device_batch=loop.device_batch // 2)


def _exceeds_memory(loop: Loop, pairs: Sequence[EncodedPair]) -> bool:
    failed = False
    try:
        loop.losses(pairs)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        failed = True
    for parameter in loop.parameters.values():
        parameter.grad = None
    if failed:
        release_memory()
    return failed
