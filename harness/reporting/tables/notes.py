"""Texts of the table: the summary of the primary metrics above it and the notes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.reporting.comparison import ALPHA, MetricResult, holm_family, question_tests
from harness.reporting.display_names import display_name
from harness.reporting.results import StudyResults
from harness.reporting.tables.model import FEWER_SEEDS, REACHED

FEW = 50
"""With fewer images than this, intervals are too narrow: at 25 images they cover the true value in
about 90 % of cases (tests/benches/bench_stats.py)."""

LISTED = 12
"""At most this many rounds with missing stages are listed in a note; the rest are counted."""

UNGRADED = " is not graded yet"

VERDICTS = {
    "better": "clearly better on",
    "worse": "clearly worse on",
    "no clear change": "no clear change on",
}


def reading(study: StudyResults, cells: Sequence[MetricResult]) -> list[str]:
    """One sentence per method and reference row: primary metrics with and without a clear change,
    missing ones, and gains that a control reaches too."""
    family = holm_family(cells)
    if not family:
        return ["No primary metric was declared, so nothing is tested and there are no stars."]
    lines = []
    for row in (row for row in study.compared if row.role in ("method", "reference")):
        mine = [cell for cell in family if cell.label == row.label]
        parts = []
        for verdict, words in VERDICTS.items():
            if names := [_change(cell) for cell in mine if cell.verdict == verdict]:
                parts.append(f"{words} {', '.join(names)}")
        if missing := [cell.full_name for cell in mine if cell.verdict not in VERDICTS]:
            parts.append(f"no result yet on {', '.join(missing)}")
        reached = [cell for cell in mine if cell.reached_by]
        if reached:
            names = [f"{cell.full_name} ({', '.join(cell.reached_by)})" for cell in reached]
            parts.append(f"but a control does as well on {', '.join(names)}")
        lines.append(f"{row.label} against {study.baseline}: {'; '.join(parts)}.")
    return lines


def _change(cell: MetricResult) -> str:
    before, after = (f"{value:.{cell.places}f}" for value in (cell.baseline_value, cell.value))
    return f"{cell.full_name} ({before} to {after})"


def footnotes(study: StudyResults, cells: Sequence[MetricResult]) -> list[str]:
    """The notes below the table."""
    last = [cell for cell in cells if cell.last]
    return [
        f"A cell: value (difference from {study.baseline} [95 % interval]). ↑ higher is better, ↓"
        " lower is better; a metric without an arrow only describes and is never tested."
        " Intervals: paired BCa bootstrap over images; they are not symmetric.",
        _stars(cells),
        *_marks(last),
        *_missing(study, last),
        *_seeds(study),
        *_size(study, last),
        *_detectable(last),
        *_unscored(last),
        *_mcnemar(study),
        *_facts(study),
    ]


def _stars(cells: Sequence[MetricResult]) -> str:
    tests = len(holm_family(cells))
    return (
        f"* better, * worse: p < {ALPHA} in a sign-flip permutation test over images (all questions"
        f" of an image move together), Holm-corrected over {tests}"
        f" {'test' if tests == 1 else 'tests'} (methods x primary metrics). A primary metric"
        " without a star shows no clear change; this does not prove that nothing changed. Its"
        " interval may exclude 0, because Holm corrects the tests, not the intervals. Other metrics"
        " are not tested."
    )


def _marks(last: Sequence[MetricResult]) -> list[str]:
    lines = []
    if any(cell.reached_by for cell in last):
        lines.append(
            f"{REACHED} a control does as well, so the gain is not the method's own. The controls"
            " are named in the summary above and in table.csv (reached_by)."
        )
    if any(0 < cell.n_seeds < cell.seeds_planned for cell in last):
        lines.append(f"{FEWER_SEEDS} some of the planned training seeds are missing.")
    if any(cell.verdict == "other questions" for cell in last):
        lines.append(
            "(other questions): the row answered other questions than the baseline, so there is no"
            " difference; answer both again."
        )
    return lines


def _missing(study: StudyResults, last: Sequence[MetricResult]) -> list[str]:
    lines = []
    if study.missing:
        gathered = _by_round(study.missing)
        more = len(gathered) - LISTED
        text = "; ".join(gathered[:LISTED]) + (f"; and {more} more" if more > 0 else "")
        lines.append(f"Missing (shown as -, never as 0): {text}.")
    if empty := _empty(last):
        lines.append(
            f"Without a value because the denominator is 0 (shown as -): {'; '.join(empty)}."
        )
    return lines


def _by_round(missing: Sequence[str]) -> list[str]:
    """Sentences ``row, seed, round: what is missing``, joined for each row, seed and round."""
    rounds: dict[str, list[str]] = {}
    for where, _, what in (text.partition(": ") for text in missing):
        rounds.setdefault(where, []).append(what)
    lines = []
    for where, parts in rounds.items():
        ungraded = [part.removesuffix(UNGRADED) for part in parts if part.endswith(UNGRADED)]
        texts = [part for part in parts if not part.endswith(UNGRADED)]
        if ungraded:
            verb = "is" if len(ungraded) == 1 else "are"
            texts.append(f"{', '.join(map(display_name, ungraded))} {verb} not graded yet")
        lines.append(f"{where}: {', '.join(texts)}")
    return lines


def _empty(last: Sequence[MetricResult]) -> list[str]:
    """Results of graded rows without a value; metrics that are empty in the same rows together."""
    graded = [cell for cell in last if cell.questions]
    texts = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in graded):
        mine = [cell for cell in graded if cell.benchmark == benchmark]
        rows = tuple(dict.fromkeys(cell.label for cell in mine))
        metrics_by_rows: dict[tuple[str, ...], list[str]] = {}
        for metric in dict.fromkeys(cell.metric for cell in mine):
            empty = {cell.label for cell in mine if cell.metric == metric and np.isnan(cell.value)}
            if empty:
                labels = tuple(row for row in rows if row in empty)
                metrics_by_rows.setdefault(labels, []).append(display_name(metric))
        for labels, metrics in metrics_by_rows.items():
            where = "every row" if labels == rows else ", ".join(labels)
            texts.append(f"{display_name(benchmark)} / {', '.join(metrics)} ({where})")
    return texts


def _seeds(study: StudyResults) -> list[str]:
    trained = [row for row in study.compared if row.rounds]
    single = [row.label for row in trained if len(row.seeds) == 1]
    several = [row.label for row in trained if len(row.seeds) > 1]
    lines = []
    if single:
        lines.append(
            f"One training seed ({', '.join(single)}): the interval is valid for this"
            " checkpoint only; another seed can give another result."
        )
    if several:
        lines.append(
            f"Several training seeds ({', '.join(several)}): value, interval and test use each"
            " image's counts averaged over the seeds. They are valid for these checkpoints. For the"
            " variation between trainings see the interval over seeds."
        )
    return lines


def _size(study: StudyResults, last: Sequence[MetricResult]) -> list[str]:
    lines = []
    sizes = {display_name(cell.benchmark): cell.images for cell in last if cell.images}
    if study.limit is not None:
        texts = [f"{name} {images:,}" for name, images in sizes.items()]
        lines.append(
            f"The study is limited to {study.limit:,} images per benchmark; images answered:"
            f" {', '.join(texts) or 'none graded yet'}."
        )
    if few := [name for name, images in sizes.items() if images < FEW]:
        lines.append(
            f"Fewer than {FEW} images ({', '.join(few)}): the intervals are too narrow (they cover"
            " the true value in about 90 % of cases, not 95 %), and only large differences can be"
            " found. This is a trial run, not a result."
        )
    return lines


def _detectable(last: Sequence[MetricResult]) -> list[str]:
    """The smallest detectable difference of each primary metric, as a range over rows."""
    parts = []
    for key in dict.fromkeys((cell.benchmark, cell.metric) for cell in last if cell.primary):
        mine = [cell for cell in last if (cell.benchmark, cell.metric) == key]
        smallest = [cell.detectable for cell in mine if cell.detectable > 0]
        if smallest:
            places = mine[0].places
            low, high = f"{min(smallest):.{places}f}", f"{max(smallest):.{places}f}"
            parts.append(f"{mine[0].full_name} {low}" + (f" to {high}" if low != high else ""))
    if not parts:
        return []
    return [
        "Smallest true difference that a single test at level 0.05 detects with 80 % power (with"
        f" Holm it is somewhat larger): {', '.join(parts)}."
    ]


def _unscored(last: Sequence[MetricResult]) -> list[str]:
    if not any(cell.unscored for cell in last):
        return []
    return [
        "Unscored answers (unreadable or missing) have their own column; they never count as 0."
    ]


def _mcnemar(study: StudyResults) -> list[str]:
    """One sentence per benchmark: gained and lost questions and p for each training seed. The
    first sentence explains the test."""
    tests = question_tests(study)
    lines: list[str] = []
    for benchmark in dict.fromkeys(name for name, *_ in tests):
        parts = []
        for row in study.compared:
            texts = [
                f"{test.gained} gained, {test.lost} lost, p {p_text(test.p)}"
                for name, label, _, test in tests
                if (name, label) == (benchmark, row.label)
            ]
            if texts:
                parts.append(f"{row.label} {'; '.join(texts)}")
        explained = (
            ""
            if lines
            else " (by training seed; the test treats questions of one image as independent)"
        )
        lines.append(
            f"Exact McNemar test, {display_name(benchmark)}, questions scored 0 or 1{explained}:"
            f" {' / '.join(parts)}."
        )
    return lines


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _facts(study: StudyResults) -> list[str]:
    facts = study.facts
    subjects = {
        "base": "Base model",
        "pool": "Training pool",
        "versions": "Versions",
        "hardware": "Hardware",
    }
    lines = [
        f"{words}: {' / '.join(facts[key])}." for key, words in subjects.items() if facts.get(key)
    ]
    if images := facts.get("unreadable"):
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        lines.append(
            f"Unreadable pool images, skipped: {len(images)} ({', '.join(images[:5])}{more})."
        )
    if treated := facts.get("treated"):
        lines.append(
            "Pool images changed when read, a round (turned by EXIF; grey values scaled to 8 bit;"
            f" transparent parts composited on white): {' / '.join(treated)}."
        )
    if stored := facts.get("as stored"):
        lines.append(
            "Benchmark images read as the authors' code reads them, without applying their EXIF"
            f" orientation, depth or transparency: {' / '.join(stored)}."
        )
    return [*lines, *facts.get("leaks", ()), *facts.get("provenance", ())]


def reported(references: Sequence[str]) -> list[str]:
    """The sources of the reported numbers; empty if the table has no such numbers."""
    if not references:
        return []
    sources = " ".join(f"[{place}] {text}." for place, text in enumerate(references, start=1))
    return [
        'Columns named "reported" show numbers printed in papers. They are not measured here and'
        " are neither compared nor ranked with measured numbers. Sources, and how each was checked:"
        f" {sources}"
    ]
