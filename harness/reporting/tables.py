"""The comparison table: one object, rendered for the terminal, as Markdown and as CSV, and what must stand below it.

A block a benchmark, a row a method, a cell such as ``8.1 (-2.3 [-3.4, -1.2])* better``. The CSV is the long form: a line a
cell, numbers unrounded.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.reporting import notes
from harness.reporting.cells import Cell, as_frame, compare
from harness.reporting.frames import Records, Row, read, shown
from harness.store import write_bytes

WIDTH = 160
MISSING = "-"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A small table: the first column names its rows and is repeated where a terminal's width splits the block."""

    heading: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything a reader needs: what was asked, a reading in words, blocks, notes. Plain text, escaped when rendered."""

    title: str
    question: str
    reading: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def write(out: Path) -> str:
    """Write ``table.md`` and ``table.csv`` into a study's folder from its records; the table as text for a terminal.

    Raises:
        Problem: the folder holds no study, or a record is broken.
    """
    records = read(out)
    cells = compare(records)
    table = build(records, cells)
    write_bytes(out / "table.md", render_markdown(table).encode())
    write_bytes(out / "table.csv", as_frame(cells).to_csv(index=False).encode())
    return render_terminal(table)


def build(records: Records, cells: Sequence[Cell]) -> Table:
    blocks = [_benchmark_block(records, cells, benchmark.name) for benchmark in records.benchmarks]
    optional = [_rounds_block(cells), _seeds_block(records, cells), _made_block(records), _funnel_block(records)]
    return Table(
        title=records.name,
        question=records.question,
        reading=tuple(notes.reading(records, cells)),
        blocks=(*blocks, *(block for block in optional if block is not None)),
        notes=tuple(notes.footnotes(records, cells)),
    )


def number(value: float, places: int, *, sign: bool = False) -> str:
    """A rounded number; a difference that rounds to nothing carries no sign."""
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    return f"{0:.{places}f}" if float(text) == 0 else text


def cell_text(cell: Cell) -> str:
    """``8.1 (-2.3 [-3.4, -1.2])* better``; the baseline has its value alone, † marks a row that lacks planned seeds."""
    if not np.isfinite(cell.value):
        return MISSING
    places = cell.places
    text = number(cell.value, places)
    if np.isfinite(cell.difference):
        bounds = f" [{number(cell.lo, places)}, {number(cell.hi, places)}]" if np.isfinite(cell.lo) else ""
        text += f" ({number(cell.difference, places, sign=True)}{bounds})"
    if cell.verdict in ("better", "worse"):
        text += f"* {cell.verdict}"
    elif cell.verdict == "other questions":
        text += " (other questions)"
    return text + ("†" if cell.n_seeds < cell.seeds_planned else "")


def column_text(cell: Cell) -> str:
    return cell.heading + (" (primary)" if cell.primary else "")


def _benchmark_block(records: Records, cells: Sequence[Cell], benchmark: str) -> Block:
    mine = [cell for cell in cells if cell.benchmark == benchmark and cell.last]
    first = [cell for cell in mine if cell.label == records.baseline]
    rows = []
    for row in records.rows:
        its = [cell for cell in mine if cell.label == row.label]
        seen = its[0].questions * its[0].n_seeds
        unscored = f"{its[0].unscored:,} of {seen:,}" if seen else MISSING
        rows.append((row.label, *(cell_text(cell) for cell in its), unscored))
    sizes = sorted({(cell.pictures, cell.questions) for cell in mine if cell.questions})
    said = " / ".join(f"{pictures:,} pictures, {questions:,} questions" for pictures, questions in sizes) or "not graded yet"
    return Block(
        heading=f"{shown(benchmark)} ({first[0].group})",
        caption=f"{said}; {records.split} split; version {first[0].version}",
        header=("run", *(column_text(cell) for cell in first), "unscored"),
        rows=tuple(rows),
    )


def _rounds_block(cells: Sequence[Cell]) -> Block | None:
    """Each graded round on the primary metrics, where a run has more than one."""
    several = {cell.label for cell in cells if not cell.last}
    mine = [cell for cell in cells if cell.label in several and cell.primary]
    if not mine:
        return None
    columns = list(dict.fromkeys((cell.benchmark, cell.metric) for cell in mine))
    found = {(cell.label, cell.round, cell.benchmark, cell.metric): cell for cell in mine}
    rows = []
    for label, number_ in dict.fromkeys((cell.label, cell.round) for cell in mine):
        its = [found.get((label, number_, *column)) for column in columns]
        rows.append((f"{label}, round {number_}", *(cell_text(cell) if cell else MISSING for cell in its)))
    return Block(
        heading="Round by round",
        caption="primary metrics; only the last round of a run is tested",
        header=("run", *(f"{shown(benchmark)} {shown(metric)}" for benchmark, metric in columns)),
        rows=tuple(rows),
    )


def _seeds_block(records: Records, cells: Sequence[Cell]) -> Block | None:
    """Each training seed's own value, and Student's interval of the difference over the seeds."""
    mine = [cell for cell in cells if cell.primary and cell.last and cell.n_seeds > 1]
    if not mine:
        return None
    seeds = sorted({seed for cell in mine for seed in cell.seeds.split()}, key=int)
    rows = []
    for cell in mine:
        places = cell.places
        values = dict(zip(cell.seeds.split(), cell.seed_values.split(), strict=True))
        each = (number(float(values[seed]), places) if seed in values else MISSING for seed in seeds)
        over = MISSING
        if np.isfinite(cell.seed_lo):
            over = f"{number(cell.seed_mean, places, sign=True)} [{number(cell.seed_lo, places)}, {number(cell.seed_hi, places)}]"
        rows.append((cell.label, shown(cell.benchmark), cell.heading, *each, over))
    return Block(
        heading="Training seeds apart",
        caption=f"difference from {records.baseline}: mean over training seeds and its 95 % t-interval",
        header=("run", "benchmark", "metric", *(f"seed {seed}" for seed in seeds), "difference over seeds"),
        rows=tuple(rows),
    )


def totals(records: Records, label: str) -> pd.Series[float]:
    """A row's sums over its rounds, averaged over the seeds whose every round is finished; nan where none is."""
    mine = records.stages[records.stages["label"] == label].drop(columns=["label", "round"]).astype("float64")
    unfinished = mine.isna().groupby(mine["seed"]).any()
    return mine.groupby("seed").sum().mask(unfinished).mean()


