"""A row of the table: what ``study.json`` says about one label with its training seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.artifacts.results_folder import ANSWERS_PREFIX

SUPERVISION = {
    "image": "images",
    "question": "questions",
    "reference": "reference answers",
    "scorer": "image-text scorer",
    "judge": "exact truth",
    "ground_truth": "exact truth",
}
"""What a method needs (``study.json``), in the words of the table."""


class VariedSetting(NamedTuple):
    """The one setting in which a row differs from another row; ``value`` as text."""

    row: str
    field: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: one label with its training seeds.

    ``rounds``: 0 if nothing is trained. ``role``: "baseline"; "method"; "reference" (sees more
    than a method may); "control" (a method with one part removed); "matched" (the baseline's own
    answers, cut to a row's caption length or shifted to its share of yes). ``of``: the row that a
    control or matched row is compared with. ``benchmarks``: those it is graded on; empty: all.
    ``varied``: in an ablation, the setting that was changed. ``trainer``: "own" or "trl"."""

    label: str
    base: str
    method: str
    pool: str
    needs: tuple[str, ...]
    images: int
    rounds: int
    seeds: tuple[int, ...]
    role: str = "method"
    of: str | None = None
    benchmarks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    varied: VariedSetting | None = None
    trainer: str = "own"

    def value_of(self, path: str) -> str | None:
        """The row's value of a setting such as ``recipe.lr``, as text; None: not stored."""
        part: Any = self.settings
        for name in path.split("."):
            if not isinstance(part, Mapping) or name not in part:
                return None
            part = part[name]
        return setting_text(part)

    def covers(self, benchmark: str) -> bool:
        """Whether the study grades the row on this benchmark."""
        return not self.benchmarks or benchmark in self.benchmarks

    @property
    def round_numbers(self) -> tuple[int, ...]:
        """The trained rounds, from 1; (0,) for a row that is not trained."""
        return tuple(range(1, self.rounds + 1)) or (0,)

    @property
    def given(self) -> bool:
        """Whether another program answered, and its answers were read from files."""
        return self.base.startswith(ANSWERS_PREFIX)

    @property
    def trainings(self) -> list[tuple[int, int]]:
        """(seed, round) of each training; none for a row that is not trained."""
        return [(seed, number) for seed in self.seeds for number in range(1, self.rounds + 1)]

    @property
    def supervision(self) -> str:
        """What the method sees beside the model itself."""
        if self.rounds == 0:
            return "not known (answers of another program)" if self.given else "none (not trained)"
        words = dict.fromkeys(word for need, word in SUPERVISION.items() if need in self.needs)
        return f"{next(iter(words))} only" if len(words) == 1 else " + ".join(words) or "none"


def setting_text(value: Any) -> str:
    """A setting of ``study.json`` as ``vary`` writes it into a label (harness/study/study.py)."""
    if isinstance(value, list):
        return "+".join(map(setting_text, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={setting_text(part)}" for name, part in value.items())
    return re.sub(r"[^A-Za-z0-9 ._=,+-]+", "-", str(value)).strip()
