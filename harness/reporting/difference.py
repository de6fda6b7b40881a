"""Two results folders side by side: which settings, versions, hardware and numbers differ, and by
how much.

Numbers of the same row, benchmark and metric are compared; where both folders asked the same
questions, with the paired interval over images that the table itself uses, seeds averaged. Read
from records alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.interface import Metric
from harness.artifacts.results_folder import Results, read_json
from harness.reporting.comparison import Cell, Counts, compare, counts
from harness.reporting.results import Records, read, shown
from harness.reporting.stats import Interval, paired_interval, ratio
from harness.reporting.stored import opened
from harness.reporting.tables.build import number
from harness.reporting.tables.model import MISSING, Block, Table, block
from harness.reporting.tables.text import markdown

ABSENT = "absent"
WIDTH = 60
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def between(a: Path, b: Path) -> str:
    """What differs from ``a`` to ``b``, as Markdown.

    Raises:
        UserError: one of them holds no study, or a record is broken.
    """
    first, second = read(a), read(b)
    settings = [*_study_lines(a, b), *_identity_lines(a, b)]
    machines = list(_machine_lines(a, b))
    numbers, said = _numbers(first, second, Results(a), Results(b))
    reading = [
        f"Settings that differ: {len(settings) or 'none'}.",
        f"Versions and pieces of hardware that differ: {len(machines) or 'none'}.",
        *said,
    ]
    blocks: list[Block] = []
    if settings:
        blocks.append(
            block(
                "Settings that differ",
                "from study.json and the stages' identities",
                ("setting", "A", "B"),
                settings,
            )
        )
    if machines:
        blocks.append(
            block("Versions and hardware that differ", "as recorded", ("", "A", "B"), machines)
        )
    if numbers:
        header = (
            "row",
            "benchmark",
            "metric",
            "A",
            "B",
            "B - A [95 % interval]",
            "seeds A / B",
            "remark",
        )
        blocks.append(
            block(
                "Numbers that differ", "last rounds; the surest differences first", header, numbers
            )
        )
    return markdown(
        Table(
            title=f"{a} (A) against {b} (B)",
            question=(
                f"A asks: {first.question} B asks: {second.question}"
                if first.question != second.question
                else first.question
            ),
            reading=tuple(reading),
            blocks=tuple(blocks),
            notes=(
                (
                    "Intervals: paired BCa bootstrap over the images of both folders; they speak"
                    " for these checkpoints, not for another training. Nothing is corrected for how"
                    " many numbers are compared."
                ),
            ),
        )
    )


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf as (dotted path, text)."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        # 1 and 1.0 are the same setting.
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        yield prefix, json.dumps(whole, ensure_ascii=False)


def _short(text: str) -> str:
    text = text.strip('"')
    text = text[:12] if FINGERPRINT.fullmatch(text) else text
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _unequal(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, here, there) of everything that differs. A field that one lacks and the other leaves
    empty is no difference."""
    for name in dict.fromkeys([*a, *b]):
        here, there = a.get(name, ABSENT), b.get(name, ABSENT)
        if here != there and {here, there} != {ABSENT, "null"}:
            yield name, _short(here), _short(there)


def _study_lines(a: Path, b: Path) -> Iterator[tuple[str, ...]]:
    """Fields of the study and of the rows and benchmarks that both have; the others are named as a
    whole."""
    here, there = _study(a), _study(b)
    for one, other, place in ((here, there, "A"), (there, here, "B")):
        for part in dict.fromkeys(part for part, _ in one):
            if part and not any(part == known for known, _ in other):
                yield part, *(("there", ABSENT) if place == "A" else (ABSENT, "there"))
    both = {part for part, _ in here} & {part for part, _ in there}
    shared = [
        {
            f"{part}.{name}" if part else name: text
            for (part, name), text in one.items()
            if part in both
        }
        for one in (here, there)
    ]
    yield from _unequal(*shared)


