"""Export: a benchmark's questions and images as files. Needs no model and no torch."""

from __future__ import annotations

import io
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from benchmarks.files import read_as_stored
from benchmarks.interface import Benchmark
from harness.artifacts.results_folder import Stage, write_bytes, write_json, write_jsonl
from harness.data.pool import difference_hash, pixels_sha
from harness.errors import UserError
from harness.pipeline.checked_results import questions_of
from harness.pipeline.stages.shards import Progress, Usage, check_keys, quiet, record

if TYPE_CHECKING:  # they need torch
    from harness.pipeline.context import Context
    from harness.pipeline.tasks import Task


NOT_PIXELS = ("transparency", "exif", "xmp", "XML:com.adobe.xmp")
"""What PIL would copy from an image's file into the PNG. A reader would apply it a second time."""


def run(context: Context, task: Task, _shard: int, progress: Progress) -> None:
    write_questions(task.stage, context.benchmark(task.benchmark), progress)


def write_questions(stage: Stage, benchmark: Benchmark, progress: Progress = quiet) -> None:
    """Write ``questions.jsonl``, ``images.jsonl``, the images as PNG named by the sha256 of their
    pixels, and the record.

    Raises:
        UserError: the benchmark has no question, asks one twice, or an image cannot be read.
    """
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    stored: Counter[str] = Counter()
    for question in questions_of(benchmark):
        names = [_save_image(stage.folder / "images", image) for image in question.images]
        for name, image in zip(names, question.images, strict=True):
            if name not in hashes:
                hashes[name] = difference_hash(image)
                stored.update(read_as_stored(image))
        fields = ("id", "text", "max_new_tokens", "cluster")
        rows.append({**{name: getattr(question, name) for name in fields}, "images": names})
        progress("questions", len(rows), 0)
    check_keys(f"benchmark {benchmark.name}", [row["id"] for row in rows])
    if not rows:
        raise UserError(f"The benchmark {benchmark.name} has no question; ask for a larger limit.")
    write_jsonl(stage.folder / "questions.jsonl", rows)
    images = [
        {"sha256": name.removesuffix(".png"), "dhash": dhash} for name, dhash in hashes.items()
    ]
    write_jsonl(stage.folder / "images.jsonl", images)
    usage = Usage(seconds=time.perf_counter() - started)
    counts = {"images_read_as_stored": dict(stored)} if stored else {}
    write_json(
        stage.folder / "record.json", record(stage, benchmark.name, len(rows), usage, counts)
    )


def _save_image(folder: Path, image: Image) -> str:
    path = folder / f"{pixels_sha(image)}.png"
    if not path.exists():
        content = io.BytesIO()
        rgb = image.convert("RGB")
        for name in NOT_PIXELS:
            rgb.info.pop(name, None)
        rgb.save(content, format="PNG", compress_level=1)
        write_bytes(path, content.getvalue())
    return path.name
