"""What each stage depends on: the identities that are stored with results and compared before a
stage is continued.

Identities chain by fingerprint: a round's pairs name the model that made them, its training names
the pairs, its answers name the training. So every change shows, first in the stage that it
concerns. Devices, batch sizes and paths are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.interface import Benchmark
from harness.artifacts.fingerprint import describe, fingerprint
from harness.artifacts.results_folder import FORMAT, Results, Stage, read_json
from harness.artifacts.stored_files import is_stored, read_bytes
from harness.data.pool import Drawn
from methods.interface import Method, Recipe

if TYPE_CHECKING:  # exporting and grading need no model, so no torch
    from harness.models.base_cards import BaseCard

Identity = Mapping[str, Any]
YES_NO = ("yes", "no")
"""The choices that the baseline weighs for a matched baseline."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on the disk: a base, or weights that were trained from it."""

    card: BaseCard
    id: str
    """The fingerprint of the weights and of all settings that change an answer."""
    weights: Path | None = None
    """The folder of the trained weights; None for a base."""
    files: Identity = field(default_factory=dict)
    """The files that ``id`` is made of, for a model that no stage has trained."""

    @property
    def identity(self) -> Identity:
        # The fingerprint holds the commit and the files; beside it, a difference can be read.
        pinned = {} if self.card.revision is None else {"revision": self.card.revision}
        files = {"files": self.files} if self.files else {}
        return {"base": self.card.name, "model": self.id, **pinned, **files}


def untrained(
    card: BaseCard,
    weights: Path | None = None,
    *,
    results: Results | None = None,
    download: bool = False,
) -> Checkpoint:
    """A base, or ``weights`` loaded in its place, identified by the content of every file that
    loading reads.

    Args:
        results: a folder that may hold the identity of a hub model that is not here.
        download: bring a hub model's missing files; else its id and commit stand for them.
    """
    from harness.models.base_cards import NOT_DOWNLOADED, identity_files
    from harness.models.load_base import check_machine, default_device

    files = identity_files(card, weights)
    if NOT_DOWNLOADED in files and results is not None and weights is None:
        # A commit's content never changes, so what an earlier run has read of it holds.
        files = _stored_files(card, results) or files
    if NOT_DOWNLOADED in files and download:
        check_machine(card.name, default_device(), None, card.parameters, card.dtype)
        files = identity_files(card, weights, download=True)
    settings: dict[str, Any] = {**card.settings, "files": files}
    return Checkpoint(card=card, id=fingerprint(settings), weights=weights, files=files)


def _stored_files(card: BaseCard, results: Results) -> dict[str, Any] | None:
    """The files of a hub base in a stage of these results; None where no stage has it."""
    if card.adapters:
        return None
    for path in sorted(results.out.glob("runs/*/seed*/round*/answers/*/identity.json")):
        stored = read_json(path)
        same = (stored.get("base"), stored.get("revision")) == (card.name, card.revision)
        if same and stored.get("files"):
            return dict(stored["files"])
    return None


def trained(stage: Stage, card: BaseCard) -> Checkpoint:
    """The model that a training stage writes; known before it is written."""
    return Checkpoint(card=card, id=fingerprint(stage.identity), weights=stage.folder / "model")


def _identity(stage: str, **fields: Any) -> Identity:
    return {"stage": stage, "format": FORMAT, **fields}


def _benchmark_identity(stage: str, benchmark: Benchmark, **fields: Any) -> Identity:
    return _identity(stage, benchmark=benchmark.name, version=benchmark.version, **fields)


def export_identity(benchmark: Benchmark, split: str, limit: int | None) -> Identity:
    return _benchmark_identity("export", benchmark, split=split, limit=limit)


def pairs_identity(
    checkpoint: Checkpoint,
    method: Method,
    drawn: Drawn,
    seed: int,
    round: int,
    scorer: Identity | str | None = None,
) -> Identity:
    """``checkpoint`` is the model that answers, ``scorer`` the image-text model where the method
    needs one. The recipe is left out, because it changes the training, not the pairs."""
    settings = {name: value for name, value in describe(method).items() if name != "recipe"}
    return _identity(
        "pairs",
        **checkpoint.identity,
        method={"name": method.name, **settings},
        pool=drawn.fingerprint(method.needs),
        images=len(drawn.ids),
        seed=seed,
        round=round,
        **({} if scorer is None else {"scorer": scorer}),
    )


def train_identity(
    checkpoint: Checkpoint,
    pairs: Identity,
    recipe: Recipe,
    steps: int | None,
    placement: Identity,
) -> Identity:
    """``steps``: the round's optimizer steps where they are fixed; None: the recipe's epochs.
    ``placement``: what of the placement gives other weights."""
    return _identity(
        "train",
        **checkpoint.identity,
        pairs=fingerprint(pairs),
        recipe=describe(recipe),
        lora_targets=checkpoint.card.lora_targets if recipe.lora else None,
        steps=steps,
        seed=pairs["seed"],
        round=pairs["round"],
        **placement,
    )


def answers_identity(checkpoint: Checkpoint, benchmark: str, questions: Path) -> Identity:
    """The questions count by their content, so a new version of the grader alone asks for new
    grades, not for new answers."""
    return given_identity(checkpoint.identity, benchmark, questions) | {
        "decoding": {"temperature": 0.0}
    }


def given_identity(model: Identity, benchmark: str, questions: Path) -> dict[str, Any]:
    """Of answers by any program; ``model``: what is known of its model."""
    content = questions_sha(questions)
    return {**_identity("answer", **model, benchmark=benchmark, questions=content)}


def questions_sha(folder: Path) -> str | None:
    """SHA-256 of exported questions; None: they are not exported yet."""
    path = folder / "questions.jsonl"
    return hashlib.sha256(read_bytes(path)).hexdigest() if is_stored(path) else None


def choices_identity(answers: Identity, choices: tuple[str, str]) -> Identity:
    """The log-probabilities of two answers, to the questions and by the model of ``answers``."""
    return {**answers, "stage": "choices", "decoding": None, "choices": list(choices)}


def matched_identity(
    kind: str, source: Identity, method: Identity, benchmark: Benchmark
) -> Identity:
    """``source``: the baseline's answers or choices; ``method``: the answers of the method that is
    matched."""
    return _benchmark_identity(
        "derive",
        benchmark,
        kind=kind,
        rule={"length": 1, "yes-ratio": 2}[kind],
        source=fingerprint(source),
        method=fingerprint(method),
    )


def caps_identity(answers: Identity, benchmark: Benchmark, caps: tuple[int, ...]) -> Identity:
    return {**grade_identity(answers, benchmark), "stage": "caps", "caps": list(caps)}


def grade_identity(answers: Identity, benchmark: Benchmark) -> Identity:
    return _benchmark_identity("grade", benchmark, answers=fingerprint(answers))
