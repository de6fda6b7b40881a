"""Pairs: a method makes preference pairs of a round's images, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.artifacts.fingerprint import describe
from harness.artifacts.results_folder import Stage, read_jsonl, write_jsonl
from harness.data.pool import Drawn, Pool
from harness.errors import PromptTooLong
from harness.pipeline.checked_results import method_report, pair_rows
from harness.pipeline.context import Context
from harness.pipeline.stages.shards import (
    Progress,
    Rows,
    check_keys,
    read_shards,
    record,
    without_too_long,
    write_shard,
)
from harness.pipeline.tasks import Task, scorer_of
from harness.reporting.pair_stats import pair_stats
from methods.controls import Control
from methods.interface import Dropped, Item, Method, PreferencePair, Tools


def prepare(context: Context, task: Task) -> None:
    """Write ``items.jsonl``, the round's images with their hashes: the shards are made of them,
    and checks for leakage read them."""
    write_items(task.stage, context.draw(context.run(task.label, task.seed), task.round))


def run(context: Context, task: Task, shard: int, _progress: Progress) -> None:
    assert task.checkpoint is not None
    run = context.run(task.label, task.seed)
    ids = [row["id"] for row in read_jsonl(task.stage.folder / "items.jsonl")]
    context.images.begin_round((run.pool, id) for id in ids)
    pool, method = context.pool(run.pool), run.method
    card, engine = scorer_of(run, task.checkpoint), context.models.engine(task.checkpoint)
    tools = Tools(
        vlm=engine,
        seed=run.seed,
        scorer=None if card is None else context.models.scorer(card),
        ground_truth=pool.ground_truth if "ground_truth" in method.needs else None,
        format_chars=len(engine.renderer.render_prompt("", True)),
    )
    write_pairs(task.stage, shard, task.shard_range(shard), ids, method, pool, tools)


def merge(context: Context, task: Task) -> None:
    run = context.run(task.label, task.seed)
    drawn, pool = context.draw(run, task.round), context.pool(run.pool)
    merge_pairs(task.stage, task.shards, run.method, pool, drawn, run.seed)


def write_items(stage: Stage, drawn: Drawn) -> None:
    items = [{"id": seen.id, "sha256": seen.sha256, "dhash": seen.dhash} for seen in drawn.images]
    write_jsonl(stage.folder / "items.jsonl", items)


def write_pairs(
    stage: Stage,
    shard: int,
    numbers: range,
    ids: Sequence[str],
    method: Method,
    pool: Pool,
    tools: Tools,
) -> None:
    """Write the pairs and drops of the images with these ``numbers`` among the round's ``ids`` as
    one shard."""

    def work() -> Rows:
        items = pool.items(ids[numbers.start : numbers.stop], method.needs, ids)
        return without_too_long(items, lambda some: pair_rows(method, some, tools), _too_long)

    write_shard(stage, shard, work, tools.vlm)


def _too_long(item: Item, error: PromptTooLong) -> dict[str, Any]:
    why = {"why": str(error)}
    dropped = Dropped(key=item.id, item=item.id, reason="prompt too long", trace=why)
    return {"dropped": describe(dropped)}


def merge_pairs(
    stage: Stage, shards: int, method: Method, pool: Pool, drawn: Drawn, seed: int
) -> None:
    """Write ``pairs.jsonl``, ``drops.jsonl``, the record and ``DONE``. A control changes the pairs
    here, because what it does may depend on all pairs of the round.

    Raises:
        UserError: two pairs have one key.
    """
    rows, spent = read_shards(stage, shards)
    pairs = [PreferencePair.from_json(row["pair"]) for row in rows if "pair" in row]
    drops = [Dropped(**row["dropped"]) for row in rows if "dropped" in row]
    report = method_report(method, [*pairs, *drops])
    if isinstance(method, Control):
        reworked = method.rework(pairs, seed)
        pairs = [outcome for outcome in reworked if isinstance(outcome, PreferencePair)]
        drops += [outcome for outcome in reworked if isinstance(outcome, Dropped)]
    check_keys(f"method {method.name}", [pair.key for pair in pairs])
    write_jsonl(stage.folder / "pairs.jsonl", map(describe, pairs))
    write_jsonl(stage.folder / "drops.jsonl", map(describe, drops))
    treatments = Counter(name for image in drawn.images for name in image.treatments)
    counts = {
        "images": len(drawn.ids),
        "pairs": len(pairs),
        "pairs_by_kind": dict(Counter(pair.kind for pair in pairs)),
        "dropped": len(drops),
        "drops_by_reason": dict(Counter(drop.reason for drop in drops).most_common()),
        "unreadable_images": [{"id": id, "why": why} for id, why in drawn.skipped],
        "image_treatments": dict(treatments.most_common()),
    }
    stage.finish(
        {
            **record(stage, method.name, len(drawn.ids), spent, counts),
            "report": report,
            "pair_stats": pair_stats(pairs, pool.ground_truth),
            "pool": {"name": pool.spec, "fingerprint": stage.identity["pool"]},
        }
    )
