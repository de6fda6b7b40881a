"""The check's runner on parts of one line: what fails or runs over is recorded, the next begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu_check import gpu_tests
from tests.gpu_check.__main__ import PARTS, main
from tests.gpu_check.report import State, markdown
from tests.gpu_check.runner import ROOT, Part, run

WRITES = """
import json, sys
out = sys.argv[sys.argv.index("--out") + 1]
def row(table, row, cells):
    with open(out + "/gpu-check.jsonl", "a") as file:
        file.write(json.dumps({"part": PART, "table": table, "row": row, "cells": cells}) + "\\n")
"""


def part(folder: Path, name: str, body: str, share: float = 1.0) -> Part:
    script = folder / f"{name}.py"
    script.write_text(f"PART = {name!r}\n{WRITES}\n{body}\n")
    return Part(name=name, title=name, share=share, command=(sys.executable, str(script)))


def states(out: Path) -> dict[str, State]:
    parts = json.loads((out / "gpu-check.json").read_text())["parts"]
    return {one["name"]: State(**one) for one in parts}


def check(parts: list[Part], out: Path, seconds: float) -> int:
    return run(parts, out, seconds, ("--shape", "tiny"), "about", os.environ)


def test_a_part_that_fails_or_dies_is_recorded_and_the_next_begins(tmp_path: Path) -> None:
    parts = [
        part(tmp_path, "fails", "row('t', 'r', {'x': 1.5})\nraise ValueError('no such kernel')"),
        part(tmp_path, "dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        part(tmp_path, "good", "row('t', 'one', {'x': 2.5})\nrow('t', 'one', {'y': True})"),
    ]
    out = tmp_path / "out"
    assert check(parts, out, 60) == 1
    found = states(out)
    assert [one.state for one in found.values()] == ["failed", "failed", "done"]
    assert found["fails"].why.startswith("Traceback (most recent call last)")
    assert found["fails"].why.endswith("ValueError: no such kernel")
    assert found["dies"].why.startswith("Ended by SIGKILL.")
    text = (out / "gpu-check.md").read_text()
    assert "| r | 1.5 |" in text
    assert "| one | 2.5 | yes |" in text
    assert "ValueError: no such kernel" in text


@pytest.mark.thorough
def test_a_part_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    hangs = (
        "import subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "row('t', 'child', {'pid': child.pid})\n"
        "time.sleep(600)"
    )
    out = tmp_path / "out"
    parts = [
        part(tmp_path, "hangs", hangs, 5),
        part(tmp_path, "next", "row('t', 'r', {'x': 1})", 5),
    ]
    began = time.monotonic()
    assert check(parts, out, 12) == 1
    assert time.monotonic() - began < 12
    found = states(out)
    assert [one.state for one in found.values()] == ["ran over", "done"]
    assert found["hangs"].why.startswith("Ran over 6 s and was ended.")
    line, _ = (json.loads(row) for row in (out / "gpu-check.jsonl").read_text().splitlines())
    until = time.monotonic() + 5  # it is reaped by the machine's first process
    while running(line["cells"]["pid"]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(line["cells"]["pid"])


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_figures_are_in_the_tables_while_a_part_still_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    waits = (
        "import pathlib, time\n"
        "row('t', 'early', {'x': 7.25})\n"
        "tables = pathlib.Path(out) / 'gpu-check.md'\n"
        "until = time.monotonic() + 20\n"
        "while '| early | 7.25 |' not in tables.read_text() and time.monotonic() < until:\n"
        "    time.sleep(0.05)\n"
        "row('t', 'seen', {'x': '| early | 7.25 |' in tables.read_text()})"
    )
    assert check([part(tmp_path, "waits", waits)], out, 60) == 0
    assert "| seen | yes |" in (out / "gpu-check.md").read_text()


def test_time_left_over_flows_to_later_parts_and_none_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = [part(tmp_path, "quick", "", 1), part(tmp_path, "other", "", 1)]
    assert check(parts, out, 40) == 0
    found = states(out)
    assert found["quick"].limit == pytest.approx(20, abs=0.5)
    assert found["other"].limit == pytest.approx(40 - found["quick"].seconds, abs=1.0)
    assert check(parts, tmp_path / "none", 0.5) == 1
    assert {one.state for one in states(tmp_path / "none").values()} == {"left out"}
    assert "No time was left." in (tmp_path / "none" / "gpu-check.md").read_text()


def test_a_cut_line_and_odd_texts_do_not_spoil_the_tables() -> None:
    lines = [
        {"part": "a", "table": "T", "row": "r", "cells": {"x": 12345.6, "y": "a|b\nc", "z": None}},
        {"part": "a", "note": "A sentence."},
        {"part": "a", "title": "Top", "block": "| k |\n| :-- |"},
    ]
    text = markdown("about", [State(name="a", title="A")], lines)
    assert "| r | 12346 | a/b c |  |" in text
    assert text.index("### T") < text.index("A sentence.") < text.index("### Top")


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str) -> str:
        assert main(["--out", str(tmp_path / "out"), *options]) == 2
        return capsys.readouterr().err

    if not torch.cuda.is_available():
        assert "There is no CUDA GPU for torch; add --device cpu" in refused()
    assert "The 7B shape needs a CUDA GPU" in refused("--device", "cpu")
    asked = ("--device", "cpu", "--shape", "tiny")
    assert "--minutes is 0" in refused("--minutes", "0", *asked)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gpu-check.jsonl").write_text("")
    assert "holds a check already; give another --out" in refused(*asked)


def test_every_file_of_gpu_tests_is_run() -> None:
    files = sorted(path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py"))
    assert sorted(gpu_tests.FILES) == files


@pytest.mark.slow
def test_the_check_rehearses_on_the_cpu(tmp_path: Path) -> None:
    """The same parts in the same order as on a GPU, on the synthetic base."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.gpu_check", "--minutes", "20", "--shape", "tiny"]
    subprocess.run([*command, "--device", "cpu", "--out", str(out)], cwd=ROOT, check=True)
    ended = [(one.title, one.state) for one in states(out).values()]
    assert ended == [(part.title, "done") for part in PARTS]
    text = (out / "gpu-check.md").read_text()
    for row in ("| SENA |", "| CSR's CLIP |", "| CHAIR |", "| LoRA |", "| full |", "| pairs |"):
        assert row in text
    lines = [json.loads(line) for line in (out / "gpu-check.jsonl").read_text().splitlines()]
    cells = [line["cells"] for line in lines if line.get("table") == "Right, and in memory"]
    assert {cell["equal texts or scores"] for cell in cells if "equal texts or scores" in cell} == {
        1.0,
    }
    outcomes = [line["cells"]["outcome"] for line in lines if line.get("table") == "Tests"]
    assert outcomes.count("passed") >= 8
