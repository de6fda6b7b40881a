"""Compares two results folders: which settings, versions, hardware and numbers differ, and by how
much.

Numbers of the same row, benchmark and metric are compared. Where both folders asked the same
questions, the difference has an interval over images, seeds averaged: it speaks of these
checkpoints, not of methods. Only stored results are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness.artifacts.fingerprint import flat
from harness.artifacts.results_folder import ANSWERS_PREFIX
from harness.reporting.comparison import MetricResult, compare
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults, load_results
from harness.reporting.stats import DifferenceEstimate, estimate
from harness.reporting.tables.cells import MISSING, Table, printed, text_block, with_interval
from harness.reporting.tables.text import markdown

ABSENT = "absent"
WIDTH = 60
"""Characters of a setting that are printed."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
Key = tuple[str, str, str]
"""Row, benchmark, metric."""


def between(a: Path, b: Path) -> str:
    """The differences from ``a`` to ``b``, as Markdown.

    Raises:
        UserError: one of them holds no study, or a file is broken.
    """
    first, second = load_results(a), load_results(b)
    settings = [*_study_lines(first, second), *_identity_lines(first, second)]
    machines = [*_unequal_fields(_machines(first), _machines(second))]
    numbers, summary = _numbers(first, second)
    header = ("row", "benchmark", "metric", "A", "B", "B - A [95 % interval]", "seeds A / B")
    tables = (
        text_block(
            "Settings that differ",
            "from study.json and the stages' identities",
            ("setting", "A", "B"),
            settings,
        ),
        text_block("Versions and hardware that differ", "as recorded", ("", "A", "B"), machines),
        text_block(
            "Numbers that differ",
            "last rounds; the largest differences, in standard errors, first",
            (*header, "remark"),
            numbers,
        ),
    )
    question = first.question
    if second.question != question:
        question = f"A asks: {question} B asks: {second.question}"
    return markdown(
        Table(
            title=f"{a} (A) against {b} (B)",
            question=question,
            reading=(
                f"Settings that differ: {len(settings) or 'none'}.",
                f"Versions and pieces of hardware that differ: {len(machines) or 'none'}.",
                *summary,
            ),
            blocks=tuple(block for block in tables if block.lines),
            notes=(
                "Intervals: t-intervals over the images of both folders, paired. They are for"
                " these checkpoints, not for another training, and are not corrected for the number"
                " of comparisons.",
            ),
        )
    )


def _leaf_texts(value: object) -> dict[str, str]:
    """Every leaf as text, by its dotted path."""
    return {path: _leaf_text(leaf) for path, leaf in flat(value).items()}


def _leaf_text(value: object) -> str:
    # 1 and 1.0 are the same setting.
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps(plain, ensure_ascii=False)


