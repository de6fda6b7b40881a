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
    machines = [*_unequal(_machines(first), _machines(second))]
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


def _texts(value: object) -> dict[str, str]:
    """Every leaf as text, by its dotted path."""
    return {path: _text(leaf) for path, leaf in flat(value).items()}


def _text(value: object) -> str:
    # 1 and 1.0 are the same setting.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return json.dumps(whole, ensure_ascii=False)


def _short(text: str) -> str:
    text = text.strip('"')
    text = text[:12] if FINGERPRINT.fullmatch(text) else text
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _unequal(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, text in A, text in B) of everything that differs. A field that is absent on one side
    and null on the other does not differ."""
    for name in dict.fromkeys([*a, *b]):
        left, right = a.get(name, ABSENT), b.get(name, ABSENT)
        if left != right and {left, right} != {ABSENT, "null"}:
            yield name, _short(left), _short(right)


def _study_lines(a: StudyResults, b: StudyResults) -> Iterator[tuple[str, ...]]:
    """Fields of the study and of the rows and benchmarks in both; a row or benchmark that one side
    lacks is one line."""
    left, right = _study_fields(a), _study_fields(b)
    first, second = (dict.fromkeys(part for part, _ in fields) for fields in (left, right))
    yield from ((part, "present", ABSENT) for part in first if part not in second)
    yield from ((part, ABSENT, "present") for part in second if part not in first)
    shared = [
        {
            f"{part}.{name}" if part else name: text
            for (part, name), text in fields.items()
            if part in first and part in second
        }
        for fields in (left, right)
    ]
    yield from _unequal(*shared)


def _study_fields(study: StudyResults) -> dict[tuple[str, str], str]:
    """``study.json`` as text by (part, field). A part is a row with its seeds together, or a
    benchmark, or "" for the rest."""
    content = study.stored.study()
    fields: dict[tuple[str, str], str] = {}
    seeds: dict[str, list[str]] = {}
    for run in content.pop("runs"):
        part = f"row {run.pop('label')}"
        seeds.setdefault(part, []).append(str(run.pop("seed")))
        run.pop("varied")  # the settings show it
        if run["base"].startswith(ANSWERS_PREFIX):
            run["base"] = (
                ANSWERS_PREFIX  # the content counts, not the place; the identities hold it
            )
        run.get("settings", {}).pop("recipe", None)  # the run has it too
        fields |= {(part, name): text for name, text in _texts(run).items()}
    for entry in content.pop("benchmarks"):
        part = f"benchmark {entry.pop('name')}"
        metrics = {metric.pop("name"): metric for metric in entry.pop("metrics")}
        texts = _texts({**entry, "metric": metrics})
        fields |= {(part, name): text for name, text in texts.items()}
    fields |= {(part, "seeds"): " ".join(numbers) for part, numbers in seeds.items()}
    return fields | {("", name): text for name, text in _texts(content).items()}


def _identity_lines(a: StudyResults, b: StudyResults) -> Iterator[tuple[str, ...]]:
    """The stages' identities, field by field. The same difference in several stages is one line
    with their number."""
    left, right = _identities(a), _identities(b)
    lines: dict[tuple[str, ...], int] = {}
    stages: dict[str, int] = {}
    for stage in (stage for stage in left if stage in right):
        kind = stage.split("/")[0 if stage.startswith("questions") else 4]
        stages[kind] = stages.get(kind, 0) + 1
        for name, *texts in _unequal(left[stage], right[stage]):
            values = (left[stage].get(name, ""), right[stage].get(name, ""))
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
            identities[stage.relative_to(stored.results.out).as_posix()] = _texts(identity)
    return identities


def _machines(study: StudyResults) -> dict[str, str]:
    """Versions and hardware of the finished stages; several where stages differ."""
    values: dict[str, set[str]] = {}
    for record in map(study.stored.finished, study.stored.stages()):
        for part in ("versions", "hardware", "arithmetic"):
            for name, value in (record or {}).get(part, {}).items():
                values.setdefault(name.replace("_", " "), set()).add(str(value))
    return {name: " / ".join(sorted(texts)) for name, texts in values.items()}


def _numbers(a: StudyResults, b: StudyResults) -> tuple[list[tuple[str, ...]], list[str]]:
    """The results that differ as lines of the table, and sentences about all."""
    left, right = ({cell.key: cell for cell in compare(study) if cell.last} for study in (a, b))
    lines: list[tuple[float, tuple[str, ...]]] = []
    equal = clear = 0
    verdicts = []
    shared = [
        (cell, right[key])
        for key, cell in left.items()
        if key in right and np.isfinite([cell.value, right[key].value]).any()
    ]
    for first, second in shared:
        if first.verdict != second.verdict and "baseline" not in (first.verdict, second.verdict):
            verdicts.append(
                f"{first.label}, {first.full_name}: {first.verdict} in A, {second.verdict} in B"
            )
        if first.value == second.value:
            equal += 1
            continue
        interval, remark = _paired(a, b, first, second)
        places = max(first.places, second.places)
        gap = second.value - first.value
        lo, hi = interval.interval() if interval else (np.nan, np.nan)
        surety = 0.0
        if interval is not None and np.isfinite(lo):
            surety = abs(interval.difference) / interval.se if interval.se > 0 else 0.0
            clear += not lo <= 0 <= hi
        line = (
            first.label,
            display_name(first.benchmark),
            first.heading,
            printed(first.value, places),
            printed(second.value, places),
            with_interval(gap, lo, hi, places) if np.isfinite(gap) else MISSING,
            f"{first.n_seeds} / {second.n_seeds}",
            remark,
        )
        lines.append((surety, line))
    sentences = [
        f"{len(shared)} numbers are in both folders: {equal} are equal, {len(lines)} differ,"
        f" {clear} of these by a paired interval that excludes 0."
        if shared
        else "No number is in both folders: they share no graded row and metric."
    ]
    for name, texts in (("Only in A", _only(left, right)), ("Only in B", _only(right, left))):
        sentences += [f"{name}: {', '.join(texts)}."] if texts else []
    sentences += [f"Another verdict: {'; '.join(verdicts)}."] if verdicts else []
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])], sentences


def _only(mine: Mapping[Key, MetricResult], other: Mapping[Key, MetricResult]) -> list[str]:
    """What the other folder lacks: whole rows, else a row's benchmarks, else single metrics."""
    labels = {label for label, _, _ in other}
    benchmarks = {key[:2] for key in other}
    texts = []
    for key, cell in mine.items():
        if cell.label not in labels:
            texts.append(cell.label)
        elif key[:2] not in benchmarks:
            texts.append(f"{cell.label} on {display_name(cell.benchmark)}")
        elif key not in other:
            texts.append(f"{cell.label}, {cell.full_name}")
    return list(dict.fromkeys(texts))


def _paired(
    a: StudyResults, b: StudyResults, first: MetricResult, second: MetricResult
) -> tuple[DifferenceEstimate | None, str]:
    """The paired interval of B - A and a remark; None where they cannot be paired."""
    left = a.counts.get((first.label, first.round, first.benchmark))
    right = b.counts.get((second.label, second.round, second.benchmark))
    metric, other = (study.benchmark(first.benchmark).metric(first.metric) for study in (a, b))
    if left is None or right is None:
        return None, "missing in one"
    definition, another = (
        (each.numerator, each.denominator, each.scale) for each in (metric, other)
    )
    if definition != another:
        return None, "the metric is defined otherwise"
    asked = {study.stored.questions(first.benchmark)["sha256"] for study in (a, b)}
    if len(asked) > 1 or (left.questions, left.images) != (right.questions, right.images):
        return None, "other questions, so not paired"
    # One "training" a side: these checkpoints alone, over images.
    before, after = (each.terms(metric).mean(axis=0, keepdims=True) for each in (left, right))
    found = estimate(after, before, scale=metric.scale)
    same = first.version == second.version
    remark = "" if same else f"graders {first.version} / {second.version}"
    return (found if np.isfinite(found.difference) else None), remark
