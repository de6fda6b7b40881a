"""Train: the model of the round before learns from this round's pairs.

A training is one shard. Under torchrun every rank takes part in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts.fingerprint import describe
from harness.artifacts.results_folder import (
    Stage,
    explain_disk_errors,
    read_json,
    read_jsonl,
    write_json,
)
from harness.errors import RowEnded, UserError
from harness.models.adapters import saved_model
from harness.models.base_cards import parent_of
from harness.models.checkpoints import weights_fingerprint
from harness.models.device_memory import out_of_memory
from harness.pipeline.context import Context
from harness.pipeline.stages.shards import Progress, Spent, record
from harness.pipeline.tasks import Task, visits
from harness.reporting import model_cards
from harness.study.study import Run
from harness.training.ranks import ranks
from methods.interface import PreferencePair

if TYPE_CHECKING:  # it imports peft, which takes seconds
    from harness.training.loop import TrainSummary


def run(context: Context, task: Task, _shard: int, progress: Progress) -> None:
    """
    Raises:
        RowEnded: the round made no pair (with the reasons), or memory ran out.
        UserError: memory ran out on one of several devices; or see
            :func:`harness.training.trainer.train_pairs`.
    """
    run, checkpoint = context.run(task.label, task.seed), task.checkpoint
    assert checkpoint is not None
    pairs_folder = context.results.pairs(task.label, task.seed, task.round)
    pairs = [PreferencePair.from_json(row) for row in read_jsonl(pairs_folder / "pairs.jsonl")]
    if not pairs:
        raise RowEnded(_why_no_pairs(run.method.name, pairs_folder))
    context.images.begin_round((run.pool, pair.item) for pair in pairs)
    try:
        loaded = context.models.for_training(checkpoint)
        started = time.perf_counter()
        summary = fit(context, task, pairs, loaded, progress)
    finally:
        context.models.forget()
    if ranks().is_main:
        # The summary counts every piece of a training that was cut; the clock only the last one.
        seconds = max(time.perf_counter() - started, summary.seconds)
        save(task.stage, run, pairs_folder, len(pairs), summary, seconds)


def merge(_context: Context, task: Task) -> None:
    task.stage.finish()
    task.stage.delete("checkpoints")  # they only serve to continue; the model is written


def _why_no_pairs(method: str, pairs: Path) -> str:
    reasons = read_json(pairs / "record.json")["counts"]["drops_by_reason"]
    shown = ", ".join(f"{reason} ({count})" for reason, count in list(reasons.items())[:4])
    return (
        f"{method} made no pair to train on; dropped: {shown or 'nothing'}. Give more --images or"
        " other settings, or leave the row out with --only."
    )


def fit(
    context: Context,
    task: Task,
    pairs: Sequence[PreferencePair],
    loaded: tuple[Any, Any],
    progress: Progress,
) -> TrainSummary:
    """Train; writes ``model/``, and ``adapter/`` where adapters are trained; of a base in half
    precision ``adapter/`` alone. The ``loaded`` model is used up."""
    # It imports peft, which takes seconds; planning and answering go without.
    from harness.training.trainer import train_pairs

    run, folder, checkpoint = context.run(task.label, task.seed), task.stage.folder, task.checkpoint
    recipe, (model, processor) = run.method.recipe, loaded
    assert checkpoint is not None
    assert recipe is not None  # a run without a recipe has no training
    card, adapter = checkpoint.card, folder / "adapter"
    with explain_disk_errors(folder), _out_of_memory_as_sentence(folder):
        return train_pairs(
            model=model,
            processor=processor,
            pairs=pairs,
            images=context.pool(run.pool).image,
            recipe=recipe,
            seed=run.seed,
            out=folder,
            max_steps=run.steps,
            lora_targets=card.lora_targets,
            parent=parent_of(card, checkpoint.weights, adapter) if recipe.lora else None,
            placement=context.placement,
            progress=progress,
        )


def save(
    stage: Stage, run: Run, pairs_folder: Path, pairs: int, summary: TrainSummary, seconds: float
) -> None:
    """Write the record and the model cards. ``pairs_folder``: of the round."""
    images, recipe = read_json(pairs_folder / "record.json")["items"], run.method.recipe
    assert recipe is not None
    items, counts = visits(recipe, images, run.steps), {"pairs": pairs, "images": images}
    content = {
        **record(stage, run.method.name, items, Spent(seconds=seconds), counts),
        "training": describe(summary),
        # Read right after they were written: an adapter of the next round names them as its parent.
        "weights": weights_fingerprint(saved_model(stage.folder / "model")),
    }
    model_cards.write(stage.folder, identity=stage.identity, record=content, pairs=pairs_folder)
    write_json(stage.folder / "record.json", content)


@contextmanager
def _out_of_memory_as_sentence(folder: Path) -> Iterator[None]:
    """Turn memory that ran out into a sentence; the training's checkpoints are whole."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        # The other ranks wait for one that ran out of memory alone; torchrun must end them.
        kind = RowEnded if ranks().size == 1 else UserError
        raise kind(
            f"Memory ran out in the training; end what else runs on the device, or take a larger"
            f" one, and run the same command again: it goes on from its last checkpoint ({folder})."
        ) from error