def _count(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{round(seconds / 60)} min" if whole < 7200 else f"{seconds / 3600:.1f} h"


def _made_block(records: Records) -> Block | None:
    rows = [_made_row(records, row) for row in records.rows]
    return Block(
        heading="How each row was made",
        caption="all rounds together, mean over training seeds",
        header=(
            "run", "supervision", "seeds", "rounds", "pictures", "prompts", "pairs", "dropped", "pairs used", "steps",
            "tokens generated", "tokens trained", "making pairs", "training",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _made_row(records: Records, row: Row) -> tuple[str, ...]:
    if row.rounds == 0:
        return (row.label, row.supervision, "none", *["none"] * 11)
    sums = totals(records, row.label)
    names = ("pairs", "dropped", "used", "steps", "tokens_generated", "tokens_trained")
    counted = [_count(float(sums[name])) for name in names]
    prompts = _count(float(sums["pairs"] + sums["dropped"]))
    times = [duration(float(sums[name])) for name in ("seconds_pairs", "seconds_train")]
    made = _count(float(sums["images"]))
    return (row.label, row.supervision, str(len(row.seeds)), str(row.rounds), made, prompts, *counted, *times)


def _funnel_block(records: Records) -> Block | None:
    """What became of the prompts: pairs, or the reason for having none."""
    labels = [row.label for row in records.rows if row.rounds]
    sums = {label: totals(records, label) for label in labels}
    labels = [label for label in labels if np.isfinite(sums[label]["pairs"])]
    if not labels:
        return None
    reasons = records.drops.groupby("reason")["count"].sum().sort_values(ascending=False)
    rows = [("prompts made", *(_count(float(sums[label]["pairs"] + sums[label]["dropped"])) for label in labels))]
    for reason in (None, *map(str, reasons.index)):
        texts = []
        for label in labels:
            made = float(sums[label]["pairs"] + sums[label]["dropped"])
            mean = float(sums[label]["pairs"]) if reason is None else drops_mean(records, label, reason)
            texts.append(f"{_count(mean)} ({100 * mean / made:.1f} %)" if made else "0")
        rows.append(("became a pair" if reason is None else f"dropped: {reason}", *texts))
    return Block(
        heading="What became of the prompts",
        caption="all rounds together, mean over training seeds; prompts made = pairs + dropped",
        header=("prompts", *labels),
        rows=tuple(rows),
    )


def drops_mean(records: Records, label: str, reason: str) -> float:
    """Drops of this reason summed over rounds, averaged over the seeds whose pairs are all made (a seed without it has 0)."""
    stages = records.stages[records.stages["label"] == label]
    seeds = set(stages["seed"]) - set(stages.loc[stages["pairs"].isna(), "seed"])
    drops = records.drops
    mine = drops[(drops["label"] == label) & (drops["reason"] == reason) & drops["seed"].isin(seeds)]
    return float(mine["count"].sum()) / len(seeds)


def printable(text: str) -> str:
    """Model and data text on one line, without control characters (a terminal would obey them)."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def render_terminal(table: Table, width: int = WIDTH) -> str:
    lines = [printable(table.title), *textwrap.wrap(printable(table.question), width), ""]
    lines += _bullets(table.reading, width)
    for block in table.blocks:
        lines += ["", *textwrap.wrap(printable(f"{block.heading}: {block.caption}"), width)]
        cells = [[printable(text) for text in row] for row in (block.header, *block.rows)]
        for part in _fit(cells, width):
            widths = [max(len(row[column]) for row in part) for column in range(len(part[0]))]
            for index, row in enumerate(part):
                padded = [
                    text.ljust(size) if not place else text.rjust(size)
                    for place, (text, size) in enumerate(zip(row, widths, strict=True))
                ]
                lines.append("  ".join(padded).rstrip())
                if index == 0:
                    lines.append("  ".join("-" * size for size in widths))
            lines.append("")
        lines.pop()
    return "\n".join([*lines, "", *_bullets(table.notes, width)]) + "\n"


def _bullets(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(f"- {printable(text)}", width, subsequent_indent="  ")]


def _fit(rows: list[list[str]], width: int) -> list[list[list[str]]]:
    """The block's columns in parts that fit the width; each part begins with the first column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    parts: list[list[int]] = []
    room = 0
    for column in range(1, len(widths)):
        if not parts or room < widths[column] + 2:
            parts.append([0])
            room = width - widths[0]
        parts[-1].append(column)
        room -= widths[column] + 2
    return [[[row[column] for column in part] for row in rows] for part in parts]


def escape(text: str) -> str:
    """Plain text inside Markdown: no cell is broken, no markup or HTML begins."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\|*`_~":
        text = text.replace(char, "\\" + char)
    return text.replace("](", "]\\(")


def render_markdown(table: Table) -> str:
    lines = [f"# {escape(table.title)}", "", escape(table.question), ""]
    lines += [f"- {escape(text)}" for text in table.reading]
    for block in table.blocks:
        lines += ["", f"## {escape(block.heading)}", "", f"{escape(block.caption)}", ""]
        lines.append("| " + " | ".join(map(escape, block.header)) + " |")
        lines.append("|" + "|".join([" :-- "] + [" --: "] * (len(block.header) - 1)) + "|")
        lines += ["| " + " | ".join(map(escape, row)) + " |" for row in block.rows]
    return "\n".join([*lines, "", "## Notes", "", *(f"- {escape(text)}" for text in table.notes)]) + "\n"