def _short(text: str) -> str:
    text = text.strip('"')
    text = text[:12] if FINGERPRINT.fullmatch(text) else text
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _unequal_fields(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, text in A, text in B) of every field that differs. A field that is absent on one side
    and null on the other does not differ."""
    for name in dict.fromkeys([*a, *b]):
        text_a, text_b = a.get(name, ABSENT), b.get(name, ABSENT)
        if text_a != text_b and {text_a, text_b} != {ABSENT, "null"}:
            yield name, _short(text_a), _short(text_b)


def _study_lines(a: StudyResults, b: StudyResults) -> Iterator[tuple[str, ...]]:
    """Fields of the study and of the rows and benchmarks in both; a row or benchmark that one side
    lacks is one line."""
    fields_a, fields_b = _study_fields(a), _study_fields(b)
    entries_a, entries_b = (
        dict.fromkeys(entry for entry, _ in fields) for fields in (fields_a, fields_b)
    )
    yield from ((entry, "present", ABSENT) for entry in entries_a if entry not in entries_b)
    yield from ((entry, ABSENT, "present") for entry in entries_b if entry not in entries_a)
    shared = [
        {
            f"{entry}.{name}" if entry else name: text
            for (entry, name), text in fields.items()
            if entry in entries_a and entry in entries_b
        }
        for fields in (fields_a, fields_b)
    ]
    yield from _unequal_fields(*shared)


def _study_fields(study: StudyResults) -> dict[tuple[str, str], str]:
    """``study.json`` as text by (entry, field). An entry is a row with its seeds together, or a
    benchmark; "" holds all other fields."""
    content = study.stored.study()
    fields: dict[tuple[str, str], str] = {}
    seeds: dict[str, list[str]] = {}
    for run in content.pop("runs"):
        entry = f"row {run.pop('label')}"
        seeds.setdefault(entry, []).append(str(run.pop("seed")))
        run.pop("varied")  # the settings show it
        if run["base"].startswith(ANSWERS_PREFIX):
            run["base"] = (
                ANSWERS_PREFIX  # the content counts, not the place; the identities hold it
            )
        run.get("settings", {}).pop("recipe", None)  # the run has it too
        fields |= {(entry, name): text for name, text in _leaf_texts(run).items()}
    for benchmark in content.pop("benchmarks"):
        entry = f"benchmark {benchmark.pop('name')}"
        metrics = {metric.pop("name"): metric for metric in benchmark.pop("metrics")}
        texts = _leaf_texts({**benchmark, "metric": metrics})
        fields |= {(entry, name): text for name, text in texts.items()}
    fields |= {(entry, "seeds"): " ".join(numbers) for entry, numbers in seeds.items()}
    return fields | {("", name): text for name, text in _leaf_texts(content).items()}


def _identity_lines(a: StudyResults, b: StudyResults) -> Iterator[tuple[str, ...]]:
    """The stages' identities, field by field. The same difference in several stages is one line
    with their number."""
    identities_a, identities_b = _identities(a), _identities(b)
    lines: dict[tuple[str, ...], int] = {}
    stages: dict[str, int] = {}
    for stage in (stage for stage in identities_a if stage in identities_b):
        kind = stage.split("/")[0 if stage.startswith("questions") else 4]
        stages[kind] = stages.get(kind, 0) + 1
        for name, *texts in _unequal_fields(identities_a[stage], identities_b[stage]):
            values = (identities_a[stage].get(name, ""), identities_b[stage].get(name, ""))
            if kind != "questions" and all(
                FINGERPRINT.fullmatch(text.strip('"')) for text in values
            ):
                texts = ["one", "another"]
            key = (kind, name, *texts)
            lines[key] = lines.get(key, 0) + 1
    for (kind, name, *texts), times in lines.items():
        yield f"stage {kind}: {name} ({times} of {stages[kind]})", *texts


def _identities(study: StudyResults) -> dict[str, dict[str, str]]:
    """The identity of every finished stage, by its path below the folder."""
    stored, identities = study.stored, {}
    for stage in filter(stored.done, stored.stages()):
        if (identity := stored.identity(stage)) is not None:
            identities[stage.relative_to(stored.results.out).as_posix()] = _leaf_texts(identity)
    return identities


def _machines(study: StudyResults) -> dict[str, str]:
    """Versions and hardware of the finished stages; several where stages differ."""
    values: dict[str, set[str]] = {}
    for record in map(study.stored.finished, study.stored.stages()):
        for group in ("versions", "hardware", "arithmetic"):
            for name, value in (record or {}).get(group, {}).items():
                values.setdefault(name.replace("_", " "), set()).add(str(value))
    return {name: " / ".join(sorted(texts)) for name, texts in values.items()}


def _numbers(a: StudyResults, b: StudyResults) -> tuple[list[tuple[str, ...]], list[str]]:
    """The results that differ as lines of the table, and sentences about all."""
    cells_a, cells_b = (
        {cell.key: cell for cell in compare(study) if cell.last} for study in (a, b)
    )
    lines: list[tuple[float, tuple[str, ...]]] = []
    equal = clear_count = 0
    verdicts = []
    shared = [
        (cell, cells_b[key])
        for key, cell in cells_a.items()
        if key in cells_b and np.isfinite([cell.value, cells_b[key].value]).any()
    ]
    for first, second in shared:
        if first.verdict != second.verdict and "baseline" not in (first.verdict, second.verdict):
            verdicts.append(
                f"{first.label}, {first.full_name}: {first.verdict} in A, {second.verdict} in B"
            )
        if first.value == second.value:
            equal += 1
            continue
        interval, remark = _paired_difference(a, b, first, second)
        decimals = max(first.decimals, second.decimals)
        gap = second.value - first.value
        lo, hi = interval.interval() if interval else (np.nan, np.nan)
        z_score = 0.0
        if interval is not None and np.isfinite(lo):
            z_score = abs(interval.difference) / interval.se if interval.se > 0 else 0.0
            clear_count += not lo <= 0 <= hi
        cells = (
            first.label,
            display_name(first.benchmark),
            first.heading,
            printed(first.value, decimals),
            printed(second.value, decimals),
            with_interval(gap, lo, hi, decimals) if np.isfinite(gap) else MISSING,
            f"{first.n_seeds} / {second.n_seeds}",
            remark,
        )
        lines.append((z_score, cells))
    sentences = [
        f"{len(shared)} numbers are in both folders: {equal} are equal, {len(lines)} differ,"
        f" {clear_count} of these by a paired interval that excludes 0."
        if shared
        else "No number is in both folders: they share no graded row and metric."
    ]
    for name, texts in (
        ("Only in A", _missing_in_other(cells_a, cells_b)),
        ("Only in B", _missing_in_other(cells_b, cells_a)),
    ):
        sentences += [f"{name}: {', '.join(texts)}."] if texts else []
    sentences += [f"Another verdict: {'; '.join(verdicts)}."] if verdicts else []
    return [cells for _, cells in sorted(lines, key=lambda pair: -pair[0])], sentences


def _missing_in_other(
    cells: Mapping[Key, MetricResult], other_cells: Mapping[Key, MetricResult]
) -> list[str]:
    """What the other folder lacks: whole rows, else a row's benchmarks, else single metrics."""
    labels = {label for label, _, _ in other_cells}
    benchmarks = {key[:2] for key in other_cells}
    texts = []
    for key, cell in cells.items():
        if cell.label not in labels:
            texts.append(cell.label)
        elif key[:2] not in benchmarks:
            texts.append(f"{cell.label} on {display_name(cell.benchmark)}")
        elif key not in other_cells:
            texts.append(f"{cell.label}, {cell.full_name}")
    return list(dict.fromkeys(texts))


