"""The summary table: its rows by round, its marks, and its forms."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.reporting.comparison import compare
from harness.reporting.display_names import base_name, row_name
from harness.reporting.results import load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables import html as table_html
from harness.reporting.tables import latex as table_latex
from harness.reporting.tables import summary
from harness.reporting.tables import text as table_text
from harness.reporting.tables.cells import Block
from tests.reporting.records import write_study
from tests.reporting.test_reference import REFERENCE, ROUNDS
from tests.reporting.test_renderings import compiles, hostile_table

pytestmark = pytest.mark.thorough

LATEX = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-base)"
)


@pytest.fixture(scope="module")
def reference() -> tables.ComparedStudy:
    """The two committed comparisons as one: methods of three rounds, controls and reference rows
    of one, three seeds."""
    comparison, single_round = tables.load(ROUNDS), load_results(REFERENCE)
    rounds = comparison.study
    rows = [
        *(row for row in rounds.rows if row.role != "control"),
        *(
            replace(row, seeds=(0, 1, 2))
            for row in single_round.rows
            if row.role in ("control", "reference")
        ),
    ]
    first = rounds.grades["label"].isin([row.label for row in rows])
    second = single_round.grades["label"].isin([row.label for row in rows if row.role != "method"])
    second &= (single_round.grades["seed"] < 3) & ~single_round.grades["label"].isin(
        rounds.grades["label"][first]
    )
    grades = pd.concat([rounds.grades[first], single_round.grades[second]], ignore_index=True)
    study = replace(rounds, rows=tuple(rows), grades=grades)
    cells = tuple(compare(study))
    return replace(comparison, study=study, cells=cells, table=tables.build(study, cells))


def shown(comparison: tables.ComparedStudy) -> Block:
    assert comparison.table.summary is not None
    return comparison.table.summary


def test_controls_stand_below_their_method_after_the_same_round(
    reference: tables.ComparedStudy,
) -> None:
    block = shown(reference)
    heads = [line.head for line in block.lines]
    controls = [f"control: {name}" for name in ("shuffled", "random rejected", "sft")]
    assert heads == [
        "synthetic (untrained)",
        *("SENA, round 1 (not tested)", *controls),
        *("SIMA, round 1 (not tested)", *controls),
        *("CSR, round 1 (not tested)", *controls),
        *("SENA, round 3", "SIMA, round 3", "CSR, round 3"),
        *("GT-DPO, round 1", "oracle, round 1"),
    ]
    assert [line.group for line in block.lines[-3:]] == ["", "reference rows", "reference rows"]
    assert [column.text for column in block.columns] == [
        *("CHAIR-s ↓ %", "CHAIR-i ↓ %", "CHAIR recall ↑ %"),
        *("POPE accuracy ↑ %", "POPE yes ratio %", "VQA accuracy ↑ %"),
    ]
    for text in ("Base synthetic", "pool synthetic", "training seeds 0, 1, 2", "rounds 1 or 3"):
        assert text in block.caption.split("; ")


def test_a_cell_is_one_number_and_at_most_two_marks(reference: tables.ComparedStudy) -> None:
    block = shown(reference)
    cells = [cell for line in block.lines for cell in line.cells]
    assert all(re.fullmatch(r"\d+\.\d[*°]?[†§]?", cell.text) for cell in cells)
    assert {mark for cell in cells for mark in cell.mark} == {"*", "§"}
    values = {cell.key: cell for cell in reference.cells if cell.last}
    result = values["sima", "synthetic_chair", "chair_i"]
    second_cell = next(line for line in block.lines if line.head == "SIMA, round 3").cells[1]
    assert second_cell.text == f"{result.value:.1f}*§"
    reached = replace(result, reached_by=("sima sft",), untold_by=())
    again = summary.block(reference.study, [*reference.cells, reached])
    assert next(line for line in again.lines if line.head == "SIMA, round 3").cells[1].mark == "*†"
    assert "† does not exceed a control" in again.caption


def test_controls_are_left_out_first(reference: tables.ComparedStudy) -> None:
    short = summary.block(reference.study, reference.cells, max_rows=9)
    assert [line.head for line in short.lines if line.head.startswith("control")] == []
    assert len(short.lines) == 9
    assert short.caption.endswith("; rows only in the long tables: 9")


def test_the_summary_stands_first_in_every_form(
    reference: tables.ComparedStudy, tmp_path: Path
) -> None:
    out = write_study(tmp_path, seeds=(0, 1), images=60)
    printed = tables.write(out)
    for text in (printed, *((out / f"table.{end}").read_text() for end in ("md", "html", "tex"))):
        assert 0 < text.index("Summary") < text.index("SENA") < text.index("synthetic CHAIR")
        assert "SENA, round" not in text  # one round for all
    with (out / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    comparison = tables.load(out)
    assert [row["label"] for row in rows] == ["untrained", "sena", "sima"]
    for row, line in zip(rows, shown(comparison).lines, strict=True):
        for column, cell in zip(shown(comparison).columns, line.cells, strict=True):
            assert row[column.text] + row[f"{column.text} marks"] == cell.text
    screen = table_text.terminal(tables.screen(reference), 80)
    assert max(map(len, screen.splitlines())) <= 80
    assert len(re.findall("^SENA, round 3 ", screen, re.M)) == 1  # not broken into parts
    html = table_html.block_fragment(shown(reference))
    assert '<td class="better" data-heading="CHAIR-s\u00a0↓\u00a0%">22.4*</td>' in html


def test_names_are_those_of_the_papers() -> None:
    assert [base_name(name) for name in ("llava-1.5-7b", "qwen2.5-vl-3b", "my/llava-1.5-7b")] == [
        *("LLaVA-1.5-7B", "Qwen2.5-VL-3B"),
        "my/llava-1.5-7b",
    ]
    assert row_name("sena noise_step=100") == "SENA noise_step=100"
    assert row_name("untrained at sena length") == "untrained at SENA length"
    assert row_name("my sena") == "my sena"


def test_latex_is_one_float(reference: tables.ComparedStudy) -> None:
    wide = shown(reference)
    wide = replace(
        wide,
        columns=wide.columns * 4,
        lines=tuple(replace(line, cells=line.cells * 4) for line in wide.lines),
    )
    for block, tabulars in ((shown(reference), 1), (wide, 4)):
        text = table_latex.summary(block)
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == tabulars
        assert r"\small" in text
        lines = [line for line in text.splitlines() if line.startswith("SIMA, round 3")]
        assert len(lines) == tabulars
        assert sum(line.count("&") for line in lines) == len(block.columns)
    assert "34.1\\textsuperscript{{*}\\S{}}" in text


@pytest.mark.slow
@LATEX
def test_summary_tex_compiles_in_two_columns(
    reference: tables.ComparedStudy, tmp_path: Path
) -> None:
    for block in (shown(reference), hostile_table().blocks[0]):
        log = compiles(
            "\\documentclass[twocolumn]{article}\n\\usepackage{array,booktabs}\n"
            f"\\begin{{document}}Text.\n{table_latex.summary(block)}\\end{{document}}\n",
            tmp_path,
        )
        assert "undefined" not in log
        if block is shown(reference):
            assert "Overfull" not in log
            assert "Float too large" not in log
