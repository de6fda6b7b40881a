"""What the tasks of a study share in one process: the study, its results folder, opened pools,
drawn images, decoded images and the model in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL.Image import Image

from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import Results
from harness.data.open_pool import open_pool
from harness.data.pool import Drawn, Pool
from harness.pipeline.image_cache import ImageCache, exported_image
from harness.pipeline.loaded_model import LoadedModel
from harness.study.study import Run, Study
from harness.training.placement import AS_FITS, Placement
from methods.interface import Item


@dataclass
class Context:
    """One a process. ``placement`` says how trainings are laid on the machine."""

    study: Study
    results: Results
    placement: Placement = AS_FITS
    download: bool = True
    """Whether hub models that are not here may be downloaded, as a run needs them."""
    models: LoadedModel = field(default_factory=LoadedModel)
    images: ImageCache = field(default_factory=ImageCache)
    _pools: dict[str, Pool] = field(default_factory=dict)
    _draws: dict[tuple[str, int, int, int], Drawn] = field(default_factory=dict)

    def run(self, label: str, seed: int) -> Run:
        """The run of a row and training seed."""
        return next(run for run in self.study.runs if (run.label, run.seed) == (label, seed))

    def benchmark(self, name: str) -> Benchmark:
        return next(benchmark for benchmark in self.study.benchmarks if benchmark.name == name)

    def pool(self, spec: str) -> Pool:
        """The pool, opened once; each of its images is decoded once while the cache has room."""
        if spec not in self._pools:
            pool = open_pool(spec)
            self._pools[spec] = replace(pool, read=partial(self._read, pool))
        return self._pools[spec]

    def _read(self, pool: Pool, id: str) -> Item:
        return self.images.get((pool.spec, id), lambda: pool.read(id), lambda item: item.image)

    def draw(self, run: Run, round: int) -> Drawn:
        """A round's images, decoded and hashed once for all rows that share them."""
        round = 1 if run.same_images else round
        key = (run.pool, run.images, run.seed, round)
        if key not in self._draws:
            self._draws[key] = self.pool(run.pool).draw(run.images, run.seed, round)
        return self._draws[key]

    def unreadable(self) -> list[str]:
        """A sentence for each draw with images that cannot be read, before any model is loaded."""
        draws = {
            (key[0], draw.skipped): len(draw.ids) + len(draw.skipped)
            for key, draw in self._draws.items()
        }
        return [
            f"{len(skipped)} of {count} images drawn from {pool} cannot be read and are left out,"
            f" such as {skipped[0][0]}: {skipped[0][1]}."
            for (pool, skipped), count in draws.items()
            if skipped
        ]

    def question_image(self, questions: Path, name: str) -> Image:
        """An exported image, decoded once a benchmark and process while the cache has room."""
        return exported_image(self.images, questions, name)
