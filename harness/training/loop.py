"""One optimiser step on a batch of pairs, by one process or shared by a team; and the rehearsal of
the worst batch.

A step's pairs are sorted by length and cut into pieces that meet the model at once; process r of n
takes every n-th piece. Each piece's loss is divided by the whole batch's size, so the sum of all
gradients is the gradient of the batch's mean, whoever computed which part."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from harness.engine.batching import out_of_memory
from harness.errors import UserError
from harness.training.fsdp import Policy, whole
from harness.training.pair_batches import EncodedPair, pack
from harness.training.ranks import Ranks
from harness.training.schedule import derived_seed
from methods.interface import Recipe
from methods.objective import alignment_loss, dpo_loss, dpo_margin, sft_loss

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What stays the same from step to step."""

    policy: Policy
    parameters: Mapping[str, Parameter]
    references: Mapping[str, tuple[float, float]]
    recipe: Recipe
    seed: int
    pad: int
    device_batch: int
    sharded: bool
    ranks: Ranks
    autocast: Callable[[], AbstractContextManager[Any]]

    @property
    def sides(self) -> int:
        return 1 if self.recipe.objective == "sft" else 2

    def losses(self, rows: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """The objective of pairs that meet the model at once, each value (B,)."""
        device = self.policy.model.device
        packed = pack(rows, sides=self.sides, pad=self.pad)
        with self.autocast():
            logps, mask = self.policy(packed)
        known = torch.tensor(
            [self.references.get(one.pair.key, (0.0, 0.0)) for one in rows], device=device
        )
        return pair_losses(self.recipe, logps, mask, known, packed.anchored.to(device))


def pair_losses(
    recipe: Recipe, logps: Tensor, mask: Tensor, references: Tensor, anchored: Tensor
) -> dict[str, Tensor]:
    """The objective a pair, each value (B,): ``loss`` and, unless it is supervised fine-tuning,
    ``dpo``, ``anchor``, ``margin``.

    logps, mask (2B, T): chosen rows, then rejected ones (chosen alone, (B, T), for ``sft``).
    references (B, 2). anchored (B,)."""
    if recipe.objective == "sft":
        return {"loss": sft_loss(logps, mask)}
    n = len(anchored)
    sums = (logps[:n].sum(-1), logps[n:].sum(-1), references[:, 0], references[:, 1])
    dpo = dpo_loss(*sums, recipe.beta)
    anchor = alignment_loss(logps[:n], mask[:n], anchored)
    margin = dpo_margin(*sums, recipe.beta)
    return {
        "loss": dpo + recipe.alignment_weight * anchor,
        "dpo": dpo,
        "anchor": anchor,
        "margin": margin,
    }


def gradients(loop: Loop, order: Sequence[EncodedPair], step: int) -> list[dict[str, float]]:
    """Leave the gradient of the mean loss of the pairs in the parameters; each pair's values in
    ``order``, whoever made them."""
    ranks = loop.ranks
    size = min(loop.device_batch, math.ceil(len(order) / ranks.size))
    pieces = [(start, order[start : start + size]) for start in range(0, len(order), size)]
    mine = [(start, rows, 1.0) for start, rows in ranks.share(pieces)]
    if loop.sharded and len(mine) < math.ceil(len(pieces) / ranks.size):
        mine.append(
            (*pieces[0], 0.0)
        )  # gathering weights takes every process: one without a piece goes along for nothing
    # FSDP averages what it shards over the processes where we add up; adapters it leaves alone.
    averaged = loop.sharded and loop.recipe.lora is None
    scale = ranks.size if averaged else 1
    values: dict[int, dict[str, float]] = {}
    for start, rows, weight in mine:
        torch.manual_seed(derived_seed(loop.seed, step, start))  # the adapters' dropout
        losses = loop.losses(rows)
        (losses["loss"].sum() * (weight * scale / len(order))).backward()  # type: ignore[no-untyped-call]
        if weight:
            columns = {name: value.detach().tolist() for name, value in losses.items()}
            values |= {
                start + at: {name: column[at] for name, column in columns.items()}
                for at in range(len(rows))
            }
    if not averaged and ranks.size > 1:
        for parameter in loop.parameters.values():
            if parameter.grad is None:  # this process had no piece
                parameter.grad = torch.zeros_like(parameter)
        ranks.sum(
            [parameter.grad for parameter in loop.parameters.values() if parameter.grad is not None]
        )
    everyone = {place: one for part in ranks.gather(values) for place, one in part.items()}
    return [everyone[place] for place in range(len(order))]


def take_step(
    loop: Loop,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[EncodedPair],
    step: int,
    steps: int,
) -> dict[str, float | None]:
    """One optimiser step on the mean loss of ``batch``; its means for the log. Leaves the weights
    alone if that is not finite."""
    optimizer.zero_grad()
    order = sorted(
        batch, key=lambda one: one.length
    )  # like lengths together: less padding, the same sum
    rows = gradients(loop, order, step)
    norm = float(whole(torch.nn.utils.clip_grad_norm_(loop.parameters.values(), MAX_GRAD_NORM)))
    bad = [
        one.pair.key for one, row in zip(order, rows, strict=True) if not math.isfinite(row["loss"])
    ]
    if bad or not math.isfinite(norm):
        raise UserError(
            f"The loss or its gradient is not finite at step {step + 1} of {steps} (pairs:"
            f" {', '.join(bad[:3]) or 'any'}); lower the recipe's learning rate and train in a"
            " fresh folder. The checkpoints before it are kept."
        )
    optimizer.step()
    means: dict[str, float | None] = {
        name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]
    }
    accuracy = sum(row["margin"] > 0 for row in rows) / len(rows) if "margin" in rows[0] else None
    return {
        "loss": None,
        "dpo": None,
        "anchor": None,
        "margin": None,
        **means,
        "accuracy": accuracy,
        "grad_norm": norm,
    }


def rehearse(loop: Loop, pairs: Sequence[EncodedPair]) -> Loop:
    """Try the longest pairs, forward and backward, so that too little memory shows in the first
    minute; changes no weight.

    The loop that fits: where memory ran out, fewer pairs at once.

    Raises:
        UserError: one pair at a time does not fit; or, with sharded weights, memory ran out for
            some of a team alone.
    """
    longest = sorted(pairs, key=lambda one: -one.length)
    while True:
        failed = loop.ranks.sum_of(int(_runs_out(loop, longest[: loop.device_batch])))
        if not failed:
            return loop
        if loop.sharded and failed < loop.ranks.size:
            raise UserError(
                f"Memory ran out on {failed} of {loop.ranks.size} devices while weights are spread"
                " over them, and the others are ahead of them now; end what else runs on those"
                " devices and run the same command again."
            )
        if loop.device_batch == 1:
            raise UserError(
                f"The longest pair ({longest[0].length} tokens) does not fit in memory on its own;"
                " train with LoRA, on more GPUs, or with shorter answers."
            )
        loop = replace(loop, device_batch=loop.device_batch // 2)


def _runs_out(loop: Loop, rows: Sequence[EncodedPair]) -> bool:
    failed = False
    try:
        loop.losses(rows)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        failed = True
    for parameter in loop.parameters.values():
        parameter.grad = None
    if (
        failed
    ):  # only here, outside the except block, are the failed call's frames and their tensors gone
        gc.collect()
        torch.cuda.empty_cache()
    return failed
