"""What stages share: shards that are written whole, unique keys, and the record of what was
measured.

All randomness is seeded by keys (an item's, a question's). So on the CPU a shard is the same bytes
whoever writes it, and a stage that was cut continues to the bytes of an undisturbed one. On an
accelerator a batch is as large as the free memory, which may change a result by rounding."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.artifacts.environment import arithmetic, hardware, peak_memory_mib, versions
from harness.artifacts.results_folder import Stage, as_jsonl, parse_jsonl, write_bytes
from harness.artifacts.stored_files import read_bytes
from harness.errors import PromptTooLong, UserError

if TYPE_CHECKING:  # they need torch
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Called as ``progress(unit, done, total)``, such as ``("images", 64, 600)``; ``total`` 0: not
known."""

Rows = list[dict[str, Any]]


def quiet(_unit: str, _done: int, _total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a stage's shards took, added up over the processes that wrote them."""

    seconds: float = 0.0
    tokens: int = 0
    """Generated tokens."""
    peak_memory_mib: Mapping[str, int] | None = None
    """The most memory that one of the processes held."""


def write_shard(stage: Stage, shard: int, work: Callable[[], Rows], model: Any) -> None:
    """Write the rows of ``work`` as one shard. Its last row is what it took, and the SHA-256 of the
    lines before; ``model`` counts the tokens that it generates, if it counts any."""
    started, before = time.perf_counter(), _tokens(model)
    rows = work()
    spent = {
        "seconds": round(time.perf_counter() - started, 3),
        "tokens": _tokens(model) - before,
        "peak_memory_mib": peak_memory_mib(),
    }
    lines = as_jsonl(rows)
    last = {"spent": spent, "sha256": hashlib.sha256(lines).hexdigest()}
    write_bytes(stage.shard(shard), lines + as_jsonl([last]))


def read_shard(path: Path) -> tuple[Rows, dict[str, Any]]:
    """The rows of a shard, and its last row.

    Raises:
        UserError: it was cut or changed after it was written.
    """
    content = read_bytes(path)
    *rows, last = parse_jsonl(path, content) or [None]
    lines, _, _ = content.rstrip(b"\n").rpartition(b"\n")
    complete = isinstance(last, dict) and isinstance(last.get("spent"), dict)
    # An earlier version wrote no hash.
    sha = hashlib.sha256(lines + b"\n" if lines else b"").hexdigest()
    if not complete or last.get("sha256", sha) != sha:
        raise UserError(
            f"{path} was cut or changed after it was written; put the original back, or move this"
            " file out of the results folder and run again: it alone is done again."
        )
    return rows, last


def read_shards(stage: Stage, shards: int) -> tuple[Rows, Spent]:
    """All rows in order, and what they took."""
    rows: Rows = []
    seconds, tokens, peaks = 0.0, 0, Counter[str]()
    for shard in range(shards):
        shard_rows, last = read_shard(stage.shard(shard))
        rows += shard_rows
        seconds += last["spent"]["seconds"]
        tokens += int(last["spent"]["tokens"])
        peaks |= Counter(last["spent"].get("peak_memory_mib", {}))
    return rows, Spent(seconds=seconds, tokens=tokens, peak_memory_mib=dict(peaks) or None)


def finish(_context: Context, task: Task) -> None:
    """End a stage of one shard, which wrote everything but ``DONE``."""
    task.stage.finish()


def without_too_long(
    items: Sequence[T],
    work: Callable[[Sequence[T]], list[R]],
    instead: Callable[[T, PromptTooLong], R],
) -> list[R]:
    """The results of ``work``; of an item whose prompt a model cannot read whole, ``instead``: the
    one item is left out, not the study ended. Halves are tried until such an item is alone, so that
    all others are done in large batches."""
    try:
        return work(items)
    except PromptTooLong as error:
        if len(items) == 1:
            return [instead(items[0], error)]
    middle = len(items) // 2
    return [
        *without_too_long(items[:middle], work, instead),
        *without_too_long(items[middle:], work, instead),
    ]


def answered(rows: Rows) -> dict[str, str]:
    """Answers by their question's id, without the questions that a model could not read."""
    return {row["id"]: row["answer"] for row in rows if "unanswered" not in row}


def _tokens(model: Any) -> int:
    return int(getattr(model, "tokens_generated", 0))


def check_keys(subject: str, keys: Sequence[str]) -> None:
    """
    Raises:
        UserError: a key stands there twice.
    """
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise UserError(
            f"The {subject} gave the key {repeated[0]!r} more than once; keys name pairs and"
            " questions and must be unique."
        )


def record(
    stage: Stage, name: str, items: float, spent: Spent, counts: Mapping[str, Any]
) -> dict[str, Any]:
    """What was measured. ``items`` are what time is proportional to: images (times epochs, in
    training) or questions."""
    return {
        "stage": stage.identity["stage"],
        "base": stage.identity.get("base"),
        "name": name,
        "items": items,
        "seconds": round(spent.seconds, 3),
        "tokens": spent.tokens,
        "counts": dict(counts),
        "peak_memory_mib": dict(spent.peak_memory_mib or peak_memory_mib()),
        "versions": versions(),
        "hardware": hardware(),
        "arithmetic": arithmetic(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
