"""Texts of the table: the summary of the primary metrics above it and the notes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.reporting.comparison import (
    SEED_WITHOUT_VALUE,
    TRAINING_DIFFERS,
    TRAINING_SAME,
    UNTOLD_VERDICT,
    MetricResult,
    holm_family,
    question_tests,
)
from harness.reporting.contrasts import ALPHA, WORTH
from harness.reporting.display_names import display_name, grouped, row_name
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import FEWER_SEEDS, ONE_TRAINING, REACHED, UNTOLD
from harness.reporting.tables.seed_notes import seed_notes

FEW = 50
"""With fewer images than this, a study is a trial run: only large differences can be found."""

LISTED = 12
"""At most this many rounds with missing stages are listed in a note; the rest are counted."""

UNGRADED = " is not graded yet"

UNSCORED = "Unscored answers (unreadable or missing) have their own column; they never count as 0."

PARTIAL = 0.05
"""A row is named where so large a share of its answers is unscored, beyond the baseline's."""

LONE = "One training says nothing about its method; run two seeds or more."

CHANGES = ("better", "worse", TRAINING_DIFFERS)
"""Verdicts that are said with the values before and after."""

VERDICTS = {
    "better": "better on",
    "worse": "worse on",
    TRAINING_DIFFERS: "this training differs on",
    "no clear change": "no clear change on",
    TRAINING_SAME: "this training: no clear change on",
    UNTOLD_VERDICT: "cannot be told on",
    SEED_WITHOUT_VALUE: "not tested, because a seed has no value, on",
}


def reading(study: StudyResults, cells: Sequence[MetricResult]) -> list[str]:
    """For each method and reference row the primary metrics by verdict, missing ones, and what its
    controls say about its gains. A row with one training is read as that training."""
    tested = [cell for cell in cells if cell.tested]
    if not tested:
        return ["No primary metric was declared, so nothing is tested and there are no stars."]
    lone = any(_about(cell) == "training" and study.row(cell.label).rounds for cell in tested)
    return [
        *([LONE] if lone else []),
        *(
            _reading(study, row, [cell for cell in tested if cell.label == row.label])
            for row in study.compared
            if row.role in ("method", "reference")
        ),
        *_partial(study, tested),
    ]


def _partial(study: StudyResults, tested: Sequence[MetricResult]) -> list[str]:
    """The rows whose values are of a part of the questions, which may be easier ones."""
    shares: dict[tuple[str, str], tuple[int, int]] = {}
    for cell in tested:
        shares[cell.label, cell.benchmark] = cell.unscored, cell.questions * cell.n_seeds
    sentences = []
    for (label, benchmark), (unscored, asked) in shares.items():
        base = study.counts.get((study.baseline, study.base_row.rounds, benchmark))
        if asked and base and unscored / asked - base.unscored / base.values.size >= PARTIAL:
            sentences.append(
                f"{row_name(label)} on {display_name(benchmark)}: {unscored:,} of {asked:,} answers"
                f" are unscored. Its values are of the others alone, so a difference from"
                f" {study.baseline} may come from the questions."
            )
    return sentences


def _about(cell: MetricResult) -> str:
    """What the result is about; trainings that agree in every count are still several."""
    return "method" if cell.n_seeds > 1 and cell.about == "training" else cell.about


def _verdict(cell: MetricResult) -> str:
    same = cell.verdict == TRAINING_SAME and cell.n_seeds > 1
    return "no clear change" if same else cell.verdict


def _reading(study: StudyResults, row: Row, cells: Sequence[MetricResult]) -> str:
    kinds = {_about(cell) for cell in cells} - {"none"}
    count = ""
    if kinds == {"method"}:
        count = f" ({max(cell.n_seeds for cell in cells)} trainings)"
    elif kinds == {"training"}:
        origin = "given answers" if row.given else "one given model"
        count = " (one training)" if row.rounds else f" ({origin})"
    clauses = []
    for verdict, words in VERDICTS.items():
        of_verdict = [cell for cell in cells if _verdict(cell) == verdict]
        if kinds == {"training"}:
            words = words.removeprefix("this training: ").removeprefix("this training ")
        if of_verdict:
            names = [_change(cell) if verdict in CHANGES else cell.full_name for cell in of_verdict]
            clauses.append(f"{words} {', '.join(names)}")
    if missing := [cell.full_name for cell in cells if cell.verdict not in VERDICTS]:
        clauses.append(f"no result yet on {', '.join(missing)}")
    sentence = f"{row_name(row.label)} against {study.baseline}{count}: {'; '.join(clauses)}."
    return " ".join([sentence, *_controls(study, row, cells)])


