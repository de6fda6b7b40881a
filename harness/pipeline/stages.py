"""The five steps of a run: export, make_pairs, train, answer, grade. Each reads files and writes
files, and can be cut anywhere.

Work is done in shards that are written whole; a stage that is continued redoes only the shard that
was cut. All randomness is seeded by keys (an item's, a question's), so on the CPU a continued stage
writes the same bytes as an undisturbed one. On an accelerator batches are as large as the memory
that is free, which may change a result by rounding."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL.Image import Image

from harness.artifacts.fingerprint import describe
from harness.artifacts.results_folder import Stage, kindly, read_json, read_jsonl, write_jsonl
from harness.data.pool import Drawn, Pool, read_image
from harness.engine.batching import out_of_memory
from harness.errors import NoPairs, UserError
from harness.pipeline.file_stages import Progress as Progress
from harness.pipeline.file_stages import check_keys as _check_keys
from harness.pipeline.file_stages import export as export
from harness.pipeline.file_stages import grade as grade
from harness.pipeline.file_stages import grades_frame as grades_frame
from harness.pipeline.file_stages import quiet as quiet
from harness.pipeline.file_stages import record as _record
from harness.reporting.pair_stats import pair_stats
from harness.training.placement import AS_FITS, Placement
from harness.training.ranks import Enough, team
from methods.controls import Control
from methods.interface import (
    VLM,
    Completion,
    Decoding,
    Dropped,
    Method,
    PreferencePair,
    Prompt,
    Recipe,
    Reporting,
    Scorer,
)

ITEMS_A_SHARD = 64
QUESTIONS_A_SHARD = 256

T = TypeVar("T")

if TYPE_CHECKING:
    from harness.models.checkpoints import Parent


def make_pairs(
    stage: Stage,
    *,
    vlm: VLM,
    method: Method,
    pool: Pool,
    drawn: Drawn,
    seed: int,
    scorer: Scorer | None = None,
    progress: Progress = quiet,
) -> None:
    """Let the method make pairs of this round's images; writes ``pairs.jsonl``, ``drops.jsonl``
    and ``items.jsonl`` (the images' hashes, for leakage checks).

    Raises:
        UserError: the method needs fields that the pool has not.
    """
    pool.check(method.needs, method.name)
    judge = pool.judge if "judge" in method.needs else None
    team().once(stage.open)

    def work(ids: Sequence[str]) -> list[dict[str, Any]]:
        rows = []
        for outcome in method.pairs(
            vlm, pool.items(ids, method.needs, drawn.ids), seed, scorer=scorer, judge=judge
        ):
            rows.append(
                {"pair" if isinstance(outcome, PreferencePair) else "dropped": describe(outcome)}
            )
        return rows

    rows, spent = _sharded(stage, vlm, drawn.ids, ITEMS_A_SHARD, "images", work, progress)
    pairs = [row["pair"] for row in rows if "pair" in row]
    drops = [row["dropped"] for row in rows if "dropped" in row]
    made = [PreferencePair(**pair) for pair in pairs]
    reports = method.inner if isinstance(method, Control) else method
    report = (
        reports.report([*made, *(Dropped(**drop) for drop in drops)])
        if isinstance(reports, Reporting)
        else {}
    )
    if isinstance(method, Control):
        # What a control does to a pair may depend on the round's other pairs, so it is done when
        # all shards are there.
        reworked = method.rework(made, seed)
        pairs = [describe(one) for one in reworked if isinstance(one, PreferencePair)]
        drops += [describe(one) for one in reworked if isinstance(one, Dropped)]
    _check_keys(f"method {method.name}", [pair["key"] for pair in pairs])
    write_jsonl(stage.folder / "pairs.jsonl", pairs)
    write_jsonl(stage.folder / "drops.jsonl", drops)
    items = [{"id": one.id, "sha256": one.sha256, "dhash": one.dhash} for one in drawn.seen]
    write_jsonl(stage.folder / "items.jsonl", items)
    counts = {
        "images": len(drawn.ids),
        "pairs": len(pairs),
        "pairs_by_kind": dict(Counter(pair["kind"] for pair in pairs)),
        "dropped": len(drops),
        "drops_by_reason": dict(Counter(drop["reason"] for drop in drops).most_common()),
        "unreadable_images": [{"id": id, "why": why} for id, why in drawn.skipped],
    }
    record = _record(
        stage, method.name, len(drawn.ids), spent["seconds"], tokens=spent["tokens"], counts=counts
    )
    told = {
        "report": dict(report),
        "quality": pair_stats([PreferencePair(**pair) for pair in pairs], pool.judge),
    }
    stage.finish(
        {**record, **told, "pool": {"name": pool.spec, "fingerprint": stage.identity["pool"]}}
    )


def train(
    stage: Stage,
    *,
    model: Any,
    processor: Any,
    method: str,
    lora_targets: str | None,
    recipe: Recipe,
    pairs: Path,
    pool: Pool,
    seed: int,
    steps: int | None = None,
    parent: Parent | None = None,
    placement: Placement = AS_FITS,
    progress: Progress = quiet,
) -> None:
    """Train the model on a round's pairs; writes ``model/``. The model in memory is used up: load
    what was written.

    ``steps`` fixes the optimiser steps: pairs are subsampled or cycled to fit. ``placement``: how
    it is laid on the machine.
    ``parent``: what the model was loaded from; a training of adapters then writes ``adapter/`` too.

    Raises:
        NoPairs: the round made no pair (with the reasons).
        UserError: see :func:`harness.training.trainer.train_pairs`; or memory ran out on the way.
    """
    from harness.models.checkpoints import weights_fingerprint
    from harness.reporting import model_cards
    from harness.training.trainer import train_pairs

    rows = read_jsonl(pairs / "pairs.jsonl")
    if not rows:
        reasons = read_json(pairs / "record.json")["counts"]["drops_by_reason"]
        said = ", ".join(f"{reason} ({count})" for reason, count in list(reasons.items())[:4])
        raise NoPairs(
            f"{method} made no pair to train on in {pairs}; dropped: {said or 'nothing'}. Give more"
            " --images or other settings, or leave the row out with --only."
        )
    team().once(stage.open)
    started = time.perf_counter()
    with kindly(stage.folder), roomy(stage.folder):
        summary = train_pairs(
            model=model,
            processor=processor,
            pairs=[PreferencePair(**row) for row in rows],
            images=pool.image,
            recipe=recipe,
            seed=seed,
            out=stage.folder,
            max_steps=steps,
            lora_targets=lora_targets,
            parent=parent,
            placement=placement,
            progress=progress,
        )
    if not team().first:
        raise Enough
    images = read_json(pairs / "record.json")["items"]
    # A training that was cut counts its own seconds over the pieces; what is measured here is the
    # last piece alone.
    seconds = max(time.perf_counter() - started, summary.seconds)
    visits = images * recipe.epochs if steps is None else steps * recipe.global_batch
    record = _record(stage, method, visits, seconds, counts={"pairs": len(rows), "images": images})
    # Read once, right after they were written: what an adapter of the next round names as its
    # parent.
    record = {
        **record,
        "training": describe(summary),
        "weights": weights_fingerprint(stage.folder / "model"),
    }
    model_cards.write(stage.folder, identity=stage.identity, record=record, pairs=pairs)
    stage.finish(record)
    stage.drop("checkpoints")  # they only serve to continue; the model is written


@contextmanager
def roomy(folder: Path) -> Iterator[None]:
    """Turn memory that ran out in a training into a sentence; its checkpoints are whole."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"Memory ran out in the training below {folder}; end what else runs on the device, or"
            " take a larger one, and run the same command again: it goes on from its last"
            " checkpoint."
        ) from error


