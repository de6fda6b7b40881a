"""The page's sentences about rows, its tables that fit, and the index over several studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.cli import main as cli
from harness.reporting.page import head
from harness.reporting.page import write as page
from harness.reporting.study_row import Row
from harness.reporting.tables import build as tables
from harness.reporting.tables import summary
from harness.reporting.tables.cells import Block, Column, TableCell, TableRow
from methods.catalogue import METHODS
from methods.controls import Kind
from tests.reporting.page_study import HOSTILE
from tests.reporting.records import write_study
from tests.reporting.test_page import Markup


def test_every_shipped_row_has_its_sentence() -> None:
    assert set(METHODS) - {"untrained"} == set(head.SENTENCES)
    assert set(get_args(Kind)) == set(head.CONTROLS)
    rows = [
        Row(label=label, base="b", method="m", pool="p", needs=("image",), images=1, rounds=1,
            seeds=(0,), role="control", of="sena", settings={"kind": "sft"})
        for label in ("one", "two")
    ]  # fmt: skip
    lines = head.rows(SimpleNamespace(rows=rows, baseline="untrained"))  # type: ignore[arg-type]
    assert [label for label, _ in lines] == ["one", "two"]
    assert lines[0][1].startswith("supervised training on sena's chosen answers")


def test_a_wide_block_becomes_tables_that_fit() -> None:
    cells = tuple(TableCell(value="91.2", change="-10.5 [-12.2, -10.1]") for _ in range(30))
    block = Block(
        heading="many",
        caption="",
        corner="run",
        columns=tuple(Column(heading=f"metric {number}") for number in range(30)),
        lines=(TableRow(head="sena", cells=cells),),
    )
    tight, blocks = page.narrow(block)
    assert tight
    assert 1 < len(blocks) < 5
    assert [column for item in blocks for column in item.columns] == list(block.columns)
    assert [cell for item in blocks for cell in item.lines[0].cells] == list(cells)
    assert all(sum(page._widths(item, tight=True)) <= page.ROOM for item in blocks)
    short_block = replace(
        block, columns=block.columns[:3], lines=(TableRow(head="sena", cells=cells[:3]),)
    )
    assert page.narrow(short_block) == (False, [short_block])


@pytest.mark.thorough
def test_an_index_leads_to_several_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "sec <b>"):
        out = write_study(tmp_path / name, seeds=(0,), images=12, labels=("untrained", "sena"))
        study = read_json(Results(out).study)
        write_json(Results(out).study, {**study, "question": HOSTILE})
    comparison = tables.load(tmp_path / "first")
    tables.write(tmp_path / "first", comparison=comparison)
    cells = page.stored_cells(tmp_path / "first" / "table.csv")
    assert [cell.key for cell in cells] == [cell.key for cell in comparison.cells]
    assert [cell.reached_by for cell in cells] == [cell.reached_by for cell in comparison.cells]
    assert summary.block(comparison.study, cells) == comparison.table.summary
    assert cli.main(["page", str(tmp_path)]) == 0  # the folder that holds them
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "first" / "page.html").exists()
    (tmp_path / "index.html").unlink()
    assert cli.main(["page", str(tmp_path / "first"), str(tmp_path / "sec <b>")]) == 0
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == text
    markup = Markup(text)
    links = [value for name, value in markup.attributes if name == "href"]
    assert links[2:] == ["first/page.html", "first/table.md", "sec%20%3Cb%3E/page.html"]
    assert markup.tags["script"] == 0
    assert markup.tags["img"] == 0
    assert "CHAIR-s" in " ".join(markup.text)
    assert "There is no table yet" in " ".join(markup.text)
    assert cli.main(["page", str(tmp_path / "first"), "none"]) == 2
    assert "There is no results folder 'none'" in capsys.readouterr().err