def _controls(study: StudyResults, row: Row, cells: Sequence[MetricResult]) -> list[str]:
    """What the controls say about a method's gains, in sentences."""
    sentences = []
    for field, words in (
        ("exceeds", "It exceeds {} on {}."),
        ("reached_by", "It does not exceed {} on {}."),
        ("untold_by", "Whether it exceeds {} on {} cannot be told yet."),
    ):
        metrics = grouped((getattr(cell, field), cell.full_name) for cell in cells)
        sentences += [
            words.format(" and ".join(map(row_name, names)), " and ".join(metric_names))
            for names, metric_names in metrics.items()
            if names
        ]
    gains = any(cell.verdict == "better" for cell in cells)
    rounds = sorted(
        {control.rounds for control in study.rows if control.of == row.label and control.rounds}
    )
    if gains and rounds and row.rounds not in rounds:
        sentences.append(
            f"Its controls ended after round {' or '.join(map(str, rounds))}; they are compared"
            ' there ("Beyond its controls").'
        )
    return sentences


def _change(cell: MetricResult) -> str:
    before, after = (f"{value:.{cell.decimals}f}" for value in (cell.baseline_value, cell.value))
    return f"{cell.full_name} ({before} to {after})"


def footnotes(study: StudyResults, cells: Sequence[MetricResult]) -> list[str]:
    """The notes below the table."""
    last = [cell for cell in cells if cell.last]
    return [
        f"A cell: value (difference from {study.baseline} [95 % interval]). ↑ higher is better, ↓"
        " lower is better; a metric without an arrow only describes and is never tested.",
        _stars(cells),
        *_one_training(study),
        *_marks(last),
        *_missing(study, last),
        *seed_notes(study, last),
        *_size(study, last),
        *_detectable(last),
        *([UNSCORED] if any(cell.unscored for cell in last) else []),
        *_mcnemar(study),
        *_facts(study),
    ]


def _stars(cells: Sequence[MetricResult]) -> str:
    families = [
        f"{len(family)} {'test' if len(family) == 1 else 'tests'} of {name}"
        for role, name in (
            ("method", "methods"),
            ("reference", "reference rows"),
            ("control", "controls"),
        )
        if (family := holm_family(cells, role))
    ]
    return (
        f"* better, * worse: about the method, p < {ALPHA}. Interval and test count the variation"
        " between trainings (seeds), between images, and both together: two t-intervals added in"
        " quadrature, with one count more and one fewer than seen, so that false alarms stay at or"
        " below 5 % and a few changed answers are not too sure (harness/reporting/stats.py)."
        " Holm-corrected over the rows of a kind and their primary metrics"
        f" ({', '.join(families) or 'no test'}). A primary metric without a star shows no clear"
        " change; this does not prove that nothing changed. Its interval may exclude 0, because"
        " Holm corrects the tests, not the intervals. Other metrics are not tested."
    )


def _one_training(study: StudyResults) -> list[str]:
    untrained = [row for row in study.compared if not row.rounds and row.role != "matched"]
    findings = (
        (
            [row for row in study.compared if row.rounds and len(row.seeds) == 1],
            "One training seed ({}): interval and test are about this training alone, over images."
            f" {ONE_TRAINING} this training: it differs (p < {ALPHA}, Holm). Another seed can give"
            " another result, so there is no star, no better and no worse. Run two seeds or more to"
            " say something about the method.",
        ),
        (
            [row for row in untrained if not row.given],
            "Given models, not trained here ({}): interval and test are about these weights alone,"
            " over images.",
        ),
        (
            [row for row in study.compared if row.given],
            "Answers of other programs, read from files ({}): not trained and not asked here, so"
            " how they were prompted and decoded is not checked. Interval and test are about these"
            " answers alone, over images.",
        ),
        (
            [row for row in study.compared if row.base != study.base_row.base and not row.given],
            f"On another base than {study.baseline} ({{}}): the difference holds the difference of"
            " the bases too. Methods of different bases are not put in order.",
        ),
    )
    return [
        sentence.replace("{}", ", ".join(row_name(row.label) for row in rows), 1)
        for rows, sentence in findings
        if rows
    ]


def _marks(last: Sequence[MetricResult]) -> list[str]:
    findings = (
        (
            any(cell.reached_by for cell in last),
            f"{REACHED} the method does not exceed a control of the same round by"
            f" {WORTH * 100:g} % of the metric's scale, so the gain is not the method's own. The"
            " controls are named above and in table.csv (reached_by).",
        ),
        (
            any(cell.untold_by and not cell.reached_by for cell in last),
            f"{UNTOLD} it cannot be told yet whether the method exceeds its controls; more seeds"
            " would tell.",
        ),
        (
            any(0 < cell.n_seeds < cell.seeds_planned for cell in last),
            f"{FEWER_SEEDS} some of the planned training seeds are missing; interval and test use"
            " the others.",
        ),
        (
            any(cell.verdict == "other questions" for cell in last),
            "(other questions): the row answered other questions than the baseline, so there is no"
            " difference; answer both again.",
        ),
    )
    return [sentence for applies, sentence in findings if applies]


def _missing(study: StudyResults, last: Sequence[MetricResult]) -> list[str]:
    lines = []
    if groups := _by_round(study.missing):
        more = len(groups) - LISTED
        text = "; ".join(groups[:LISTED]) + (f"; and {more} more" if more > 0 else "")
        lines.append(f"Missing (shown as -, never as 0): {text}.")
    if empty := _empty(last):
        lines.append(
            f"Without a value because the denominator is 0 (shown as -): {'; '.join(empty)}."
        )
    return lines