def answer(stage: Stage, *, vlm: VLM, questions: Path, progress: Progress = quiet) -> None:
    """Answer exported questions greedily; writes ``answers.jsonl`` in the questions' order."""
    team().once(stage.open)

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        prompts = dict(zip((row["id"] for row in rows), _prompts(rows, questions), strict=True))
        answers: dict[str, Completion] = {}
        for cap in sorted({row["max_new_tokens"] for row in rows}):
            some = [row for row in rows if row["max_new_tokens"] == cap]
            done = vlm.generate([prompts[row["id"]] for row in some], Decoding(max_new_tokens=cap))
            answers |= {row["id"]: completion for row, completion in zip(some, done, strict=True)}
        return [_answer_row(row["id"], answers[row["id"]]) for row in rows]

    asked = read_jsonl(questions / "questions.jsonl")
    rows, spent = _sharded(stage, vlm, asked, QUESTIONS_A_SHARD, "questions", work, progress)
    write_jsonl(stage.folder / "answers.jsonl", rows)
    counts = {"questions": len(rows), "unfinished": sum(not row["finished"] for row in rows)}
    name = str(stage.identity["benchmark"])
    stage.finish(
        _record(stage, name, len(rows), spent["seconds"], tokens=spent["tokens"], counts=counts)
    )


