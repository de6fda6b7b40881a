"""What a study on a real base costs before any data is there: GPU-hours, memory and disk of each
run.

Seconds come from records of the same kind of stage on the same base and hardware, where there are
any. Otherwise they are lower bounds: the arithmetic of LLaVA-1.5-7B on one H200 (bf16, 4.3 TB/s,
790 TFLOP/s) with images shared, scaled by the number of parameters. A run takes at least that
long."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from harness.artifacts.environment import hardware
from harness.artifacts.results_folder import records
from harness.models.base_cards import BASES, BaseCard, find_base
from harness.models.load_base import WORKING_GIB
from harness.study.study import Run
from harness.training.memory import GIB, SHAPES, Shape, backward_share, forward_flops, recipe_memory
from harness.training.placement import RESERVED_BYTES
from methods.catalogue import METHODS
from methods.entry import Entry
from methods.interface import Recipe

REFERENCE = 7.06e9
"""Parameters of the base that the lower bounds are for."""

SHORT_SECONDS, CAPTION_SECONDS = 0.0113, 0.102
"""To answer a short question, and to describe an image: POPE, MME and CHAIR once (9,000 and 2,374
short questions, 500 captions) take 180 s, a caption about nine times as long as a short answer."""

PROMPT_TOKENS, ANSWER_TOKENS, PAIRS_PER_PASS, FLOP_RATE = 600, 100, 8, 0.45 * 790e12
"""Tokens of image and prompt; tokens of an answer; pairs per pass; FLOP/s at 45 % of the peak."""

WORKING = 16.0
"""GiB for shared images and batches of answers at full speed."""


def answer_seconds(counts: Mapping[str, int], captions: Set[str]) -> float:
    """Seconds to answer all questions once. ``counts``: questions by benchmark; ``captions``: the
    benchmarks whose answers are captions."""
    return sum(
        count * (CAPTION_SECONDS if name in captions else SHORT_SECONDS)
        for name, count in counts.items()
    )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs."""

    label: str
    pairs: float
    """Seconds on the accelerator to make the pairs; ``train`` and ``answers`` likewise."""
    train: float
    answers: float
    measured: tuple[str, ...]
    """The stages whose seconds come from records."""
    memory: float
    """GiB of GPU memory for full speed."""
    min_memory: float
    """GiB of GPU memory with one pair at a time and small batches of answers."""
    disk: float
    """GiB of weights that the run writes."""

    @property
    def hours(self) -> float:
        return (self.pairs + self.train + self.answers) / 3600


def round_disk(run: Run) -> float:
    """GiB that a round's training keeps: adapters alone, or whole weights; 0 without training."""
    card, recipe = find_base(run.base), run.method.recipe
    return 0.0 if recipe is None else unmerged_gib(card, recipe) or weights_gib(card)


def cost(run: Run, measured: Sequence[Mapping[str, Any]] = (), *, answering: float = 180.0) -> Cost:
    """The cost of one run: every round's pairs and training, and ``answering`` seconds (on the base
    of 7 billion parameters) for the answers after each round. ``measured`` are records of this
    hardware."""
    card, recipe, name = find_base(run.base), run.method.recipe, run.method.name
    scale = (card.parameters or REFERENCE) / REFERENCE
    answers = answering * scale * max(1, run.last)
    if recipe is None:
        return Cost(
            label=run.label,
            pairs=0,
            train=0,
            answers=answers,
            measured=(),
            memory=answering_memory(card),
            min_memory=answering_memory(card, WORKING_GIB),
            disk=weights_gib(card),
        )
    entry = METHODS.get(name, Entry(published=run.method, synthetic=run.method))
    rates = {stage: measured_rate(measured, stage, card.name, name) for stage in ("pairs", "train")}
    images, (pairs_rate, train_rate) = run.images * run.rounds, rates.values()
    if pairs_rate is None:
        pairs_rate = entry.seconds_per_image * scale
    pairs = entry.pairs_per_image * images
    visits = run.rounds * run.steps * recipe.global_batch if run.steps else pairs * recipe.epochs
    if train_rate is not None:
        train = visits * train_rate
    else:
        # The reference's forward pass once per pair, then a forward and a backward pass per visit.
        passes = min(visits, pairs) + (1 + backward_share(recipe)) * visits
        train = (
            passes
            * forward_flops(shape_for(card), prompt=PROMPT_TOKENS, side=ANSWER_TOKENS)
            / FLOP_RATE
        )
    # Of the rounds' adapters, half as much again for the copy in half precision that the engine
    # multiplies with.
    adapter_gib, earlier_rounds = unmerged_gib(card, recipe), run.rounds - 1

    def memory(rows: int, working: float) -> float:
        return max(
            answering_memory(card, working) + 1.5 * run.rounds * adapter_gib,
            training_memory(card, recipe, rows=rows) + earlier_rounds * adapter_gib,
        )

    return Cost(
        label=run.label,
        pairs=images * pairs_rate,
        train=train,
        answers=answers,
        measured=tuple(stage for stage, rate in rates.items() if rate is not None),
        memory=memory(PAIRS_PER_PASS, WORKING),
        min_memory=memory(1, WORKING_GIB),
        disk=run.rounds * round_disk(run),
    )


def measured_here(results: Path) -> list[dict[str, Any]]:
    """The records of this hardware below a folder that holds results folders."""
    this_hardware = hardware()
    return [
        record
        for record in records(results)
        if record.get("hardware") == this_hardware and record.get("items")
    ]


