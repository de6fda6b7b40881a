"""What a reader of the page needs before its numbers: the study's facts, the legend of a cell, and
one sentence a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.reporting.comparison import MetricResult
from harness.reporting.display_names import grouped, row_name
from harness.reporting.results import StudyResults
from harness.reporting.study_row import Row
from harness.reporting.tables.cells import (
    FEWER_SEEDS,
    MISSING,
    ONE_TRAINING,
    REACHED,
    UNTOLD,
    Table,
)

CONTROLS: Mapping[str, str] = {
    "shuffled": (
        "{of}'s own pairs; a coin decides for each pair which answer is the chosen one. It removes"
        " the preference."
    ),
    "random_rejected": (
        "{of}'s own chosen answers; each rejected answer comes from a pair about another image."
        " It removes the method's own rejected answers."
    ),
    "sft": (
        "supervised training on {of}'s chosen answers, without any rejected answer. It removes the"
        " contrast."
    ),
}
"""What a control does, by the kind in its settings; ``{of}`` is the row it belongs to."""

SENTENCES: Mapping[str, str] = {
    "sena": (
        "the model asks questions about an image and improves its own answers; it rejects its"
        " answers to the noised image."
    ),
    "sima": "the model compares two of its answers with a reference answer and prefers one.",
    "csr": "beam search over sentences; CLIP and the model's own probabilities rank the answers.",
    "gt_dpo": (
        "a reference row: the reference answer is chosen, the model's own answer is rejected."
    ),
    "oracle": "a reference row: SIMA's answers, but the exact truth decides which one is chosen.",
}
"""What a row does, by the name of its method."""


def facts(study: StudyResults) -> list[tuple[str, str]]:
    """The facts of the study as (name, text). Facts that are not stored are left out."""
    trained = [row for row in study.rows if row.rounds and row.role != "matched"]
    sizes = study.grades.groupby("benchmark")["cluster"].nunique()
    images = [f"{count:,}" for count in sorted(set(sizes))]
    limit = f", limited to {study.limit:,}" if study.limit is not None else ""
    facts_by_name = {
        "Base": " / ".join(study.facts.get("base", ())) or study.base_row.base,
        "Pool": " / ".join(study.facts.get("pool", ())) or _grouped(trained, "pool"),
        "Pool images a round": _grouped(trained, "images"),
        "Training seeds": _grouped(trained, "seeds"),
        "Rounds": _grouped(trained, "rounds"),
        "Test images": f"{' or '.join(images)} a benchmark, {study.split} split{limit}"
        if images
        else "",
        "Versions": " / ".join(study.facts.get("versions", ())),
        "Hardware": " / ".join(study.facts.get("hardware", ())),
    }
    return [(name, text) for name, text in facts_by_name.items() if text]


def _grouped(rows: Sequence[Row], field: str) -> str:
    """A field's values; with the rows' names where rows differ: ``3 (SENA, CSR); 1 (GT-DPO)``."""
    values = ((getattr(row, field), row_name(row.label)) for row in rows)
    labels = grouped(
        (", ".join(map(str, value)) if isinstance(value, tuple) else f"{value}", label)
        for value, label in values
    )
    if len(labels) < 2:
        return "".join(labels)
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in labels.items())


def legend(study: StudyResults, table: Table, cells: Sequence[MetricResult]) -> list[list[str]]:
    """Lines [class of the sample, sample, meaning]; marks that the table does not hold are left
    out."""
    columns = [column for block in table.blocks for column in block.columns]
    lines = [
        ["", "9.1", "the value; in a benchmark's table it links to the questions behind it"],
        ["small", "-4.7 [-5.6, -3.8]", f"difference from {study.baseline} [95 % interval]"],
        ["better", "* better", "a clear gain, after Holm's correction"],
        ["worse", "* worse", "a clear loss, after Holm's correction"],
        ["", MISSING, "missing or not defined; never a zero"],
    ]
    if any(line.ahead for block in table.blocks for row in block.lines for line in row.cells):
        lines.append(["best", "9.1", "the best method, truly ahead of the next"])
    if any(cell.about == "training" for cell in cells):
        lines.append(["", ONE_TRAINING, "clear for this training, not for the method"])
    if any(cell.reached_by for cell in cells):
        lines.append(["", REACHED, "does not exceed a control: the gain is not the method's own"])
    if any(cell.untold_by for cell in cells):
        lines.append(["", UNTOLD, "whether it exceeds its controls cannot be told yet"])
    if any(0 < cell.n_seeds < cell.seeds_planned for cell in cells):
        lines.append(["", FEWER_SEEDS, "some of the planned training seeds are missing"])
    if any(column.reported for column in columns):
        lines.append(["reported", "9.1", "printed in a paper, not measured here"])
    return lines


def rows(study: StudyResults) -> list[tuple[str, str]]:
    """(labels, one sentence) of the rows, in the study's order. Matched baselines share one."""
    lines = [(row_name(row.label), _sentence(row)) for row in study.rows if row.role != "matched"]
    if len(lines) < len(study.rows):
        text = (
            f"{study.baseline}'s own answers, with its captions cut to a row's length or its yes/no"
            " answers shifted to a row's share of yes; nothing is trained."
        )
        lines.append((f"{study.baseline} at ...", text))
    return lines


def _sentence(row: Row) -> str:
    if row.role == "baseline":
        return "the base model as it is; every other row is compared with it."
    if row.method == "released":
        source = row.settings.get("source", "source not stored")
        return f"weights that authors released ({source}); only evaluated here."
    if row.varied is not None:
        return f"{row.varied.row} with {row.varied.field} = {row.varied.value}; all else equal."
    if row.role == "control":
        text = CONTROLS.get(str(row.settings.get("kind")), "a control of {of}.")
        return text.format(of=row.of or "the method")
    sees = f" It sees: {row.supervision}." if row.rounds else ""
    other = "a trained row." if row.rounds else "a model that is only evaluated."
    return SENTENCES.get(row.method, other) + sees