def _study(out: Path) -> dict[tuple[str, str], str]:
    """``study.json`` as text by (part, field): a part is a row, its seeds together, or a benchmark,
    or "" for the rest."""
    study = read_json(Results(out).study)
    flat: dict[tuple[str, str], str] = {}
    seeds: dict[str, list[str]] = {}
    for run in study.pop("runs"):
        part = f"row {run.pop('label')}"
        seeds.setdefault(part, []).append(str(run.pop("seed")))
        run.get("settings", {}).pop("recipe", None)  # it stands beside the settings, too
        flat |= {(part, name): text for name, text in _flat(run)}
    for one in study.pop("benchmarks"):
        part = f"benchmark {one.pop('name')}"
        metrics = {metric.pop("name"): metric for metric in one.pop("metrics")}
        flat |= {(part, name): text for name, text in _flat({**one, "metric": metrics})}
    flat |= {(part, "seeds"): " ".join(found) for part, found in seeds.items()}
    return flat | {("", name): text for name, text in _flat(study)}


def _identity_lines(a: Path, b: Path) -> Iterator[tuple[str, ...]]:
    """The stages' identities, field by field; the same difference in several stages is one line
    that counts them."""
    here, there = _identities(a), _identities(b)
    both = [place for place in here if place in there]
    found: dict[tuple[str, ...], int] = {}
    stages: dict[str, int] = {}
    for place in both:
        kind = place.split("/")[0 if place.startswith("questions") else 4]
        stages[kind] = stages.get(kind, 0) + 1
        for name, left, right in _unequal(here[place], there[place]):
            fingerprints = all(
                FINGERPRINT.fullmatch(text.strip('"'))
                for text in (here[place].get(name, ""), there[place].get(name, ""))
            )
            key = (
                (kind, name, "one", "another")
                if fingerprints and kind != "questions"
                else (kind, name, left, right)
            )
            found[key] = found.get(key, 0) + 1
    for (kind, name, left, right), times in found.items():
        yield f"stage {kind}: {name} ({times} of {stages[kind]})", left, right


def _identities(out: Path) -> dict[str, dict[str, str]]:
    """The identity of every finished stage by its place below the folder."""
    stored = opened(out)
    known = {folder: stored.identity(folder) for folder in stored.stages() if stored.done(folder)}
    return {
        folder.relative_to(out).as_posix(): dict(_flat(identity))
        for folder, identity in known.items()
        if identity is not None
    }


def _machine_lines(a: Path, b: Path) -> Iterator[tuple[str, ...]]:
    yield from _unequal(_machines(a), _machines(b))


def _machines(out: Path) -> dict[str, str]:
    """Every version and piece of hardware of the finished stages; several where stages ran on
    several."""
    found: dict[str, dict[str, None]] = {}
    stored = opened(out)
    for folder in stored.stages():
        record = stored.record(folder) if stored.done(folder) else None
        if record is not None:
            for part in ("versions", "hardware", "arithmetic"):
                for name, value in record.get(part, {}).items():
                    found.setdefault(f"{name.replace('_', ' ')}", {})[str(value)] = None
    return {name: " / ".join(sorted(values)) for name, values in found.items()}