def weigh(
    stage: Stage, *, vlm: VLM, questions: Path, choices: tuple[str, str], progress: Progress = quiet
) -> None:
    """How far the first of two choices leads the second in the model's log-probabilities, question
    by question; writes
    ``choices.jsonl`` in the questions' order: ``{"id", "margin"}`` (nats, each choice as it is and
    capitalised)."""
    team().once(stage.open)

    def work(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        prompts = _prompts(rows, questions)
        sums = [
            [vlm.logps(prompts, [text] * len(rows)) for text in sorted({word, word.capitalize()})]
            for word in choices
        ]
        first, second = ([_logsum(spelt) for spelt in zip(*one, strict=True)] for one in sums)
        leads = [yes - no for yes, no in zip(first, second, strict=True)]
        return [{"id": row["id"], "margin": lead} for row, lead in zip(rows, leads, strict=True)]

    asked = read_jsonl(questions / "questions.jsonl")
    rows, spent = _sharded(stage, vlm, asked, QUESTIONS_A_SHARD, "questions", work, progress)
    write_jsonl(stage.folder / "choices.jsonl", rows)
    stage.finish(
        _record(
            stage,
            str(stage.identity["benchmark"]),
            len(rows),
            spent["seconds"],
            counts={"questions": len(rows)},
        )
    )


def _logsum(logps: Sequence[float]) -> float:
    """The logarithm of the sum of probabilities; at least -1e4 nats, because JSON has no
    infinity."""
    top = max(*logps, -1e4)
    return top + math.log(sum(math.exp(one - top) for one in logps) or 1.0)


def _prompts(rows: Sequence[Mapping[str, Any]], questions: Path) -> list[Prompt]:
    """Exported questions as prompts; an image that several of them share is read once."""
    pictures = {
        name: _read_export(questions / "images" / name)
        for name in {name for row in rows for name in row["images"]}
    }
    return [
        Prompt(key=row["id"], text=row["text"], image=_only_picture(row, pictures)) for row in rows
    ]


def _answer_row(id: str, completion: Completion) -> dict[str, Any]:
    # JSON has no infinity: a log-probability that overflowed is unknown.
    logp = completion.logp if math.isfinite(completion.logp) else None
    return {
        "id": id,
        "answer": completion.text,
        "logp": logp,
        "n_tokens": completion.n_tokens,
        "finished": completion.finished,
    }


def _read_export(path: Path) -> Image:
    try:
        return read_image(path)
    except Exception as error:
        raise UserError(
            f"The exported image {path} cannot be read ({error}); delete {path.parents[1]} and"
            " run again."
        ) from None


def _only_picture(row: Mapping[str, Any], pictures: Mapping[str, Image]) -> Image | None:
    if len(row["images"]) > 1:
        raise UserError(
            f"Question {row['id']} has {len(row['images'])} images; the engine answers questions"
            " about one image."
        )
    return pictures[row["images"][0]] if row["images"] else None


def _sharded(
    stage: Stage,
    vlm: VLM,
    things: Sequence[T],
    size: int,
    what: str,
    work: Callable[[Sequence[T]], list[dict[str, Any]]],
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Do the shards that are not there yet, a team its shares; all rows in order, and what they
    took. A shard's last row is what it took (over a team, seconds add up).

    Raises:
        Enough: this process's shards are there, and another puts them together.
    """
    crew = team()
    shards = [
        (stage.shard(index), things[start : start + size])
        for index, start in enumerate(range(0, len(things), size))
    ]
    done = sum(len(some) for path, some in shards if path.exists())
    progress(what, done, len(things))
    for path, some in crew.share(shards):
        if not path.exists():
            began, tokens = time.perf_counter(), _tokens(vlm)
            made = work(some)
            took = {
                "seconds": round(time.perf_counter() - began, 3),
                "tokens": _tokens(vlm) - tokens,
            }
            write_jsonl(path, [*made, {"spent": took}])
            done = sum(len(some) for path, some in shards if path.exists())
            progress(what, done, len(things))
    crew.barrier()
    if not crew.merges:
        raise Enough
    rows: list[dict[str, Any]] = []
    spent = {"seconds": 0.0, "tokens": 0.0}
    for path, _ in shards:
        *made, last = read_jsonl(path)
        rows += made
        spent = {name: spent[name] + last["spent"][name] for name in spent}
    return rows, spent


def _tokens(vlm: VLM) -> int:
    """Tokens the engine has generated so far (0 where it does not count)."""
    return int(getattr(vlm, "tokens_generated", 0))
