"""The words around the table: a plain reading of the primary metrics, and the notes below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.reporting.comparison import ALPHA, Cell, family, question_tests
from harness.reporting.results import Records, shown

FEW = 50
"""Below this many images the intervals are too narrow: at 25 they hold the truth in about 90 %
(bench_stats.py)."""


LISTED = 12
"""Rows' rounds with missing stages that are named in a note; the others are counted."""

UNGRADED = " is not graded yet"


def reading(records: Records, cells: Sequence[Cell]) -> list[str]:
    """For each method and bound: which primary metrics moved clearly, which did not, which are
    missing, and where a control does as well: such a gain is not the method's own."""
    tested = [cells[place] for place in family(cells)]
    if not tested:
        return ["No primary metric was declared, so nothing is tested and nothing carries a star."]
    lines = []
    for row in (row for row in records.methods if row.role in ("method", "bound")):
        parts = []
        for verdict, words in (
            ("better", "clearly better on"),
            ("worse", "clearly worse on"),
            ("no clear change", "no clear change on"),
        ):
            names = [
                _moved(cell)
                for cell in tested
                if cell.label == row.label and cell.verdict == verdict
            ]
            if names:
                parts.append(f"{words} {', '.join(names)}")
        others = [
            cell.full_name
            for cell in tested
            if cell.label == row.label and cell.verdict not in DECIDED
        ]
        if others:
            parts.append(f"nothing can be said yet about {', '.join(others)}")
        reached = [
            f"{cell.full_name} ({', '.join(cell.reached_by)})"
            for cell in tested
            if cell.label == row.label and cell.reached_by
        ]
        if reached:
            parts.append(f"but a control gains as much on {', '.join(reached)}")
        lines.append(f"{row.label} against {records.baseline}: {'; '.join(parts)}.")
    return lines


DECIDED = ("better", "worse", "no clear change")


def _moved(cell: Cell) -> str:
    return (
        f"{cell.full_name} ({cell.baseline_value:.{cell.places}f} to {cell.value:.{cell.places}f})"
    )


def footnotes(records: Records, cells: Sequence[Cell]) -> list[str]:
    """Everything that must stand below the table, one sentence or two each."""
    last = [cell for cell in cells if cell.last]
    lines = [
        (
            f"A cell: value (difference from {records.baseline} [95 % interval]). ↑ higher is"
            " better, ↓ lower is better; no arrow: descriptive, never starred. Intervals: paired"
            " BCa bootstrap over images; they are not symmetric."
        ),
        _stars(cells),
    ]
    lines += _missing(records, last)
    lines += _seeds(records)
    lines += _size(records, last)
    lines += _detectable(last)
    lines += _unscored(last)
    lines += _mcnemar(records)
    lines += _facts(records)
    return lines


def _stars(cells: Sequence[Cell]) -> str:
    tests = len(family(cells))
    return (
        f"* better, * worse: p < {ALPHA} by sign-flip permutation over images (all questions of a"
        f" image move together), after Holm over {tests} {'test' if tests == 1 else 'tests'}"
        " (methods x primary metrics). A primary metric without a star shows no clear change,"
        " which is not the same as no change; its interval may leave out 0, because Holm corrects"
        " the tests and not the intervals. Other metrics are not tested: their intervals stand"
        " alone."
    )


def _missing(records: Records, last: Sequence[Cell]) -> list[str]:
    lines = []
    if records.missing:
        found = _gathered(records.missing)
        more = len(found) - LISTED
        said = "; ".join(found[:LISTED]) + (f"; and {more} more" if more > 0 else "")
        lines.append(f"Missing (shown as -, never as 0): {said}.")
    if empty := _empty(last):
        lines.append(
            "Without a value because there is nothing to divide by (shown as -):"
            f" {'; '.join(empty)}."
        )
    if any(0 < cell.n_seeds < cell.seeds_planned for cell in last):
        lines.append(
            "† some of the planned training seeds are missing; the cell speaks for those that are"
            " there."
        )
    if any(cell.verdict == "other questions" for cell in last):
        lines.append(
            "(other questions): the row answered other questions than the baseline, so no"
            " difference is taken; answer both again."
        )
    return lines


def _gathered(missing: Sequence[str]) -> list[str]:
    """``row, seed, round: what is missing`` with all that one row's round lacks said together."""
    rounds: dict[str, list[str]] = {}
    for where, _, what in (text.partition(": ") for text in missing):
        rounds.setdefault(where, []).append(what)
    lines = []
    for where, parts in rounds.items():
        ungraded = [part.removesuffix(UNGRADED) for part in parts if part.endswith(UNGRADED)]
        others = [part for part in parts if not part.endswith(UNGRADED)]
        asked = (
            [
                f"{', '.join(map(shown, ungraded))} {'is' if len(ungraded) == 1 else 'are'} not"
                " graded yet"
            ]
            if ungraded
            else []
        )
        lines.append(f"{where}: {', '.join([*others, *asked])}")
    return lines