def _by_round(missing: Sequence[str]) -> list[str]:
    """Sentences ``row, seed, round: what is missing``, joined for each row, seed and round."""
    lines = []
    pairs = ((prefix, problem) for prefix, _, problem in (text.partition(": ") for text in missing))
    for prefix, problems in grouped(pairs).items():
        ungraded = [item.removesuffix(UNGRADED) for item in problems if item.endswith(UNGRADED)]
        texts = [item for item in problems if not item.endswith(UNGRADED)]
        if ungraded:
            verb = "is" if len(ungraded) == 1 else "are"
            texts.append(f"{', '.join(map(display_name, ungraded))} {verb} not graded yet")
        lines.append(f"{prefix}: {', '.join(texts)}")
    return lines


def _empty(last: Sequence[MetricResult]) -> list[str]:
    """Results of graded rows without a value; metrics that are empty in the same rows together."""
    graded = [cell for cell in last if cell.questions]
    texts = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in graded):
        of_benchmark = [cell for cell in graded if cell.benchmark == benchmark]
        rows = tuple(dict.fromkeys(cell.label for cell in of_benchmark))
        empty = grouped((cell.metric, cell.label) for cell in of_benchmark if np.isnan(cell.value))
        by_rows = grouped(
            (tuple(row for row in rows if row in empty[metric]), display_name(metric))
            for metric in dict.fromkeys(cell.metric for cell in of_benchmark)
            if metric in empty
        )
        for labels, metrics in by_rows.items():
            where = "every row" if labels == rows else ", ".join(labels)
            texts.append(f"{display_name(benchmark)} / {', '.join(metrics)} ({where})")
    return texts


def _size(study: StudyResults, last: Sequence[MetricResult]) -> list[str]:
    lines = []
    sizes = {display_name(cell.benchmark): cell.images for cell in last if cell.images}
    if study.limit is not None:
        texts = [f"{name} {images:,}" for name, images in sizes.items()]
        lines.append(
            f"The study is limited to {study.limit:,} images per benchmark; images answered:"
            f" {', '.join(texts) or 'none graded yet'}."
        )
    if small := [name for name, images in sizes.items() if images < FEW]:
        lines.append(
            f"Fewer than {FEW} images ({', '.join(small)}): only large differences can be found."
            " This is a trial run, not a result."
        )
    if single := [name for name, images in sizes.items() if images == 1]:
        lines.append(
            f"One image ({', '.join(single)}): there is no interval and no test, because nothing is"
            " known about other images."
        )
    return lines


def _detectable(last: Sequence[MetricResult]) -> list[str]:
    """The smallest detectable difference of each primary metric, as a range over rows."""
    texts = []
    for of_metric in grouped((cell.column, cell) for cell in last if cell.primary).values():
        smallest = [cell.detectable for cell in of_metric if cell.detectable > 0]
        if smallest:
            decimals = of_metric[0].decimals
            low, high = f"{min(smallest):.{decimals}f}", f"{max(smallest):.{decimals}f}"
            texts.append(f"{of_metric[0].full_name} {low}" + (f" to {high}" if low != high else ""))
    if not texts:
        return []
    return [
        "Smallest true difference of a method that these seeds and images detect with 80 % power in"
        f" a single test at level 0.05 (with Holm it is larger): {', '.join(texts)}."
    ]


def _mcnemar(study: StudyResults) -> list[str]:
    """One sentence per benchmark: gained and lost questions and p for each training seed. The
    first sentence explains the test."""
    lines: list[str] = []
    explained = " (about each training; the test treats questions of one image as independent)"
    tests = ((name, (label, test)) for name, label, _, test in question_tests(study))
    for benchmark, of_benchmark in grouped(tests).items():
        texts = grouped(
            (label, f"{test.gained} gained, {test.lost} lost, p {p_text(test.p)}")
            for label, test in of_benchmark
        )
        row_texts = (f"{label} {'; '.join(of_row)}" for label, of_row in texts.items())
        lines.append(
            f"Exact McNemar test, {display_name(benchmark)}, questions scored 0 or 1"
            f"{'' if lines else explained}: {' / '.join(row_texts)}."
        )
    return lines


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _facts(study: StudyResults) -> list[str]:
    facts = study.facts
    subjects = {"Base model": "base", "Training pool": "pool"}
    subjects |= {"Versions": "versions", "Hardware": "hardware"}
    lines = [
        f"{words}: {' / '.join(facts[key])}." for words, key in subjects.items() if facts.get(key)
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
    sources = " ".join(f"[{number}] {text}." for number, text in enumerate(references, start=1))
    return [
        'Columns named "reported" show numbers printed in papers. They are not measured here and'
        " are not ranked with measured numbers; those of rows that are not trained here are"
        " compared in the block of published values. Sources, and how each was checked:"
        f" {sources}"
    ]