def _numbers(
    first: Records, second: Records, a: Results, b: Results
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The cells that differ as lines, and what to say of all."""
    here, there = _cells(first), _cells(second)
    lines: list[tuple[float, tuple[str, ...]]] = []
    equal = clear = 0
    verdicts = []
    both = [
        key
        for key in here
        if key in there and (np.isfinite(here[key].value) or np.isfinite(there[key].value))
    ]
    for key in both:
        left, right = here[key], there[key]
        if left.verdict != right.verdict and "baseline" not in (left.verdict, right.verdict):
            verdicts.append(
                f"{left.label}, {left.full_name}: {left.verdict} in A, {right.verdict} in B"
            )
        if left.value == right.value:
            equal += 1
            continue
        found, remark = _paired(
            first,
            second,
            left,
            right,
            same=_questions(a, left.benchmark) == _questions(b, left.benchmark),
        )
        places = max(left.places, right.places)
        gap = right.value - left.value
        text = number(gap, places, sign=True) if np.isfinite(gap) else MISSING
        sure = 0.0
        if found is not None and np.isfinite(found.lo):
            text += f" [{number(found.lo, places)}, {number(found.hi, places)}]"
            sure = abs(found.difference) / found.se if found.se > 0 else 0.0
            clear += not found.lo <= 0 <= found.hi
        values = [
            number(cell.value, places) if np.isfinite(cell.value) else MISSING
            for cell in (left, right)
        ]
        seeds = f"{left.n_seeds} / {right.n_seeds}"
        lines.append(
            (sure, (left.label, shown(left.benchmark), left.heading, *values, text, seeds, remark))
        )
    said = [
        (
            f"{len(both)} numbers stand in both folders: {equal} are equal, {len(lines)} differ,"
            f" {clear} of these by a paired interval that leaves out 0."
            if both
            else "No number stands in both folders: they share no graded row and metric."
        )
    ]
    said += [
        f"{name}: {text}."
        for name, text in (("Only in A", _only(here, there)), ("Only in B", _only(there, here)))
        if text
    ]
    said += [f"Another verdict: {'; '.join(verdicts)}."] if verdicts else []
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])], said


def _cells(records: Records) -> dict[tuple[str, str, str], Cell]:
    return {
        (cell.label, cell.benchmark, cell.metric): cell for cell in compare(records) if cell.last
    }


def _only(
    mine: Mapping[tuple[str, str, str], Cell], other: Mapping[tuple[str, str, str], Cell]
) -> str:
    """Rows that the other folder lacks whole, then rows' benchmarks, then metrics."""
    lacking = [key for key in mine if key not in other]
    labels = {label for label, _, _ in other}
    asked = {key[:2] for key in other}
    said = [
        (
            label
            if label not in labels
            else (
                f"{label} on {shown(name)}"
                if (label, name) not in asked
                else f"{label}, {mine[label, name, metric].full_name}"
            )
        )
        for label, name, metric in lacking
    ]
    return ", ".join(dict.fromkeys(said))


def _questions(results: Results, benchmark: str) -> str:
    """The questions' content; two folders that asked the same have the same file."""
    return str(opened(results.out).asked(benchmark)["sha256"])


def _paired(
    first: Records, second: Records, left: Cell, right: Cell, *, same: bool
) -> tuple[Interval | None, str]:
    """The paired interval of B - A, or why there is none."""
    mine, other = _counted(first, left), _counted(second, right)
    metric, theirs = _metric(first, left), _metric(second, right)
    graded = "" if left.version == right.version else f"graders {left.version} / {right.version}"
    if mine is None or other is None:
        return None, "missing in one"
    if (
        metric.numerator != theirs.numerator
        or metric.denominator != theirs.denominator
        or metric.scale != theirs.scale
    ):
        return None, "the metric is defined otherwise"
    if not same or mine.questions != other.questions or mine.pictures != other.pictures:
        return None, "other questions, so not paired"
    before, after = mine.pairs(metric).mean(axis=0), other.pairs(metric).mean(axis=0)
    if not np.isfinite([ratio(before.sum(axis=0), 1.0), ratio(after.sum(axis=0), 1.0)]).all():
        return None, graded
    return paired_interval(before, after, scale=metric.scale), graded


def _counted(records: Records, cell: Cell) -> Counts | None:
    return counts(records.grades, cell.label, cell.round, cell.benchmark)


def _metric(records: Records, cell: Cell) -> Metric:
    found = next(one for one in records.benchmarks if one.name == cell.benchmark)
    return next(metric for metric in found.metrics if metric.name == cell.metric)