def _empty(last: Sequence[Cell]) -> list[str]:
    """Cells of graded rows that have no value: a benchmark's metrics that are empty in the same
    rows are said together."""
    graded = [cell for cell in last if cell.questions]
    said = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in graded):
        mine = [cell for cell in graded if cell.benchmark == benchmark]
        rows = tuple(dict.fromkeys(cell.label for cell in mine))
        lacking: dict[tuple[str, ...], list[str]] = {}
        for metric in dict.fromkeys(cell.metric for cell in mine):
            of = {
                cell.label for cell in mine if cell.metric == metric and not np.isfinite(cell.value)
            }
            if of:
                lacking.setdefault(tuple(row for row in rows if row in of), []).append(
                    shown(metric)
                )
        for labels, metrics in lacking.items():
            said.append(
                f"{shown(benchmark)} / {', '.join(metrics)}"
                f" ({'every row' if labels == rows else ', '.join(labels)})"
            )
    return said


def _seeds(records: Records) -> list[str]:
    single = [row.label for row in records.methods if row.rounds and len(row.seeds) == 1]
    several = [row.label for row in records.methods if row.rounds and len(row.seeds) > 1]
    lines = []
    if single:
        lines.append(
            f"One training seed ({', '.join(single)}): the interval speaks for this checkpoint"
            " only, not for another training."
        )
    if several:
        lines.append(
            f"Several training seeds ({', '.join(several)}): value, interval and test take each"
            " image's counts averaged over the seeds, and speak for these checkpoints; what"
            " another training would give is told by the seeds' own interval."
        )
    return lines


def _size(records: Records, last: Sequence[Cell]) -> list[str]:
    lines = []
    sizes = {shown(cell.benchmark): cell.pictures for cell in last if cell.pictures}
    if records.limit is not None:
        said = (
            ", ".join(f"{name} {pictures:,}" for name, pictures in sizes.items())
            or "none graded yet"
        )
        lines.append(
            f"The study is limited to {records.limit:,} a benchmark; images answered: {said}."
        )
    few = [name for name, pictures in sizes.items() if pictures < FEW]
    if few:
        lines.append(
            f"Fewer than {FEW} images ({', '.join(few)}): such intervals are too narrow (they"
            " hold the truth in about 90 % of cases, not 95 %) and only large differences can be"
            " seen. A try-out, not a result."
        )
    return lines


def _detectable(last: Sequence[Cell]) -> list[str]:
    """The smallest true difference each primary metric could have shown, the range over methods."""
    parts = []
    for key in dict.fromkeys((cell.benchmark, cell.metric) for cell in last if cell.primary):
        mine = [cell for cell in last if (cell.benchmark, cell.metric) == key]
        found = [
            cell.detectable for cell in mine if np.isfinite(cell.detectable) and cell.detectable > 0
        ]
        if found:
            places = mine[0].places
            low, high = f"{min(found):.{places}f}", f"{max(found):.{places}f}"
            parts.append(f"{mine[0].full_name} {low}" + (f" to {high}" if low != high else ""))
    if not parts:
        return []
    return [
        "Smallest true difference that a single test finds in 80 % of cases at 0.05 (Holm asks for"
        " somewhat more): " + ", ".join(parts) + "."
    ]


def _unscored(last: Sequence[Cell]) -> list[str]:
    if not any(cell.unscored for cell in last):
        return []
    return [
        "Unscored answers (unreadable or without an answer) are counted in a column of their own,"
        " never as wrong or 0."
    ]


def _mcnemar(records: Records) -> list[str]:
    """One sentence a benchmark: gained/lost questions and p, a training seed after the other; the
    first explains the test."""
    tests = question_tests(records)
    lines: list[str] = []
    for benchmark in dict.fromkeys(name for name, _, _, _ in tests):
        parts = []
        for row in records.methods:
            mine = [
                (seed, test)
                for name, label, seed, test in tests
                if (name, label) == (benchmark, row.label)
            ]
            if mine:
                said = "; ".join(
                    f"{test.gained} gained, {test.lost} lost, p {p_text(test.p)}"
                    for _, test in mine
                )
                parts.append(f"{row.label} {said}")
        how = (
            " (a training seed after the other; it takes questions as independent, which those of"
            " one image are not)"
        )
        asked = f"Exact McNemar on the questions of {shown(benchmark)} scored 0 or 1"
        lines.append(f"{asked}{'' if lines else how}: {' / '.join(parts)}.")
    return lines


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _facts(records: Records) -> list[str]:
    facts = records.facts
    lines = []
    for name, words in (
        ("base", "Base model"),
        ("pool", "Training pool"),
        ("versions", "Versions"),
        ("hardware", "Hardware"),
    ):
        if found := facts.get(name):
            lines.append(f"{words}: {' / '.join(found)}.")
    if broken := facts.get("unreadable"):
        named = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        lines.append(
            f"Images of the pool that could not be read and were passed over: {len(broken)}:"
            f" {named}."
        )
    return [*lines, *facts.get("leaks", ()), *facts.get("provenance", ())]


def reported(references: Sequence[str]) -> list[str]:
    """The sources of the literature's numbers; nothing where the table shows none."""
    if not references:
        return []
    sources = " ".join(f"[{place}] {text}." for place, text in enumerate(references, start=1))
    return [
        'Columns named "reported" hold what papers report, as they print it, not measured here and'
        " never compared with or ranked among what is; in brackets the source and how far it was"
        f" checked: {sources}"
    ]
