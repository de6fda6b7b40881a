"""The one table object as LaTeX that compiles, HTML that is escaped, and text: roles, ranks and
what a control reaches too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.artifacts.results_folder import Results, read_json, write_json
from harness.reporting.comparison import MetricResult, compare
from harness.reporting.results import StudyResults, load_results
from harness.reporting.tables import build as tables
from harness.reporting.tables import html as table_html
from harness.reporting.tables import latex as table_latex
from harness.reporting.tables import text as table_text
from harness.reporting.tables.cells import Block, Column, Table, TableCell, TableRow, table_cell
from harness.reporting.tables.notes import footnotes
from tests.reporting.records import write_study

HOSTILE = (
    "<script>alert(1)</script> \\input{x} $a_b^c$ 50% & #1 ~ ``q'' é ž 中 | * [x](y) \x1b[31m \\\\"
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A baseline, a method, its control and a bound."""
    out = write_study(tmp_path_factory.mktemp("study"), seeds=range(5), images=400)
    study = read_json(Results(out).study)
    for run in study["runs"]:
        if run["label"] == "sima":
            run |= {"role": "control", "of": "sena"}
    write_json(Results(out).study, study)
    return load_results(out)


@pytest.fixture(scope="module")
def cells(records: StudyResults) -> list[MetricResult]:
    return compare(records)


def hostile_table() -> Table:
    """Every text of a table is hostile."""
    entry = TableCell(
        value=HOSTILE,
        change="-1.0 [-2.0, 0.0]",
        verdict="worse",
        mark="†",
        remark=HOSTILE,
        ahead=True,
    )
    columns = (Column(heading=HOSTILE, primary=True), Column(heading=HOSTILE, reported=True))
    lines = tuple(
        TableRow(head=HOSTILE, cells=(entry, TableCell(value=HOSTILE)), group=group)
        for group in ("", HOSTILE)
    )
    block = Block(heading=HOSTILE, caption=HOSTILE, corner=HOSTILE, columns=columns, lines=lines)
    return Table(
        title=HOSTILE, question=HOSTILE, reading=(HOSTILE,), blocks=(block,), notes=(HOSTILE,)
    )


class Tags(HTMLParser):
    """Every tag that a browser would see, and whether they close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: set[str] = set()
        self.stack: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.stack.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_escaped_and_well_formed() -> None:
    tags = Tags()
    tags.feed(table_html.fragment(hostile_table()))
    assert tags.stack == []
    assert "script" not in tags.seen
    assert "<script>alert(1)</script>" in tags.text  # as text
    assert "\x1b" not in tags.text


def test_html_marks_verdicts_ranks_and_reported_numbers() -> None:
    html = table_html.block_fragment(hostile_table().blocks[0])
    assert re.search(r'<td class="worse" data-heading="[^"]*"><b class="best">', html)
    assert '<td class="reported" data-heading=' in html
    assert '<th class="group" colspan="3" scope="rowgroup">' in html
    document = table_html.document(hostile_table())
    assert document.startswith("<!doctype html>")
    assert document.count("<style>") == 1


def compiles(text: str, folder: Path) -> str:
    """The document's log after pdflatex; no network, nothing but base packages."""
    (folder / "table.tex").write_text(text)
    command = [
        "pdflatex",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-no-shell-escape",
        "table.tex",
    ]
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True}
    done = subprocess.run(command, cwd=folder, text=True, errors="replace", **quiet)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-base)"
)
def test_latex_compiles_alone(
    records: StudyResults, cells: list[MetricResult], tmp_path: Path
) -> None:
    log = compiles(table_latex.document(tables.build(records, cells)), tmp_path)
    assert "undefined" not in log
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) < 12
    assert (tmp_path / "table.pdf").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-base)"
)
def test_hostile_text_compiles_too(tmp_path: Path) -> None:
    (tmp_path / "x.tex").write_text(r"\undefined")  # would stop it if it were read
    compiles(table_latex.document(hostile_table()), tmp_path)


def test_latex_escapes_every_sign() -> None:
    assert (
        table_latex.escape("a_b 5% & #1 $x$ {y} ~ ^ \\")
        == r"a\_b 5\% \& \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert (
        table_latex.escape("p < 0.05, -2.3 [-3.4, -1.2]*")
        == r"p \textless{} 0.05, $-$2.3 {[}$-$3.4, $-$1.2{]}{*}"
    )
    assert (
        table_latex.escape("é ž 中 ↑ grader-1")
        == r"{\'{e}} {\v{z}} {[}U+4E2D{]} $\uparrow$ grader-1"
    )


@pytest.mark.thorough
def test_latex_has_stars_ranks_and_a_legend(
    records: StudyResults, cells: list[MetricResult]
) -> None:
    text = table_latex.fragment(tables.build(records, cells))
    assert r"\toprule" in text
    assert r"{\scriptsize better} \textbf{" in text
    assert "$^{*}$: see the notes" in text
    assert r"\begin{document}" not in text  # to be put into a paper
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")


