"""The first table of GPUS.md is computed: memory by the arithmetic that places a training, hours by
the cost model, scaled from its H200 by the cards' data sheets. Write it again with ``python -m
tests.study.test_gpus_page``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.models.base_cards import find_base
from harness.pipeline import choose_training
from harness.study import compare, cost_model
from harness.study.reference import StudyReference
from harness.study.study import Run
from harness.training.memory import GIB
from harness.training.placement import Placement
from harness.training.ranks import Ranks

PAGE = Path(__file__).resolve().parents[2] / "GPUS.md"
HEAD = "| your GPUs | type this | rows train | GiB a GPU, 8 pairs (1 pair) | hours a seed |"
IMAGES = 6000
H200 = (989.0, 4.8)
"""Dense bfloat16 TFLOP/s and TB/s of the data sheet; those of the other cards likewise."""


@dataclass(frozen=True)
class Place:
    """Somebody's GPUs, and what to type there. ``chosen``: LoRA is the command's own choice."""

    gpus: str
    type_this: str
    lora: bool
    memory: float
    tflops: float
    terabytes: float
    base: str = "llava-1.5-7b"
    count: int = 1
    eight_bit: bool = False

    @property
    def chosen(self) -> bool:
        return "--full" not in self.type_this and "--lora" not in self.type_this


RUN = "`python -m harness run compare --base {base} $MORE{end}`"
SEVEN, LARGE = RUN.format(base="llava-1.5-7b", end=""), RUN.format(base="llava-1.5-13b", end="")
FULL = RUN.format(base="llava-1.5-7b", end=" --full --eight-bit")
TEAM = (
    "`torchrun --nproc_per_node 8 -m harness run compare --base llava-1.5-7b $MORE`, or"
    " [Slurm](examples/slurm.sbatch): `sbatch examples/slurm.sbatch run compare --base llava-1.5-7b"
    " $MORE`"
)
RTX, A100, H100 = (165.2, 1.008), (312.0, 1.555), (989.0, 3.35)
PLACES = (
    Place("1 x 24 GB (RTX 4090)", SEVEN, True, 23.5, *RTX),
    Place("1 x 40 or 48 GB (A100)", SEVEN, True, 39.4, *A100),
    Place("1 x 40 or 48 GB (A100)", LARGE, True, 39.4, *A100, base="llava-1.5-13b"),
    Place("1 x 80 GB (H100)", SEVEN, True, 79.1, *H100),
    Place("1 x 80 GB (H100)", FULL, False, 79.1, *H100, eight_bit=True),
    Place("8 x 80 GB (H100)", TEAM, False, 79.1, *H100, count=8),
)


def training_memory(place: Place, rows: int) -> float:
    card = find_base(place.base)
    recipe = compare.settings(place.base, "equal", lora=place.lora)["sima"].recipe
    assert recipe is not None
    return cost_model.training_memory(
        card, recipe, rows=rows, processes=place.count, eight_bit=place.eight_bit
    )


def hours(place: Place) -> float:
    """Of one seed of every row, on IMAGES images and one round, with POPE, MME and CHAIR."""
    found = 0.0
    for label, method in compare.settings(place.base, "equal", lora=place.lora).items():
        if label in ("untrained", "sena", "sima", "csr"):
            steps = compare.equal_steps(method.recipe, IMAGES)
            run = Run(label=label, base=place.base, method=method, images=IMAGES, steps=steps)
            cost = cost_model.cost(run)
            found += cost.train * H200[0] / place.tflops
            found += (cost.pairs + cost.answers) * H200[1] / place.terabytes
    return found / 3600 / place.count


def lines() -> list[str]:
    table = [HEAD, "|:--|:--|:--|--:|--:|"]
    for place in PLACES:
        memory = f"{training_memory(place, 8):.0f} ({training_memory(place, 1):.0f})"
        kind = ("LoRA" if place.lora else "full") + (", 8-bit AdamW" if place.eight_bit else "")
        table.append(
            f"| {place.gpus} | {place.type_this} | {kind} | {memory} | {hours(place):.1f} |"
        )
    return table


def test_the_table_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(lines()) in page, "write it: python -m tests.study.test_gpus_page"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.gpus} {place.base}")
def test_what_is_typed_fits_the_memory_and_trains_as_the_table_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training_memory(place, 1) < place.memory
    if not place.chosen:
        return
    monkeypatch.setattr(choose_training, "ranks", lambda: Ranks(size=place.count))
    reference, _ = choose_training.by_memory(
        StudyReference("compare", {"base": place.base}), Placement(), int(place.memory * GIB)
    )
    assert bool(reference.options.get("lora")) == place.lora


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEAD)
    PAGE.write_text(
        before + "\n".join(lines()) + "\n\n" + after.partition("\n\n")[2], encoding="utf-8"
    )
