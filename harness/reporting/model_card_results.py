"""Writes a study's results onto the cards of its trained models and adapters: as text, as the hub's
``model-index`` in the card's metadata, and as ``.eval_results/*.yaml`` beside the card
(https://huggingface.co/docs/hub/eval-results).

The hub's two forms hold this model's own values, not the mean over seeds. YAML is written by a
library: names of rows and metrics are texts of users, and cannot end a value. It reads the results
and no model, so that `python -m harness table` needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # not in __all__

from benchmarks.catalogue import BENCHMARKS
from harness.artifacts.results_folder import Results, write_bytes
from harness.artifacts.safe_files import remove
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import RESULTS, UNGRADED, display_name, metric_name
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import MISSING, change, number
from harness.reporting.tables.text import escape

ROLES = {
    "reference": "This row is a reference row: it was shown what a method may not see.",
    "control": "This row is a control of {of}, with one part removed, kept for comparison.",
}

FILE = Path(".eval_results") / "selfsight.yaml"

HUB_DATA: Mapping[str, str] = {"pope": "lmms-lab/POPE", "mme": "lmms-lab/MME"}
"""The hub's data set with a benchmark's questions. ``.eval_results`` takes no other benchmark."""

TASK_ID = "default"
"""The task in the data set's eval.yaml. The hub shows a result once the data set is registered as a
benchmark with such a task."""


def write_results(out: Path, study: StudyResults, cells: Sequence[MetricResult]) -> None:
    """Write each trained row's results onto its cards, in place of earlier ones. Folders without
    models are left as they are."""
    for row in study.compared:
        for seed, round in row.trainings:
            train = Results(out).train(row.label, seed, round)
            for path in (train / "model" / "README.md", train / "adapter" / "README.md"):
                if (train / "DONE").exists() and path.is_file():
                    front = path.read_text(encoding="utf-8").partition(RESULTS)[0]
                    text = "\n".join(results_of(study, cells, row, seed, round))
                    graded = _graded_metrics(cells, row, round)
                    name = f"{row.label}, seed {seed}, round {round}"
                    front = _with_index(front, name, study, graded, seed)
                    write_bytes(path, f"{front}{RESULTS}\n{text}\n".encode())
                    write_eval_results(path.parent, study, graded, seed)


def _graded_metrics(cells: Sequence[MetricResult], row: Row, round: int) -> list[MetricResult]:
    """The primary metrics that have a value after this round."""
    row_cells = (cell for cell in cells if (cell.label, cell.round) == (row.label, round))
    return [cell for cell in row_cells if cell.primary and np.isfinite(cell.value)]


def _with_index(
    text: str, name: str, study: StudyResults, cells: Sequence[MetricResult], seed: int
) -> str:
    """The card with these results in its metadata. Metadata that the owner took out or wrote in
    another form stay as they are."""
    head, mark, front = text.partition("---\n")
    _, end, body = front.partition("\n---\n")
    if head or not mark or not end:
        return text
    try:
        data = ModelCard(text).data
    except Exception:  # whatever the parser of YAML raises
        return text
    assert isinstance(data, ModelCardData)
    return f"{mark}{with_model_index(data, name, study, cells, seed)}{end}{body}"


def results_of(
    study: StudyResults, cells: Sequence[MetricResult], row: Row, seed: int, round: int
) -> list[str]:
    """The row's primary metrics after a round, as lines of Markdown: the value of this seed and of
    all seeds, the difference from the baseline, the sample size, and whether it exceeds its
    controls."""
    graded = _graded_metrics(cells, row, round)
    last_cells = (cell for cell in cells if cell.label == row.label and cell.last)
    planned = [cell.full_name for cell in last_cells if cell.primary]
    if not planned:
        return ["The study names no primary metric for this row; see its table."]
    if not graded:
        return [UNGRADED]
    names = {cell.full_name for cell in graded}
    absent = [escape(name) for name in planned if name not in names]
    last = round == row.rounds
    limit = f", limited to {study.limit} images per benchmark" if study.limit is not None else ""
    seeds = (
        "intervals: about the method, trainings and images vary."
        if len(row.seeds) > 1
        else "intervals over images: about this training alone."
    )
    lines = [
        f"From the study {escape(study.name)} ({escape(study.question)}), row {escape(row.label)},"
        f" {study.split} split{limit}. Differences are from {escape(study.baseline)}, with 95 %"
        f" {seeds}",
        "",
        f"| metric | this model (seed {seed}) | all seeds | difference [95 % interval] | after Holm"
        " | seeds | images, questions |",
        "| :-- | --: | --: | --: | :-- | --: | --: |",
        *(_line(cell, seed, last) for cell in graded),
        "",
    ]
    if absent:
        lines += [f"Not graded yet: {', '.join(absent)}.", ""]
    lines += [f"{escape(text)}\n" for text in study.facts.get("leaks", ())]
    if row.role in ROLES:
        lines += [ROLES[row.role].format(of=escape(row.of or "another row")), ""]
    if not last:
        note = f"This is round {round} of {row.rounds}: only the last round is tested."
        return [*lines, note]
    if row.role in ("method", "reference"):
        return [*lines, *(_control_sentence(study, row, cell) for cell in graded)]
    return lines[:-1]


def _line(cell: MetricResult, seed: int, last: bool) -> str:
    value = seed_value(cell, seed)
    texts = (
        metric_name(cell.benchmark, cell.heading),
        number(value, cell.decimals) if np.isfinite(value) else "not graded yet",
        number(cell.value, cell.decimals),
        change(cell) or (cell.verdict if cell.verdict == "other questions" else MISSING),
        cell.verdict if last else "not tested",
        f"{cell.n_seeds} of {cell.seeds_planned}",
    )
    return f"| {' | '.join(map(escape, texts))} | {cell.images}, {cell.questions} |"


def _control_sentence(study: StudyResults, row: Row, cell: MetricResult) -> str:
    """A sentence on whether the row exceeds its controls."""
    name = escape(cell.full_name)
    if cell.verdict != "better":
        return f"- {name}: no clear gain of the method, so controls are not compared."
    for controls, sentence in (
        (cell.reached_by, "does not exceed {}, so the gain is not the method's own."),
        (cell.untold_by, "it cannot be told yet whether the method exceeds {}."),
        (cell.exceeds, "truly exceeds its controls ({})."),
    ):
        if controls:
            return f"- {name}: {sentence.format(escape(', '.join(controls)))}"
    planned = [control for control in study.rows if control.of == row.label]
    if not any(control.covers(cell.benchmark) for control in planned):
        return f"- {name}: the study has no control of this row, so none was compared."
    return f"- {name}: none of its controls is graded after this round."


def seed_value(cell: MetricResult, seed: int) -> float:
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
            metric_value=round(seed_value(cell, seed), 4),
        )
        for cell in cells
        if math.isfinite(seed_value(cell, seed))
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
            value=round(seed_value(cell, seed), 4),
            notes=f"{cell.full_name} ({cell.unit}), graded by SelfSight ({cell.version})"
            + (
                f"; {cell.unscored:,} unscored answers of all seeds left out"
                if cell.unscored
                else ""
            ),
        )
        for benchmark, cell in first.items()
        if math.isfinite(seed_value(cell, seed))
        and study.split == "test"
        and cell.images == BENCHMARKS[benchmark].size
    ]
    if entries:
        text = yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        write_bytes(folder / FILE, text.encode())
    else:
        remove(folder / FILE)