def _paired_difference(
    a: StudyResults, b: StudyResults, first: MetricResult, second: MetricResult
) -> tuple[DifferenceEstimate | None, str]:
    """The paired interval of B - A and a remark; None where they cannot be paired."""
    counts_a = a.counts.get((first.label, first.round, first.benchmark))
    counts_b = b.counts.get((second.label, second.round, second.benchmark))
    metric, other_metric = (
        study.benchmark(first.benchmark).metric(first.metric) for study in (a, b)
    )
    if counts_a is None or counts_b is None:
        return None, "missing in one"
    definition_a, definition_b = (
        (item.numerator, item.denominator, item.scale) for item in (metric, other_metric)
    )
    if definition_a != definition_b:
        return None, "the metric is defined otherwise"
    question_hashes = {study.stored.questions(first.benchmark)["sha256"] for study in (a, b)}
    if len(question_hashes) > 1 or (counts_a.questions, counts_a.images) != (
        counts_b.questions,
        counts_b.images,
    ):
        return None, "other questions, so not paired"
    # One "training" a side: these checkpoints alone, over images.
    before, after = (
        counts.terms(metric).mean(axis=0, keepdims=True) for counts in (counts_a, counts_b)
    )
    result = estimate(after, before, scale=metric.scale)
    same = first.version == second.version
    remark = "" if same else f"graders {first.version} / {second.version}"
    return (result if np.isfinite(result.difference) else None), remark
