"""Broken data set files: each fault is named by its line, all are counted, and nothing is asked or
graded."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import via_vlmevalkit_tsv as tsv
from benchmarks.synthetic import vlmevalkit
from benchmarks.synthetic.vlmevalkit import image_cell, write
from benchmarks.via_vlmevalkit import tsv_safe
from benchmarks.via_vlmevalkit_tsv import read_rows
from tests.benchmarks.vlmevalkit_cases import cell

NEEDED = ("index", "question", "answer")
Rows = list[dict[str, object]]


def rows(count: int = 4) -> Rows:
    return [
        {
            "index": n,
            "image": cell(n),
            "question": f"is it {n} ?",
            "answer": "Yes",
            "category": "all",
        }
        for n in range(count)
    ]


def text(table: Rows) -> str:
    content = io.StringIO()
    writer = csv.DictWriter(content, fieldnames=list(table[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return content.getvalue()


def test_a_whole_file_is_read_in_order(tmp_path: Path) -> None:
    table = rows()
    table[1]["question"] = "is it\n'one' \t or \"two\" ?"
    write(tmp_path / "A.tsv", table)
    kept = read_rows(tmp_path / "A.tsv", NEEDED)
    assert [row.index for row in kept] == ["0", "1", "2", "3"]
    assert kept[1].cells["question"] == table[1]["question"]
    assert [row.location for row in kept] == [
        "A.tsv, line 2",
        "A.tsv, line 3",
        "A.tsv, line 5",
        "A.tsv, line 6",
    ]
    assert len({row.cluster for row in kept}) == 4


def test_a_image_may_stand_in_another_row(tmp_path: Path) -> None:
    table = rows()
    table[3]["image"] = 0
    write(tmp_path / "A.tsv", table)
    kept = read_rows(tmp_path / "A.tsv", NEEDED)
    assert kept[3].cluster == kept[0].cluster != kept[1].cluster


def test_several_images_stand_in_a_list(tmp_path: Path) -> None:
    table = rows()
    table[0]["image"] = repr([cell(1), cell(2)])
    write(tmp_path / "A.tsv", table)
    assert len(tsv.images_of(read_rows(tmp_path / "A.tsv", NEEDED)[0].cells["image"])) == 2


def change(number: int, column: str, value: object) -> Callable[[Rows], None]:
    def do(table: Rows) -> None:
        table[number][column] = value

    return do


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            change(2, "index", 1),
            r"A\.tsv, line 4: the index 1 occurs a second time \(first in line 3\)",
        ),
        (
            change(2, "index", "__import__('os').getcwd()"),
            r"line 4: the index is .*letters, digits",
        ),
        (
            change(2, "answer", "open('x').read()"),
            r"line 4: the answer .* is Python code, which the kit would run",
        ),
        (change(2, "answer", ""), r"line 4: answer is empty"),
        (change(2, "image", ""), r"line 4: the image is missing"),
        (
            change(2, "image", 77),
            r"line 4: the image is said to be that of index '77', which holds none",
        ),
        (change(2, "image", cell(1)[:90]), r"line 4: the image cannot be decoded"),
        (change(2, "image", "x" * 300), r"line 4: the image cannot be decoded"),
        (change(2, "image", "[" + "x" * 300 + "]"), r"line 4: the image cannot be decoded"),
        (change(2, "image", "[open('" + "x" * 300 + "')]"), r"line 4: the image cannot be decoded"),
    ],
)
def test_a_broken_row_is_named(spoil: Callable[[Rows], None], why: str, tmp_path: Path) -> None:
    table = rows()
    spoil(table)
    write(tmp_path / "A.tsv", table)
    with pytest.raises(ValueError, match=why) as raised:
        read_rows(tmp_path / "A.tsv", NEEDED)
    assert "1 rows of" in str(raised.value)
    assert "nothing was asked or graded" in str(raised.value)


def test_all_broken_rows_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    table = rows(9)
    for row in table[1:]:
        row["image"] = ""
    write(tmp_path / "A.tsv", table)
    with pytest.raises(ValueError, match=r"8 rows of .*line 3: .*line 7: .*; and 3 more"):
        read_rows(tmp_path / "A.tsv", NEEDED)


@pytest.mark.parametrize("cut", [3, 40, 90])
def test_a_file_that_was_cut_off_is_found_out(cut: int, tmp_path: Path) -> None:
    whole = text(rows())
    last = whole.rindex("\n", 0, -1) + 1
    (tmp_path / "A.tsv").write_text(whole[: last + cut])
    with pytest.raises(ValueError, match=r"A\.tsv, line 5: .*cut off"):
        read_rows(tmp_path / "A.tsv", NEEDED)


def test_a_quote_that_never_ends_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "A.tsv").write_text(text(rows()) + f'9\t{cell(1)}\t"is it\tYes\tall\n')
    with pytest.raises(ValueError, match=r"A\.tsv, line 6: unexpected end of data"):
        read_rows(tmp_path / "A.tsv", NEEDED)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no column index or question or answer; it has nothing"),
        (b"index\tquestion\tanswer\n", "neither a column image nor image_path"),
        (b"index\tindex\tquestion\tanswer\timage\n", "has the column index twice"),
        (b"index\tquestion\tanswer\timage\n", "holds no question"),
        (b"index\tquestion\tanswer\timage\n1\t\xff\xfe\tYes\t0\n", "not UTF-8 text"),
    ],
)
def test_a_file_of_another_kind_says_so(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "A.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_rows(tmp_path / "A.tsv", NEEDED)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold A\.tsv"):
        read_rows(tmp_path / "A.tsv", NEEDED)


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (("a.png", "../../b.png"), "outside the folder"),
        (("a.png", "/etc/b.png"), "outside the folder"),
        (("a.png", "a.png"), "names another image in an earlier row"),
        (("a.png", "[open('b')]"), "neither a path nor a list of paths"),
    ],
)
def test_the_paths_under_which_the_kit_stores_images_are_looked_at(
    paths: tuple[str, str], why: str, tmp_path: Path
) -> None:
    table = [{**row, "image_path": path} for row, path in zip(rows(2), paths, strict=True)]
    write(tmp_path / "A.tsv", table)
    with pytest.raises(ValueError, match=f"line 3: .*{why}"):
        read_rows(tmp_path / "A.tsv", NEEDED)


def test_an_answer_loses_only_what_a_file_cannot_carry() -> None:
    assert tsv_safe("yes\x00,\x1b[2J no\r\x7f\ud800") == "yes , [2J no   "
    assert tsv_safe("a\tb\nc – é 猫") == "a\tb\nc – é 猫"


def test_the_synthetic_choices_have_one_right_option_in_every_rotation(tmp_path: Path) -> None:
    vlmevalkit.mmbench(tmp_path / "B.tsv", "test", 2)
    kept = read_rows(tmp_path / "B.tsv", ("index", "A", "B", "C", "D"))
    right: dict[int, set[str]] = {}
    letters: dict[int, list[str]] = {}
    for row in kept:
        number = int(row.index) % 1_000_000
        assert len({row.cells[letter] for letter in "ABCD"}) == 4
        right.setdefault(number, set()).add(row.cells[row.cells["answer"]])
        letters.setdefault(number, []).append(row.cells["answer"])
    assert all(len(texts) == 1 for texts in right.values())
    assert all(sorted(some) == list("ABCD") for some in letters.values())


def test_there_is_nothing_to_write_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row to write"):
        write(tmp_path / "A.tsv", [])
    assert len(image_cell(vlmevalkit.suite.synthetic_item("test", 0)[1])) > tsv.LONGEST_REFERENCE
