"""TUTORIAL.md's files, run as they stand there: a fourth method and another benchmark, the project
untouched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.synthetic.suite import synthetic_item

ROOT = Path(__file__).resolve().parents[1]


def test_the_tutorials_files_make_a_table(tmp_path: Path) -> None:
    blocks = re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```",
        (ROOT / "TUTORIAL.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert [name for name, _ in blocks] == ["my_method.py", "my_benchmark.py", "my_study.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code, encoding="utf-8")
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
