"""Writes a study's results onto the cards of its trained models and adapters, as text and as the
hub's metadata (harness/reporting/hub_results.py).

It reads the results and no model, so that `python -m harness table` needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard, ModelCardData

from harness.artifacts.results_folder import Results, write_bytes
from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import metric_name
from harness.reporting.hub_results import own_value, with_model_index, write_eval_results
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import change, number
from harness.reporting.tables.model import MISSING
from harness.reporting.tables.text import escape

RESULTS = "\n## Results\n"
"""The last heading; the text below it is rewritten with every table."""

UNGRADED = "The study of this model is not graded yet: no result says how good it is."

ROLES = {
    "reference": "This row is a reference row: it was shown what a method may not see.",
    "control": "This row is a control of {of}, with one part removed, kept for comparison.",
}


def write_results(out: Path, study: StudyResults, cells: Sequence[MetricResult]) -> None:
    """Write each trained row's results onto its cards, in place of earlier ones. Folders without
    models are left as they are."""
    for row in study.compared:
        for seed in row.seeds:
            for round in range(1, row.rounds + 1):
                train = Results(out).train(row.label, seed, round)
                for path in (train / "model" / "README.md", train / "adapter" / "README.md"):
                    if (train / "DONE").exists() and path.is_file():
                        before = path.read_text(encoding="utf-8").partition(RESULTS)[0]
                        text = "\n".join(results_of(study, cells, row, seed, round))
                        mine = [cell for cell in _graded(cells, row, round) if cell.primary]
                        name = f"{row.label}, seed {seed}, round {round}"
                        before = _with_index(before, name, study, mine, seed)
                        write_bytes(path, f"{before}{RESULTS}\n{text}\n".encode())
                        write_eval_results(path.parent, study, mine, seed)


def _graded(cells: Sequence[MetricResult], row: Row, round: int) -> list[MetricResult]:
    return [
        cell
        for cell in cells
        if (cell.label, cell.round) == (row.label, round) and np.isfinite(cell.value)
    ]


def _with_index(
    text: str, name: str, study: StudyResults, cells: Sequence[MetricResult], seed: int
) -> str:
    """The card with these results in its metadata. Metadata that the owner took out or wrote in
    another form stay as they are."""
    head, mark, front = text.partition("---\n")
    _, end, rest = front.partition("\n---\n")
    if head or not mark or not end:
        return text
    try:
        data = ModelCard(text).data
    except Exception:  # whatever the parser of YAML raises
        return text
    assert isinstance(data, ModelCardData)
    return f"{mark}{with_model_index(data, name, study, cells, seed)}{end}{rest}"


def results_of(
    study: StudyResults, cells: Sequence[MetricResult], row: Row, seed: int, round: int
) -> list[str]:
    """The row's primary metrics after a round, as lines of Markdown: the value of this seed and of
    all seeds, the difference from the baseline, the sample size, and whether it exceeds its
    controls."""
    primary = [cell for cell in cells if cell.label == row.label and cell.primary]
    mine = [cell for cell in _graded(cells, row, round) if cell.primary]
    planned = [cell.full_name for cell in primary if cell.last]
    if not planned:
        return ["The study names no primary metric for this row; see its table."]
    if not mine:
        return [UNGRADED]
    names = {cell.full_name for cell in mine}
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
        *(_line(cell, seed, last) for cell in mine),
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
        return [*lines, *(_control(study, row, cell) for cell in mine)]
    return lines[:-1]


def _line(cell: MetricResult, seed: int, last: bool) -> str:
    own = own_value(cell, seed)
    texts = (
        metric_name(cell.benchmark, cell.heading),
        number(own, cell.places) if np.isfinite(own) else "not graded yet",
        number(cell.value, cell.places),
        change(cell) or (cell.verdict if cell.verdict == "other questions" else MISSING),
        cell.verdict if last else "not tested",
        f"{cell.n_seeds} of {cell.seeds_planned}",
    )
    return f"| {' | '.join(map(escape, texts))} | {cell.images}, {cell.questions} |"


def _control(study: StudyResults, row: Row, cell: MetricResult) -> str:
    """A sentence on whether the row exceeds its controls."""
    name = escape(cell.full_name)
    if cell.verdict != "better":
        return f"- {name}: no clear gain of the method, so controls are not compared."
    if cell.reached_by:
        controls = escape(", ".join(cell.reached_by))
        return f"- {name}: does not exceed {controls}, so the gain is not the method's own."
    if cell.untold_by:
        controls = escape(", ".join(cell.untold_by))
        return f"- {name}: it cannot be told yet whether the method exceeds {controls}."
    if cell.exceeds:
        return f"- {name}: truly exceeds its controls ({escape(', '.join(cell.exceeds))})."
    planned = [
        control.label
        for control in study.rows
        if control.of == row.label and control.covers(cell.benchmark)
    ]
    if not planned:
        return f"- {name}: the study has no control of this row, so none was compared."
    return f"- {name}: none of its controls is graded after this round."
