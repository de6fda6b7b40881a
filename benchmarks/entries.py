"""What the catalogue says of a benchmark, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.files import LocalData
from benchmarks.grading import Direction
from benchmarks.interface import Benchmark

Factory = Callable[[str, int | None, Path | None], Benchmark]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to build a benchmark and what it takes.

    ``factory(split, limit, data)``: split dev or test; at most ``limit`` images (None: all);
    ``data``: the folder of its files (None: it needs none, or none was given, which is said in a
    sentence). ``size``: images in full (0: not known before it is opened). ``metrics``: the main
    ones and which way is better. ``judge``: what judges the answers, if a model does.
    ``twins``: the same benchmark in a toolkit, as the catalogue names it. ``local``: the files it
    reads (None: nothing).
    ``unavailable``: why it cannot be run here (empty: it can).
    """

    factory: Factory
    group: Literal["hallucination", "general"]
    size: int
    about: str
    metrics: Mapping[str, Direction]
    citation: str
    licence: str
    judge: str = ""
    twins: tuple[str, ...] = ()
    local: LocalData | None = None
    unavailable: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be there beside the repository, in words."""
        return (*(self.local.files if self.local else ()), *((self.judge,) if self.judge else ()))

    def missing(self, data: Path | None) -> tuple[str, ...]:
        """What stands between this data folder and a run, in words; empty: it is ready, but for a
        judge."""
        if self.unavailable:
            return (self.unavailable,)
        return self.local.missing(data) if self.local else ()

    def folder(self, name: str, local_data: Mapping[str, Path]) -> Path | None:
        """The folder given for this benchmark: by its own name, or by its data's, which several
        benchmarks may share."""
        return local_data.get(name) or (local_data.get(self.local.name) if self.local else None)


def in_memory(make: Callable[[str, int | None], Benchmark]) -> Factory:
    """The factory of a benchmark that draws its own images.

    Raises:
        ValueError: a data folder is given.
    """

    def factory(split: str, limit: int | None, data: Path | None) -> Benchmark:
        if data is not None:
            raise ValueError(
                f"This benchmark draws its own images and reads no file; leave the folder {data}"
                " out."
            )
        return make(split, limit)

    return factory


def unavailable(name: str, why: str) -> Factory:
    """The factory of a benchmark that is known and cannot be run here: it says why."""

    def factory(_split: str, _limit: int | None, _data: Path | None) -> Benchmark:
        raise ValueError(f"{name} cannot be run here: {why}")

    return factory
