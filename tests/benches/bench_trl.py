"""Our training loop against trl's DPOTrainer on the same pairs, in float32 on the CPU: the largest
differences of the logged values and of the trained weights.

Run: ``python -m tests.benches.bench_trl``; it prints the table of PAPERS.md. The pairs of the
synthetic base are made here: a question's reference answer against that of another image. Every
second pair has SENA's alignment term."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from harness.artifacts.results_folder import read_jsonl
from harness.data.open_pool import open_pool
from harness.models.base_cards import LLAMA_LINEARS, find_base
from harness.models.load_base import load_base
from harness.training.placement import Placement, Trainer
from harness.training.trainer import train_pairs
from methods.interface import Lora, PreferencePair, Recipe
from tests.models.twins import TWINS
from tests.training import cases

FULL = Recipe(lr=1e-4, epochs=2, global_batch=8, warmup=0.1, alignment_weight=1.0)
LORA = replace(FULL, lr=1e-3, lora=Lora(r=8, alpha=16), alignment_weight=0.0)
RECIPES = {
    "full, SENA's alignment term": FULL,
    "LoRA": LORA,
    "LoRA, SIMA's released rejected side": replace(
        LORA, objective="rejected_from_argmax", max_grad_norm=0.0, schedule="constant"
    ),
    "full, supervised fine-tuning": replace(FULL, objective="sft"),
}
PAIRS = 32


class Case:
    """A base with its pairs and their images."""

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        pairs: Sequence[PreferencePair],
        image: Callable[[str], Image],
        batch: int,
    ) -> None:
        self.load, self.pairs, self.image, self.batch = load, pairs, image, batch


def synthetic() -> Case:
    pool = open_pool("synthetic")
    items = {id: pool.read(id) for id in pool.ids[: PAIRS + 1]}
    ids = list(items)
    pairs = [
        PreferencePair(
            key=id,
            item=id,
            prompt=items[id].required("question"),
            chosen=items[id].required("reference"),
            rejected=items[other].required("reference"),
            aligned=number % 2 == 0,
        )
        for number, (id, other) in enumerate(pairwise(ids))
    ]
    card = find_base("synthetic")
    return Case(lambda: load_base(card, "cpu"), pairs, lambda id: items[id].image, 8)


def twin(family: str) -> Case:
    return Case(TWINS[family], cases.PAIRS, cases.images, 3)


CASES: Mapping[str, Callable[[], Case]] = {
    "synthetic": synthetic,
    "tiny LLaVA": lambda: twin("llava-1.5"),
    "tiny Qwen2.5-VL": lambda: twin("qwen2.5-vl"),
}


def trained(
    case: Case, recipe: Recipe, trainer: Trainer, out: Path
) -> tuple[list[dict[str, Any]], Mapping[str, torch.Tensor]]:
    """The log, and each weight's update."""
    model, processor = case.load()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    train_pairs(
        model=model,
        processor=processor,
        pairs=case.pairs,
        images=case.image,
        recipe=replace(recipe, global_batch=case.batch),
        seed=0,
        out=out,
        placement=Placement(log_to=(), trainer=trainer),
        lora_targets=LLAMA_LINEARS,
        checkpoint_every=10**9,
    )
    updates = {name: model.get_parameter(name).detach() - value for name, value in start.items()}
    return read_jsonl(out / "log.jsonl"), updates


def line(name: str, case: Case, title: str, recipe: Recipe) -> str:
    with tempfile.TemporaryDirectory() as folder:
        own, ours = trained(case, recipe, "own", Path(folder) / "own")
        trl, theirs = trained(case, recipe, "trl", Path(folder) / "trl")
    both = list(zip(own, trl, strict=True))

    def apart(field: str) -> str:
        if own[0][field] is None:
            return "none"
        return f"{max(abs(a[field] - b[field]) for a, b in both):.0e}"

    size = max(float(value.abs().max()) for value in ours.values())
    away = max(float((value - theirs[key]).abs().max()) for key, value in ours.items())
    cells = (name, title, str(len(own)), apart("loss"), apart("margin"), apart("grad_norm"))
    return f"| {' | '.join(cells)} | {size:.0e} | {away:.0e} |"


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| base | trained | steps | loss apart | margin apart | gradient norm apart | largest"
        " update of a weight | weights apart |"
    )
    print("|:--|:--|--:|--:|--:|--:|--:|--:|")
    for name, make in CASES.items():
        for title, recipe in RECIPES.items():
            print(line(name, make(), title, recipe), flush=True)


if __name__ == "__main__":
    main()