def test_a_row_of_papers_stands_where_it_has_numbers() -> None:
    """In a wide block that goes on in another table, rows without a measured number are left out
    beside measured ones."""
    measured = tuple(Column(heading=f"metric {number}") for number in range(7))
    values = tuple(TableCell(value="9.1", change="-12.5 [-15.0, -10.0]") for _ in measured)
    ours = TableRow(head="ours", cells=(*values, TableCell(value="85.9 [1]")))
    theirs = TableRow(
        head="theirs",
        cells=(*(TableCell(value="-") for _ in measured), TableCell(value="86.0 [1]")),
        group="reported only",
    )
    columns = (*measured, Column(heading="reported: metric", reported=True))
    block = Block(heading="b", caption="c", corner="run", columns=columns, lines=(ours, theirs))
    text = table_latex.fragment(
        Table(title="t", question="q", reading=(), blocks=(block,), notes=())
    )
    first, last = text.split(r"\end{table*}")[0], text.split(r"\end{table*}")[-2]
    assert "theirs" not in first
    assert "86.0" in last


def test_rows_stand_by_role(records: StudyResults, cells: list[MetricResult]) -> None:
    table = tables.build(records, cells)
    lines = table.blocks[0].lines
    assert [(line.head, line.group) for line in lines] == [
        ("untrained", ""),
        ("SENA", ""),
        ("SIMA", tables.GROUPS["control"]),
    ]
    markdown = table_text.markdown(table)
    assert f"| *{tables.GROUPS['control']}* |" in markdown
    assert f"{tables.GROUPS['control']}:" in table_text.terminal(table)
    assert all(
        not entry.ahead for entry in lines[2].cells
    )  # a control is not compared for the best


@pytest.mark.thorough
def test_bold_is_truly_ahead_of_the_baseline_and_every_method(tmp_path: Path) -> None:
    study = load_results(write_study(tmp_path, images=200, seeds=range(5)))
    cells = compare(study)

    def bold(cells: list[MetricResult]) -> set[tuple[str, str]]:
        table = tables.build(study, cells)
        return {
            (line.head, column.heading)
            for block in table.blocks
            for line in block.lines
            for cell, column in zip(line.cells, block.columns, strict=True)
            if cell.ahead
        }

    order = next(
        block
        for block in tables.build(study, cells).blocks
        if block.heading == "Order of the methods"
    )
    # sena is truly ahead of sima on POPE; which is first on CHAIR-i is open.
    assert [line.cells[2].value for line in order.lines] == ["1", "2"]
    assert [line.cells[1].value for line in order.lines] == ["1 to 2", "1 to 2"]
    assert bold(cells) == set()  # ahead of sima, but not better than the baseline
    better = [
        replace(cell, verdict="better") if cell.label == "sena" and cell.primary else cell
        for cell in cells
    ]
    assert bold(better) == {("SENA", "accuracy ↑ %")}
    worse = [replace(cell, verdict="worse") if cell.primary else cell for cell in cells]
    assert {label for label, _ in bold(worse)} == {"untrained"}


def test_a_gain_that_a_control_reaches_is_marked(
    records: StudyResults, cells: list[MetricResult]
) -> None:
    cell = next(cell for cell in cells if (cell.label, cell.metric) == ("sena", "chair_i"))
    reached: MetricResult = replace(
        cell, verdict="better", reached_by=("sena random rejected", "sena shuffled")
    )
    text = table_cell(reached).text
    assert re.fullmatch(r"\d+\.\d† \(.+\)\* better", text)
    assert "†" not in table_cell(replace(reached, reached_by=())).text
    assert "§" in table_cell(replace(reached, reached_by=(), untold_by=("sena sft",))).text
    assert any(
        note.startswith("† the method does not exceed a control")
        for note in footnotes(records, [reached])
    )


def test_a_row_stands_beside_the_baseline_at_its_own_length(tmp_path: Path) -> None:
    """A derived row has round 0 alone, and is held against the last round of the row that it is
    made like."""
    out = write_study(tmp_path, seeds=(0,), images=40)
    (out / "runs/sima/seed0/round1").rename(out / "runs/sima/seed0/round0")
    study = read_json(Results(out).study)
    for run in study["runs"]:
        if run["label"] == "sima":
            run |= {"role": "matched", "of": "sena", "rounds": 0}
    write_json(Results(out).study, study)
    read = load_results(out)
    cells = compare(read)
    cell = next(cell for cell in cells if (cell.label, cell.metric) == ("sena", "chair_i"))
    theirs = next(cell for cell in cells if (cell.label, cell.metric) == ("sima", "chair_i"))
    assert cell.matched_by == "sima"
    block = next(
        block
        for block in tables.build(read, cells).blocks
        if block.heading.startswith("At equal length")
    )
    row = next(row for row in block.rows if row[2] == cell.heading)
    assert row[4:6] == ("SIMA", f"{theirs.value:.1f}")
    assert row[6].startswith(f"{cell.value - theirs.value:+.1f} [")


@pytest.mark.thorough
def test_the_table_needs_no_model(tmp_path: Path) -> None:
    """Tables come from stored grades: neither torch nor transformers is imported, and nothing but
    reports is written."""
    out = write_study(tmp_path / "study", seeds=(0,), images=20)
    before = {path for path in out.rglob("*") if path.is_file()}
    code = (
        "import sys; from pathlib import Path; from harness.reporting.tables import build;"
        " build.write(Path(sys.argv[1]));print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'torch', 'transformers', 'peft'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert done.stdout.strip() == "[]"
    written = {path.name for path in out.rglob("*") if path.is_file() and path not in before}
    tables_written = {f"table.{ending}" for ending in ("md", "tex", "html", "csv")}
    assert written == {*tables_written, "summary.tex", "summary.csv", "leaks.csv"}
