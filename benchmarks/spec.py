"""What the catalogue says about a benchmark, and how it is opened. A benchmark's module ends in
its ``SPEC``, or in ``SPECS`` where it holds several benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.files import LocalData
from benchmarks.interface import Benchmark, Group

Factory = Callable[[str, int | None, Path | None], Benchmark]
"""``factory(split, limit, data)`` opens a benchmark: split dev or test, at most ``limit`` images
(None: all), the folder of its files (None: none was given). Raises ValueError in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One benchmark of the catalogue."""

    name: str
    factory: Factory
    group: Group
    size: int
    """Number of images; 0: known only when it is opened."""
    questions: int = 0
    """Number of questions about them; 0: known only when it is opened."""
    captions: bool = False
    """Whether the answers describe the image, which takes longer."""
    about: str
    """What it measures, in one sentence."""
    metrics: tuple[str, ...] = ()
    """The main metrics; the benchmark itself may have more."""
    licence: str
    """Licences of the data."""
    judge: str = ""
    """The kind of model that judges the answers; empty: none."""
    twins: tuple[str, ...] = ()
    """The same benchmark in a toolkit, by its name in the catalogue (``lmms_eval:pope``)."""
    local: LocalData | None = None
    """The files that it reads; None: none."""
    unavailable: str = ""
    """Why it cannot be run here; empty: it can."""

    def missing(self, data: Path | None) -> tuple[str, ...]:
        """What is missing to run on the folder ``data``, in words; a judge is not looked for."""
        if self.unavailable:
            return (self.unavailable,)
        return self.local.missing(data) if self.local else ()

    def question_count(self, limit: int | None) -> int:
        """The number of questions about at most ``limit`` images; 0: not known."""
        if limit is None or not self.size:
            return self.questions
        return self.questions * min(limit, self.size) // self.size

    @property
    def data_names(self) -> tuple[str, ...]:
        """The names for a folder of its data: its own, and that of its data, which several
        benchmarks may share."""
        return (self.name, self.local.name) if self.local else (self.name,)

    def folder(self, folders: Mapping[str, Path]) -> Path | None:
        """The folder given for this benchmark."""
        return next((folders[name] for name in self.data_names if name in folders), None)


def in_memory(
    make: Callable[[str, int | None], Benchmark], split: str, limit: int | None, data: Path | None
) -> Benchmark:
    """A benchmark that draws its own images; it refuses a data folder."""
    if data is not None:
        raise ValueError(
            f"This benchmark draws its own images and reads no file; leave out {data}."
        )
    return make(split, limit)
