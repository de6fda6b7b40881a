"""What a study on a real base costs before anything is there: GPU-hours, memory and disk, run by
run.

Seconds come from records of the same kind of stage on the same base and hardware where there are
some. Else they are floors: what the arithmetic of LLaVA-1.5-7B takes on one H200 (bf16, 4.3 TB/s,
790 TFLOP/s) with images shared, scaled by the number of parameters. A floor is the least a run
can take, never a promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from harness.artifacts.environment import hardware
from harness.artifacts.results_folder import records
from harness.models.base_cards import BASES, BaseCard, find_base
from harness.study.study import Run
from harness.training.memory import GIB, SHAPES, Shape, backward_share, forward_flops, planned
from harness.training.placement import SPARE
from methods.interface import Recipe

REFERENCE = 7.06e9
"""Parameters of the base that the floors are for."""

FLOOR_PAIRS: Mapping[str, float] = {"sena": 0.045, "sima": 0.050, "csr": 0.100, "gt_dpo": 0.020}
"""Seconds an image: eight short generations; two answers and a critic; a tree of about 13
expansions; one answer."""

FLOOR_ANSWERS = 180.0
"""Seconds to answer POPE, MME and CHAIR once (9,000, 2,374 and 500 questions)."""

PROMPT, SIDE, AT_ONCE, RATE = 600, 100, 8, 0.45 * 790e12
"""Tokens of image and prompt, of an answer; pairs at once; FLOPs a second at 45 % of the peak."""

PAIRS_A_PICTURE: Mapping[str, float] = {"sena": 2.0}
"""At most; the filters drop some. One where it is not said."""


def share_of(limit: int | None) -> float:
    """The share of the questions that are asked: POPE and CHAIR have 500 images each, of which a
    limit takes so many."""
    return 1.0 if limit is None else min(1.0, limit / 500)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A run's seconds on the accelerator, of which ``measured`` says what comes from records; GiB
    of memory and disk."""

    label: str
    pairs: float
    train: float
    answers: float
    measured: tuple[str, ...]
    memory: float
    disk: float

    @property
    def hours(self) -> float:
        return (self.pairs + self.train + self.answers) / 3600


def cost(run: Run, measured: Sequence[Mapping[str, Any]] = (), *, share: float = 1.0) -> Cost:
    """What one run takes: every round's pairs and training, and its answers to a ``share`` of the
    questions after each."""
    card, recipe = find_base(run.base), run.method.recipe
    scale = (card.parameters or REFERENCE) / REFERENCE
    seen: list[str] = []

    def rate(stage: str, floor: float) -> float:
        found = [
            one["seconds"] / one["items"]
            for one in measured
            if (one.get("stage"), one.get("base"), one.get("name"))
            == (stage, card.name, run.method.name)
            and one.get("items")
        ]
        if found:
            seen.append(stage)
        return median(found) if found else floor * scale

    answered = FLOOR_ANSWERS * scale * share * max(1, run.last)
    if recipe is None:
        return Cost(
            label=run.label,
            pairs=0,
            train=0,
            answers=answered,
            measured=(),
            memory=answering_memory(card),
            disk=weights(card),
        )
    pictures = run.images * run.rounds
    pairs = pictures * rate("pairs", FLOOR_PAIRS.get(run.method.name, 0.05))
    made = PAIRS_A_PICTURE.get(run.method.name, 1.0)
    visits = (
        run.rounds * run.steps * recipe.global_batch
        if run.steps
        else made * recipe.epochs * pictures
    )
    # The reference's forward pass once a pair, then a forward and a backward pass a visit.
    passes = min(visits, made * pictures) + (1 + backward_share(recipe)) * visits
    work = passes * forward_flops(shape_for(card), prompt=PROMPT, side=SIDE) / RATE
    train = visits * rate("train", work / visits / scale)
    return Cost(
        label=f"{run.label}, seed {run.seed}",
        pairs=pairs,
        train=train,
        answers=answered,
        measured=tuple(seen),
        memory=max(answering_memory(card), training_memory(card, recipe)),
        disk=run.rounds * weights(card),
    )


def weights(card: BaseCard) -> float:
    """GiB of the weights in the card's precision."""
    return (card.parameters or REFERENCE) * (4 if card.dtype == "float32" else 2) / GIB


def answering_memory(card: BaseCard) -> float:
    """GiB to generate: the weights, and 8 GiB each for shared images' keys and values and for a
    batch of answers."""
    return weights(card) + 16


def training_memory(card: BaseCard, recipe: Recipe) -> float:
    """GiB to train on one device with recomputed activations and ``AT_ONCE`` pairs at once: the
    arithmetic by which a training is laid on its machine (harness/training/memory.py)."""
    value = 4 if card.dtype == "float32" else 2
    return (
        planned(shape_for(card), recipe, value, rows=AT_ONCE, prompt=PROMPT, side=SIDE).total
        + SPARE
    ) / GIB


def shape_for(card: BaseCard) -> Shape:
    """The card's shape; of a base without a stored one its family's nearest in size, with more or
    fewer layers."""
    if card.name in SHAPES:
        return SHAPES[card.name]
    count = card.parameters or REFERENCE
    kin = [
        SHAPES[name] for name, one in BASES.items() if name in SHAPES and one.family == card.family
    ]
    near = min(kin, key=lambda one: abs(one.parameters - count))
    return replace(near, layers=max(1, near.layers + round((count - near.parameters) / near.layer)))


def _told(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"


def lines(runs: Sequence[Run], results: Path, *, share: float = 1.0) -> list[str]:
    """The costs in words, a line a run, and their sum."""
    mine = hardware()
    measured = [one for one in records(results) if one.get("hardware") == mine]
    costs = [cost(run, measured, share=share) for run in runs]
    told = [f"  {'row':<28}{'pairs':>10}{'train':>10}{'answers':>10}{'memory':>10}{'disk':>10}"]
    for one in costs:
        hours = "".join(f"{_told(seconds):>10}" for seconds in (one.pairs, one.train, one.answers))
        note = f"   measured here: {', '.join(one.measured)}" if one.measured else ""
        told.append(
            f"  {one.label:<28}{hours}{math.ceil(one.memory):>6} GiB{math.ceil(one.disk):>6}"
            f" GiB{note}"
        )
    total, memory, disk = (
        sum(one.hours for one in costs),
        max(one.memory for one in costs),
        sum(one.disk for one in costs),
    )
    first = find_base(runs[0].base)
    time = f"{total:.1f} GPU-hours" if total >= 0.1 else f"{60 * total:.1f} GPU-minutes"
    told.append(
        f"In all {time}, {math.ceil(memory)} GiB of GPU memory at most (on one GPU; full training"
        f" is sharded over several), {math.ceil(disk + weights(first))} GiB of disk with the base."
    )
    told.append(
        "Times that are not measured here are floors of arithmetic for one H200 (45 % of its peak"
        " in training): expect twice as much for making pairs, and the loading of a model for every"
        " row and round on top."
    )
    return told
