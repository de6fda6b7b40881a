"""What each stage depends on: the identities that are stored with results and compared before
anything is continued.

Identities chain by fingerprint: a round's pairs name the model that made them, its training names
the pairs, its answers name the training. So a change anywhere shows, first in the stage where it
was made. Devices, batch sizes and paths are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interface import Benchmark
from harness.artifacts.fingerprint import describe, fingerprint
from harness.artifacts.results_folder import FORMAT, Stage
from harness.data.pool import Drawn
from methods.interface import Method, Recipe

if TYPE_CHECKING:  # exporting and grading need no model, so no torch
    from harness.models.base_cards import BaseCard

Identity = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on the disk: a base, after training the folder of the weights in its place, and the
    fingerprint of all it is."""

    card: BaseCard
    id: str
    weights: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The folder of the training stage that makes it; nothing for a base."""
        return () if self.weights is None else (self.weights.parent,)

    @property
    def identity(self) -> Identity:
        # The fingerprint holds a hub model's commit; beside it, a difference can be read.
        pinned = {} if self.card.revision is None else {"revision": self.card.revision}
        return {"base": self.card.name, "model": self.id, **pinned}


def untrained(card: BaseCard) -> Checkpoint:
    """The base itself, known by its weights' content (a hub model by its pinned revision)."""
    weights = (
        _folder_fingerprint(card.source)
        if isinstance(card.source, Path)
        else f"{card.source}@{card.revision}"
    )
    return Checkpoint(card=card, id=fingerprint({"weights": weights, **card.settings}))


def trained(stage: Stage, card: BaseCard) -> Checkpoint:
    """What a training stage writes; known before it is there."""
    return Checkpoint(card=card, id=fingerprint(stage.identity), weights=stage.folder / "model")


@cache
def _folder_fingerprint(folder: Path) -> str:
    from harness.models.checkpoints import weights_fingerprint

    return weights_fingerprint(folder)


def export_identity(benchmark: Benchmark, split: str, limit: int | None) -> Identity:
    return {
        "stage": "export",
        "format": FORMAT,
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "split": split,
        "limit": limit,
    }


def pairs_identity(
    at: Checkpoint, method: Method, drawn: Drawn, seed: int, round: int, scorer: str | None = None
) -> Identity:
    """``at`` is the model that answers, ``scorer`` the image-text model where the method needs one.
    The recipe is left out: it says how to train, not what to make."""
    settings = {name: value for name, value in describe(method).items() if name != "recipe"}
    return {
        "stage": "pairs",
        "format": FORMAT,
        **at.identity,
        "method": {"name": method.name, **settings},
        "pool": drawn.fingerprint(method.needs),
        "images": len(drawn.ids),
        "seed": seed,
        "round": round,
        **({} if scorer is None else {"scorer": scorer}),
    }


def train_identity(
    at: Checkpoint,
    pairs: Identity,
    recipe: Recipe,
    steps: int | None = None,
    optimizer: str = "adamw",
) -> Identity:
    """``steps``: the round's optimiser steps where they are fixed; None follows the recipe's
    epochs."""
    return {
        "stage": "train",
        "format": FORMAT,
        **at.identity,
        "pairs": fingerprint(pairs),
        "recipe": describe(recipe),
        "lora_targets": at.card.lora_targets if recipe.lora else None,
        "steps": steps,
        "seed": pairs["seed"],
        "round": pairs["round"],
        **({} if optimizer == "adamw" else {"optimizer": optimizer}),
    }


def answers_identity(at: Checkpoint, benchmark: str, questions: Path) -> Identity:
    """The questions count by content: another grader's version asks for new grades, not for new
    answers."""
    path = questions / "questions.jsonl"
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    return {
        "stage": "answer",
        "format": FORMAT,
        **at.identity,
        "benchmark": benchmark,
        "questions": content,
        "decoding": {"temperature": 0.0},
    }


def choices_identity(answers: Identity, choices: tuple[str, str]) -> Identity:
    """The log-probabilities of two answers to the very questions that were answered, by the very
    model."""
    return {**answers, "stage": "choices", "decoding": None, "choices": list(choices)}


def derived_identity(
    kind: str, source: Identity, method: Identity, benchmark: Benchmark
) -> Identity:
    """``source``: the baseline's answers or choices; ``method``: the answers whose grades say what
    is to be matched."""
    return {
        "stage": "derive",
        "format": FORMAT,
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "kind": kind,
        "rule": 1,
        "source": fingerprint(source),
        "method": fingerprint(method),
    }


def caps_identity(answers: Identity, benchmark: Benchmark, caps: tuple[int, ...]) -> Identity:
    return {**grade_identity(answers, benchmark), "stage": "caps", "caps": list(caps)}


def grade_identity(answers: Identity, benchmark: Benchmark) -> Identity:
    return {
        "stage": "grade",
        "format": FORMAT,
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "answers": fingerprint(answers),
    }
