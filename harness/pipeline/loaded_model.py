"""The one model in memory. It is loaded when a task needs it and kept until another checkpoint is
asked for."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.artifacts.environment import cores
from harness.artifacts.stored_files import check_files
from harness.engine.clip_scorer import ClipScorer, ScorerCard, load_scorer
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.adapters import saved_model
from harness.models.base_cards import BaseCard
from harness.models.load_base import default_device
from harness.pipeline.stage_identity import Checkpoint


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
