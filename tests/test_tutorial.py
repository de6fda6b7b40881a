"""TUTORIAL.md's files, run as they stand there: a fourth method and another benchmark, the project
untouched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.catalogue import open_benchmarks
from benchmarks.synthetic.suite import synthetic_item
from harness.pipeline import exchange, foreign_answers

ROOT = Path(__file__).resolve().parents[1]


def blocks() -> dict[str, str]:
    """The page's files by name."""
    page = (ROOT / "TUTORIAL.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```python\n# (\w+\.py)(.*?)```", page, re.DOTALL))


def test_llavas_question_file_has_our_ids_and_its_answers_are_read(tmp_path: Path) -> None:
    questions = tmp_path / "q"
    benchmark = open_benchmarks(["synthetic_pope"], "test", 1)[0]
    exchange.export(benchmark, questions, split="test", limit=1)
    program = tmp_path / "llava_questions.py"
    program.write_text("#" + blocks()[program.name], encoding="utf-8")
    made = subprocess.run(
        [sys.executable, str(program), str(questions)], capture_output=True, text=True, check=True
    )
    asked = [json.loads(line) for line in made.stdout.splitlines()]
    assert all((questions / "images" / row["image"]).is_file() for row in asked)
    answered = ({"question_id": row["question_id"], "text": "yes"} for row in asked)
    (tmp_path / "synthetic_pope.jsonl").write_text("\n".join(map(json.dumps, answered)))
    ids = [question.id for question in benchmark.questions()]
    given = foreign_answers.of_row(tmp_path, "synthetic_pope", ids)
    assert [row["id"] for row in given.rows] == ids


@pytest.mark.thorough
def test_the_tutorials_files_make_a_table(tmp_path: Path) -> None:
    assert list(blocks())[:3] == ["my_method.py", "my_benchmark.py", "my_study.py"]
    for name, code in list(blocks().items())[:3]:
        (tmp_path / name).write_text("#" + code, encoding="utf-8")
    own = tmp_path / "mine"
    own.mkdir()
    rows = []
    for index in range(6):
        _, image, _, truth = synthetic_item("dev", index)
        image.save(own / f"{index}.png")
        answer = "yes" if " ball " in truth else "no"
        rows.append(
            {
                "id": str(index),
                "image": f"{index}.png",
                "question": "is there a ball ?",
                "answer": answer,
            }
        )
    (own / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "harness",
        "run",
        str(tmp_path / "my_study.py"),
        "--limit",
        "6",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "consensus" in table
    assert "exact" in table
    record = json.loads(
        (tmp_path / "out/runs/consensus/seed0/round1/pairs/record.json").read_text()
    )
    assert record["counts"]["pairs"] + record["counts"]["dropped"] == 6
