"""Builds the table from a study's results, and writes it to files.

A block a benchmark, a row a run, a cell such as ``8.1 (-2.3 [-3.4, -1.2])* better``. Numbers
that papers report have columns of their own. ``table.csv`` is the long form: a line a measured
result, numbers unrounded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.artifacts.results_folder import write_bytes
from harness.reporting import leakage, literature, published_values
from harness.reporting.comparison import MetricResult, as_frame, compare
from harness.reporting.contrasts import Key, method_contrasts
from harness.reporting.display_names import (
    display_name,
    grouped,
    metric_name,
    row_name,
    with_trainer,
)
from harness.reporting.leakage import Leaks
from harness.reporting.results import BenchmarkColumns, StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables import contrast_blocks, notes, provenance, stage_blocks, summary
from harness.reporting.tables import html as table_html
from harness.reporting.tables import latex as table_latex
from harness.reporting.tables import text as table_text
from harness.reporting.tables.cells import (
    MISSING,
    Block,
    Column,
    Table,
    TableCell,
    TableRow,
    number,
    printed,
    table_cell,
    text_block,
    with_interval,
)

GROUPS: Mapping[str, str] = {
    "baseline": "",
    "method": "",
    "reference": "reference rows: trained with supervision or exact truth that methods do not have",
    "control": "controls: a method with one part removed",
    "matched": "matched baselines: the baseline's captions cut, or its yes/no shifted; not trained",
}
"""The headings of the rows by role, in the table's order."""

SENTENCES = 4
"""How many sentences of the summary end a run."""
MANY_METRICS = 7
"""A benchmark with more directed metrics than this shows only its primary ones against the matched
baselines; ``table.csv`` has them all. Official benchmarks split theirs by category."""


@dataclass(frozen=True, kw_only=True)
class ComparedStudy:
    """A study read and compared: its results (without leaked images where that was asked), the
    result of each metric, and the table."""

    study: StudyResults
    cells: tuple[MetricResult, ...]
    table: Table
    leaks: Leaks


def load(out: Path, *, exclude_leaks: bool = False) -> ComparedStudy:
    """Read and compare a results folder; no model is needed.

    Raises:
        UserError: the folder holds no study, a file is broken, or every image leaked.
    """
    study, leaks = leakage.load_with_leaks(out, exclude_leaks=exclude_leaks)
    facts = {**study.facts, "provenance": tuple(provenance.sentences(study))}
    study = replace(study, facts=facts)
    cells = tuple(compare(study))
    table = build(study, cells)
    return ComparedStudy(study=study, cells=cells, table=table, leaks=leaks)


def write(
    out: Path, *, exclude_leaks: bool = False, comparison: ComparedStudy | None = None
) -> str:
    """Write ``table.md``, ``.tex``, ``.html``, ``.csv``, ``summary.tex``, ``.csv`` and
    ``leaks.csv`` into a results folder; return the table for a terminal. ``comparison``: what
    ``load`` returned, to save its time.

    Raises:
        UserError: as in ``load``.
    """
    comparison = comparison or load(out, exclude_leaks=exclude_leaks)
    for name, text in (
        ("table.md", table_text.markdown(comparison.table)),
        ("table.tex", table_latex.fragment(comparison.table)),
        ("table.html", table_html.document(comparison.table)),
        ("table.csv", as_frame(comparison.cells).to_csv(index=False)),
        ("summary.tex", table_latex.summary(summary.block(comparison.study, comparison.cells))),
        ("summary.csv", summary.as_csv(comparison.study, comparison.cells)),
    ):
        write_bytes(out / name, text.encode())
    leakage.write(out, comparison.leaks)
    return table_text.terminal(comparison.table)


def screen(comparison: ComparedStudy) -> Table:
    """The end of a run: the summary and its first sentences."""
    return replace(
        comparison.table,
        summary=summary.block(comparison.study, comparison.cells, summary.SCREEN_ROWS),
        reading=comparison.table.reading[: SENTENCES + len(_base_sentences(comparison.study))],
        blocks=(),
        notes=(),
    )


def build(study: StudyResults, cells: Sequence[MetricResult]) -> Table:
    references = literature.references(study.rows, study.benchmarks)
    contrasts = method_contrasts(study)
    ahead = contrast_blocks.truly_ahead(study, cells, contrasts)
    optional = (
        published_values.block(published_values.values(study)),
        contrast_blocks.controls_block(study),
        contrast_blocks.methods_block(contrasts),
        contrast_blocks.order_block(study, contrasts),
        _matched_block(cells),
        _rounds_block(cells),
        _seeds_block(study, cells),
        stage_blocks.cost_block(study, _rows_by_role(study)),
        stage_blocks.prompts_block(study),
        stage_blocks.answers_block(study),
        *stage_blocks.pair_blocks(study),
    )
    return Table(
        title=study.name,
        question=study.question,
        reading=(*_base_sentences(study), *notes.reading(study, cells)),
        summary=summary.block(study, cells),
        blocks=(
            *(
                _with_display_names(_benchmark_block(study, cells, benchmark, references, ahead))
                for benchmark in study.benchmarks
            ),
            *map(_with_display_names, filter(None, optional)),
        ),
        notes=(*notes.footnotes(study, cells), *notes.reported(references)),
    )


def _with_display_names(block: Block) -> Block:
    """The block with its rows' display names, where its lines are rows of the study."""
    if block.corner not in ("run", "rows", "method"):
        return block
    lines = (replace(line, head=row_name(line.head)) for line in block.lines)
    return replace(block, lines=tuple(lines))


def _base_sentences(study: StudyResults) -> list[str]:
    return published_values.base_sentences(study, published_values.values(study))


