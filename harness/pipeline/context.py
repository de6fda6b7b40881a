"""What the tasks of a study share in one process: the study, its results folder, opened pools,
drawn images, decoded images and the model in memory.

A round decodes each of its images once: drawing, making pairs and training ask for the same ones.
The cache is bounded: what does not fit is decoded again whenever it is asked for. The one model in
memory is loaded when a task needs it and kept until another checkpoint is asked for."""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch
from PIL.Image import Image

from benchmarks.interface import Benchmark
from harness.artifacts.environment import cores
from harness.artifacts.results_folder import Results
from harness.artifacts.stored_files import check_files, read_bytes, unreadable
from harness.data.image_file import UnreadableImage, read_image
from harness.data.open_pool import open_pool
from harness.data.pool import Drawn, Pool
from harness.engine.clip_scorer import ClipScorer, ScorerCard, load_scorer
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.errors import UserError
from harness.models.adapters import saved_model
from harness.models.base_cards import BaseCard
from harness.models.load_base import default_device
from harness.pipeline.stage_identity import Checkpoint
from harness.study.study import Run, Study
from harness.training.placement import DEFAULT_PLACEMENT, Placement
from methods.interface import Item

T = TypeVar("T")

Key = tuple[str, str]
"""(pool or folder of questions, the image's id there)."""

IMAGE_CACHE_BYTES = 512 * 2**20
"""Most bytes of decoded images that one process keeps: about 400 photographs of 640 x 480, or all
images of the synthetic base. PIL keeps four bytes a pixel."""


@dataclass
class ImageCache:
    """Keeps what it is given until ``limit`` bytes are full. Then only images of the present round
    (:meth:`begin_round`) are taken in, in place of images of other rounds."""

    limit: int = IMAGE_CACHE_BYTES
    _kept: dict[Key, tuple[Any, int]] = field(default_factory=dict)
    _round: frozenset[Key] = frozenset()
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def begin_round(self, keys: Iterable[Key]) -> None:
        """Name the images of the round that is worked on now."""
        self._round = frozenset(keys)

    def get(self, key: Key, load: Callable[[], T], image_of: Callable[[T], Image]) -> T:
        """The value under ``key``, loaded if it is not here. ``image_of`` gives its image, whose
        size counts. Threads may call this at once."""
        kept = self._kept.get(key)
        if kept is not None:
            value: T = kept[0]
            return value
        value = load()
        image = image_of(value)
        self._keep(key, value, 4 * image.width * image.height)
        return value

    def _keep(self, key: Key, value: object, size: int) -> None:
        with self._lock:
            if key in self._kept:
                return
            if self._bytes + size > self.limit and key in self._round:
                for other in [other for other in self._kept if other not in self._round]:
                    self._bytes -= self._kept.pop(other)[1]
                    if self._bytes + size <= self.limit:
                        break
            if self._bytes + size <= self.limit:
                self._kept[key] = (value, size)
                self._bytes += size


def exported_image(cache: ImageCache, questions: Path, name: str) -> Image:
    """The image of that name in an export's folder.

    Raises:
        UserError: the file is missing, broken or not the exported one, or its name leads elsewhere.
    """
    if name != Path(name).name or name.startswith("."):
        raise UserError(f"{name!r} in {questions / 'questions.jsonl'} is no image's file name.")
    path = questions / "images" / name

    def read() -> Image:
        try:
            return read_image(io.BytesIO(read_bytes(path)))
        except UnreadableImage as error:
            raise unreadable(path, "as an exported image", error) from None

    return cache.get((str(questions), name), read, lambda image: image)


def set_threads(cards: Iterable[BaseCard]) -> None:
    """Set torch's threads, unless OMP_NUM_THREADS does.

    On the CPU the synthetic base uses one: it is too small to gain from more, and results are equal
    only for one number of threads. Everything else uses every core."""
    if "OMP_NUM_THREADS" not in os.environ:
        small = not torch.cuda.is_available() and all(card.prompts == "synthetic" for card in cards)
        torch.set_num_threads(1 if small else cores())


@dataclass
class LoadedModel:
    """A model is loaded in place of the one before, never beside it."""

    device: str = field(default_factory=default_device)
    _checkpoint: Checkpoint | None = None
    _loaded: tuple[Any, Any] | None = None
    _engine: Engine | None = None
    _scorer: tuple[ScorerCard, ClipScorer] | None = None

    def load(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        """The model and its processor.

        Raises:
            UserError: a file of a trained model is not the one that its training wrote.
        """
        if self._loaded is None or self._checkpoint != checkpoint:
            self.forget()
            if checkpoint.weights is not None:
                folder = saved_model(checkpoint.weights)  # the model, or the adapter beside it
                check_files(folder.parent, below=f"{folder.name}/")
            self._loaded = load_model(
                checkpoint.card, device=self.device, weights=checkpoint.weights
            )
            self._checkpoint = checkpoint
        return self._loaded

    def engine(self, checkpoint: Checkpoint) -> Engine:
        """The engine on that model."""
        model, processor = self.load(checkpoint)
        if self._engine is None:
            self._engine = Engine(model, processor)
        return self._engine

    def for_training(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        """The model and its processor without the engine, whose caches would take the training's
        memory."""
        loaded = self.load(checkpoint)
        self._engine = None
        self._free_memory()
        return loaded

    def scorer(self, card: ScorerCard) -> ClipScorer:
        """The image-text model. It is small, and stays beside the model until another is asked
        for."""
        if self._scorer is None or self._scorer[0] != card:
            self._scorer = (card, load_scorer(card, self.device))
        return self._scorer[1]

    def forget(self) -> None:
        """Drop the model. After a training it is no longer what its checkpoint says."""
        self._checkpoint = self._loaded = self._engine = None
        self._free_memory()

    def _free_memory(self) -> None:
        if self.device != "cpu":
            gc.collect()
            torch.cuda.empty_cache()


@dataclass
class Context:
    """One a process. ``placement`` says how trainings are laid on the machine."""

    study: Study
    results: Results
    placement: Placement = DEFAULT_PLACEMENT
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
