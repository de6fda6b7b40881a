"""Results in the hub's two forms: the ``model-index`` of a model card's metadata, and
``.eval_results/*.yaml`` beside the card (https://huggingface.co/docs/hub/eval-results).

Both hold this model's own values, not the mean over seeds. YAML is written by a library: names of
rows and metrics are texts of users, and cannot end a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # not in __all__

from benchmarks.catalogue import BENCHMARKS
from harness.artifacts.results_folder import write_bytes
from harness.artifacts.safe_files import remove
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults

FILE = Path(".eval_results") / "selfsight.yaml"

HUB_DATA: Mapping[str, str] = {"pope": "lmms-lab/POPE", "mme": "lmms-lab/MME"}
"""The hub's data set with a benchmark's questions. ``.eval_results`` takes no other benchmark."""

TASK_ID = "default"
"""The task in the data set's eval.yaml. The hub shows a result once the data set is registered as a
benchmark with such a task."""


def own_value(cell: MetricResult, seed: int) -> float:
    """The value of the model with this training seed; nan: it has none."""
    return cell.by_seed.get(str(seed), math.nan)


def with_model_index(
    front: ModelCardData, name: str, study: StudyResults, cells: Sequence[MetricResult], seed: int
) -> str:
    """The card's metadata as YAML, with the results in place of earlier ones. ``name``: the
    model's. ``cells``: its results after one round."""
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=HUB_DATA.get(cell.benchmark, cell.benchmark),
            dataset_name=display_name(cell.benchmark),
            dataset_split=study.split,
            dataset_args={"version": cell.version, "images": cell.images},
            metric_type=cell.metric,
            metric_name=f"{cell.full_name} ({cell.unit})",
            metric_value=round(own_value(cell, seed), 4),
        )
        for cell in cells
        if math.isfinite(own_value(cell, seed))
    ]
    front.eval_results = results or None
    front.model_name = name if results else None
    return front.to_yaml()


def write_eval_results(
    folder: Path, study: StudyResults, cells: Sequence[MetricResult], seed: int
) -> None:
    """Write ``.eval_results/selfsight.yaml`` into a model's folder, or remove it where nothing may
    stand in it. It has the first primary metric of each benchmark whose questions are a data set of
    the hub, graded on all of its images: a leaderboard compares whole benchmarks only."""
    first = {cell.benchmark: cell for cell in reversed(cells) if cell.benchmark in HUB_DATA}
    entries = [
        EvalResultEntry(
            dataset_id=HUB_DATA[benchmark],
            task_id=TASK_ID,
            value=round(own_value(cell, seed), 4),
            notes=f"{cell.full_name} ({cell.unit}), graded by SelfSight ({cell.version})",
        )
        for benchmark, cell in first.items()
        if math.isfinite(own_value(cell, seed))
        and study.split == "test"
        and cell.images == BENCHMARKS[benchmark].size
    ]
    if entries:
        text = yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        write_bytes(folder / FILE, text.encode())
    else:
        remove(folder / FILE)
