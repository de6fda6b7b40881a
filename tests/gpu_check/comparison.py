"""Part d: ``python -m harness run compare`` on the synthetic world, on the device, end to end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.gpu_check.part import Asked, child
from tests.gpu_check.runner import ROOT

TABLE = "Seconds by kind of stage"
NEEDED = ("pandas", "pyarrow", "scipy", "matplotlib", "jinja2")
"""What tables, figures and page are made with."""
KINDS = ("questions", "pairs", "train", "answers", "grades", "choices", "caps")
LIMITS = ((150, 100), (100, 60), (60, 24), (30, 12))
"""So many images where so many seconds are left, one round of each row; else the least."""
LEAST, SHORT = 8, 60


def run(asked: Asked) -> None:
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        asked.note(f"Left out: it needs {', '.join(lacking)}, which is not installed.")
        return
    limit = next((images for seconds, images in LIMITS if asked.left >= seconds), LEAST)
    # Where there is hardly any time, one method stands for all.
    some = ["--only", "sena"] if asked.left < SHORT or asked.shape == "tiny" else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "compare"
        options = ["--limit", str(limit), "--seeds", "1", *some, "--out", str(out)]
        command = [sys.executable, "-m", "harness", "run", "compare", *options]
        asked.note(f"`python -m harness run compare {' '.join(options[:-2])}`")
        began = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=max(1.0, asked.left - 2), check=False)
            ended = f"ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = "was cut by the time"
        seconds = time.monotonic() - began
        stages(asked, out)
        asked.note(f"It {ended} after {seconds:.0f} s, start of the program included.")
        table = out / "table.md"
        if table.exists():
            asked.block("Its table", tables_of(table.read_text(encoding="utf-8")))
        if "cut" in ended and table.exists():
            asked.note("Only its figures and its page are not drawn.")
        elif "code 0" not in ended:
            sys.exit(f"The comparison {ended}.")


def stages(asked: Asked, out: Path) -> None:
    """How many stages of each kind are done, and their own seconds."""
    counts: defaultdict[str, int] = defaultdict(int)
    seconds: defaultdict[str, float] = defaultdict(float)
    for done in sorted(out.rglob("DONE")):
        kind = next((part for part in done.parts[::-1] if part in KINDS), "other")
        counts[kind] += 1
        record = done.parent / "record.json"
        if record.exists():
            seconds[kind] += float(json.loads(record.read_text()).get("seconds", 0.0))
    for kind, count in counts.items():
        asked.row(TABLE, kind, {"stages done": count, "seconds": seconds.get(kind)})


def tables_of(text: str) -> str:
    """The benchmarks' tables alone, each below its title in bold."""
    text = text.partition("## How each row was made")[0]
    lines = [line for line in text.splitlines() if line.startswith(("## ", "| "))]
    found: list[str] = []
    for line in lines:
        if line.startswith("## "):
            found += ["", f"**{line[3:]}**", ""]
        elif line.startswith("| "):
            found.append(line)
    return "\n".join(found).strip()


if __name__ == "__main__":
    child("comparison", run)