def _rows_by_role(study: StudyResults) -> list[Row]:
    """The rows by role, in the order of ``GROUPS``."""
    return sorted(study.rows, key=lambda row: [*GROUPS].index(row.role))


def _benchmark_block(
    study: StudyResults,
    cells: Sequence[MetricResult],
    benchmark: BenchmarkColumns,
    references: Sequence[str],
    ahead: Collection[Key],
) -> Block:
    of_benchmark = [cell for cell in cells if cell.benchmark == benchmark.name and cell.last]
    base = [cell for cell in of_benchmark if cell.label == study.baseline]
    reported = literature.matching(study.rows, benchmark)
    lines = []
    for run in _rows_by_role(study):
        row_cells = [cell for cell in of_benchmark if cell.label == run.label]
        if not row_cells:
            continue  # the study grades this row on other benchmarks only
        answers = row_cells[0].questions * row_cells[0].n_seeds
        unscored = f"{row_cells[0].unscored:,} of {answers:,}" if answers else MISSING
        row = [table_cell(cell, ahead=cell.key in ahead) for cell in row_cells]
        row += [literature.of_row(run, numbers, references) for numbers in reported.values()]
        row.append(TableCell(value=unscored))
        lines.append(
            TableRow(
                head=with_trainer(run.label, run.trainer), cells=tuple(row), group=GROUPS[run.role]
            )
        )
    for model, name in literature.other_papers_rows(study.rows, reported):
        row = [TableCell(value=MISSING)] * len(base)
        row += [
            literature.of_name(model, name, numbers, references) for numbers in reported.values()
        ]
        row.append(TableCell(value=MISSING))
        lines.append(TableRow(head=name, cells=tuple(row), group=literature.GROUP))
    sizes = sorted({(cell.images, cell.questions) for cell in of_benchmark if cell.questions})
    texts = [f"{images:,} images, {questions:,} questions" for images, questions in sizes]
    headings = {cell.metric: cell.heading for cell in base}
    return Block(
        heading=f"{display_name(benchmark.name)} ({benchmark.group})",
        caption=(
            f"{' / '.join(texts) or 'not graded yet'}; {study.split} split; version"
            f" {benchmark.version}"
        ),
        corner="run",
        columns=(
            *(Column(heading=cell.heading, primary=cell.primary) for cell in base),
            *(literature.column(headings[name]) for name in reported),
            Column(heading="unscored"),
        ),
        lines=tuple(lines),
    )


def _matched_block(cells: Sequence[MetricResult]) -> Block | None:
    """Each row against the baseline at the row's caption length or share of yes."""
    matched = (cell for cell in cells if cell.matched_by and cell.better != "none")
    comparable = [cell for cell in matched if np.isfinite([cell.value, cell.matched_value]).all()]
    if not comparable:
        return None
    directed = grouped(dict.fromkeys(cell.column for cell in comparable))
    shortened = [name for name, metrics in directed.items() if len(metrics) > MANY_METRICS]
    caption = (
        "the row against the baseline's own answers, cut to the row's mean length or shifted to its"
        " share of yes; paired intervals"
    )
    if shortened:
        names = ", ".join(map(display_name, shortened))
        caption += f"; of {names} the primary metrics (table.csv has the others)"
    rows = [
        (
            cell.label,
            display_name(cell.benchmark),
            cell.heading,
            number(cell.value, cell.decimals),
            row_name(cell.matched_by),
            number(cell.matched_value, cell.decimals),
            with_interval(cell.matched_difference, cell.matched_lo, cell.matched_hi, cell.decimals),
        )
        for cell in comparable
        if cell.primary or cell.benchmark not in shortened
    ]
    return text_block(
        heading="At equal length, or equal share of yes",
        caption=caption,
        header=("run", "benchmark", "metric", "value", "against", "its value", "difference"),
        rows=rows,
    )


def _rounds_block(cells: Sequence[MetricResult]) -> Block | None:
    """Primary metrics after each graded round; None: no row has more than one."""
    several = {cell.label for cell in cells if not cell.last}
    primary = [cell for cell in cells if cell.label in several and cell.primary]
    if not primary:
        return None
    columns = list(dict.fromkeys(cell.column for cell in primary))
    rows = []
    for (label, round), cells_of in grouped(
        ((cell.label, cell.round), cell) for cell in primary
    ).items():
        texts = {cell.column: table_cell(cell).text for cell in cells_of}
        rows.append(
            (f"{label}, round {round}", *(texts.get(column, MISSING) for column in columns))
        )
    names = (metric_name(benchmark, display_name(metric)) for benchmark, metric in columns)
    return text_block(
        heading="Round by round",
        caption="primary metrics; only a row's last round is tested",
        header=("run", *names),
        rows=rows,
    )


def _seeds_block(study: StudyResults, cells: Sequence[MetricResult]) -> Block | None:
    """Each training seed's value, and what trainings and images add to the standard error; None: no
    row has more than one seed."""
    primary = [cell for cell in cells if cell.primary and cell.last and cell.n_seeds > 1]
    if not primary:
        return None
    seeds = sorted({seed for cell in primary for seed in cell.by_seed}, key=int)
    rows = [
        (
            cell.label,
            display_name(cell.benchmark),
            cell.heading,
            *(printed(cell.by_seed.get(seed, np.nan), cell.decimals) for seed in seeds),
            printed(cell.se_training, 2),
            printed(cell.se_images, 2),
        )
        for cell in primary
    ]
    names = (f"seed {seed}" for seed in seeds)
    return text_block(
        heading="Training seeds apart",
        caption=(
            f"values, and the two parts of the standard error of the difference from"
            f" {study.baseline}: from the trainings and from the images"
        ),
        header=("run", "benchmark", "metric", *names, "s.e. trainings", "s.e. images"),
        rows=rows,
    )
