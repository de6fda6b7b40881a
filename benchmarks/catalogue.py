"""The benchmarks by name: a new one is written in its own file and added here, in one entry of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.interface import Benchmark
from benchmarks.world import suite


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to build a benchmark and what it takes.

    ``factory(split, limit)``: split dev or test; at most ``limit`` pictures (None: all). ``size``: pictures in full. ``needs``:
    what must be there beside the repository (empty: nothing).
    """

    factory: Callable[[str, int | None], Benchmark]
    group: Literal["hallucination", "general"]
    size: int
    needs: tuple[str, ...]
    about: str


BENCHMARKS: Mapping[str, Entry] = {
    "world_chair": Entry(
        factory=suite.chair,
        group="hallucination",
        size=suite.SIZE,
        needs=(),
        about="CHAIR on detailed captions of the embedded world: objects told that are not there, with recall and length.",
    ),
    "world_chair_short": Entry(
        factory=suite.chair_short,
        group="hallucination",
        size=suite.SIZE,
        needs=(),
        about="CHAIR on one-sentence captions of the embedded world.",
    ),
    "world_pope": Entry(
        factory=suite.pope,
        group="hallucination",
        size=suite.SIZE,
        needs=(),
        about="POPE on the embedded world: is it there, asked of random, popular and adversarial absent objects.",
    ),
    "world_vqa": Entry(
        factory=suite.visual_questions,
        group="general",
        size=suite.SIZE,
        needs=(),
        about="Questions on the embedded world with one exact answer: existence, colour, count, place, what, relation, scene.",
    ),
}