def measured_rate(
    measured: Sequence[Mapping[str, Any]],
    stage: str,
    base: str | None,
    name: str,
    *,
    or_any: bool = False,
) -> float | None:
    """The median seconds per item of such stages; None without a record. ``name``: of the method
    or benchmark; ``or_any``: where it has no record, take those of the others."""
    rates: dict[str, list[float]] = {}
    for record in measured:
        if (record.get("stage"), record.get("base")) == (stage, base) and record.get("items"):
            rate = record["seconds"] / record["items"]
            rates.setdefault(record.get("name", ""), []).append(rate)
    method_rates = rates.get(name, [])
    if not method_rates and or_any:
        method_rates = list(chain.from_iterable(rates.values()))
    return median(method_rates) if method_rates else None


def weights_gib(card: BaseCard) -> float:
    """GiB of the weights in the card's precision."""
    return (card.parameters or REFERENCE) * (4 if card.dtype == "float32" else 2) / GIB


def answering_memory(card: BaseCard, working: float = WORKING) -> float:
    """GiB to generate: the weights, and ``working`` for shared images and a batch of answers, each
    half of it. With less the engine takes smaller batches."""
    return weights_gib(card) + working


def training_memory(
    card: BaseCard,
    recipe: Recipe,
    *,
    rows: int = PAIRS_PER_PASS,
    processes: int = 1,
    eight_bit: bool = False,
) -> float:
    """GiB a device to train with recomputed activations and ``rows`` pairs per pass, by the
    arithmetic that places a training (harness/training/memory.py). ``processes``: the GPUs over
    which it is sharded; with the 8-bit optimiser it is not."""
    plan = recipe_memory(
        shape_for(card),
        recipe,
        4 if card.dtype == "float32" else 2,
        rows=rows,
        prompt=PROMPT_TOKENS,
        side=ANSWER_TOKENS,
        processes=1 if eight_bit else processes,
        moments=2 if eight_bit else 8,
    )
    return (plan.total + RESERVED_BYTES) / GIB


def unmerged_gib(card: BaseCard, recipe: Recipe) -> float:
    """GiB of a round's adapters and projector in float32, which a base in half precision keeps
    beside its weights; 0 where they are merged or nothing is adapted."""
    if recipe.lora is None or card.dtype == "float32":
        return 0.0
    shape = shape_for(card)
    projector = shape.projector if recipe.trains_projector else 0
    return 4 * (shape.adapters(recipe.lora.r) + projector) / GIB


def shape_for(card: BaseCard) -> Shape:
    """The card's shape. A base without a stored shape gets that of its family's nearest in size,
    with more or fewer layers."""
    if card.name in SHAPES:
        return SHAPES[card.name]
    count = card.parameters or REFERENCE
    family = [
        SHAPES[name]
        for name, other in BASES.items()
        if name in SHAPES and other.family == card.family
    ]
    nearest = min(family, key=lambda shape: abs(shape.parameters - count))
    return replace(
        nearest, layers=max(1, nearest.layers + round((count - nearest.parameters) / nearest.layer))
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"


def lines(
    runs: Sequence[Run],
    counts: Mapping[str, int],
    captions: Set[str],
    results: Path,
) -> list[str]:
    """The costs in words: a line a row, and their sum. ``counts``, ``captions``: as
    :func:`answer_seconds`. ``results`` holds earlier records."""
    measured, answering = measured_here(results), answer_seconds(counts, captions)
    seeds = Counter(run.label for run in runs)
    rows = {run.label: cost(run, measured, answering=answering) for run in reversed(runs)}
    width = min(40, max(map(len, rows)))
    columns = ("pairs", "train", "answers", "memory", "disk")
    text = [f"  {'row':<{width}} {'seeds':>5}" + "".join(f"{name:>10}" for name in columns)]
    for label in dict.fromkeys(run.label for run in runs):
        row_cost, seed_count = rows[label], seeds[label]
        seconds = (
            seed_count * row_cost.pairs,
            seed_count * row_cost.train,
            seed_count * row_cost.answers,
        )
        durations = "".join(f"{_duration(duration):>10}" for duration in seconds)
        sizes = f"{math.ceil(row_cost.memory):>6} GiB{math.ceil(seed_count * row_cost.disk):>6} GiB"
        note = f"   measured here: {', '.join(row_cost.measured)}" if row_cost.measured else ""
        text.append(f"  {label[:width]:<{width}} {seed_count:>5}{durations}{sizes}{note}")
    total = sum(seeds[label] * row_cost.hours for label, row_cost in rows.items())
    memory = max(row_cost.memory for row_cost in rows.values())
    min_memory = max(row_cost.min_memory for row_cost in rows.values())
    disk = sum(seeds[label] * row_cost.disk for label, row_cost in rows.items())
    disk += weights_gib(find_base(runs[0].base))
    time = f"{total:.1f} GPU-hours" if total >= 0.1 else f"{60 * total:.1f} GPU-minutes"
    return [
        *text,
        f"In all {time} for {sum(counts.values()):,} questions a round;"
        f" {math.ceil(disk)} GiB of disk with the base.",
        f"One GPU needs {math.ceil(min_memory)} GiB at least and {math.ceil(memory)} for full"
        " speed; full training is sharded over several.",
        "Times that are not measured here are lower bounds by arithmetic for one H200; expect twice"
        " as much.",
    ]
