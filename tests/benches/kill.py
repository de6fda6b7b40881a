"""Kill a study with SIGKILL at random moments, continue it each time, and compare its files with an
undisturbed run's.

    python -m tests.benches.kill --times 50

Kills are spread over as many studies as it takes; each finished study's questions, pairs, weights,
answers and grades must equal the undisturbed one's byte for byte. Records hold seconds and are left
out."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness.cli.main import main
from harness.reporting.figures import draw as figures  # noqa: F401
from harness.reporting.tables import build as tables  # noqa: F401

KEPT = (
    "questions.jsonl",
    "pairs.jsonl",
    "drops.jsonl",
    "answers.jsonl",
    "grades.parquet",
    "report.json",
    "model.safetensors",
)
LIMIT = "40"
BETWEEN = "between stages"


def child(out: Path) -> int:
    """Fork a process that runs the study quietly; its process id."""
    pid = os.fork()
    if pid == 0:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            code = main(
                [
                    "run",
                    "compare",
                    "--limit",
                    LIMIT,
                    "--only",
                    "sena",
                    "--rounds",
                    "2",
                    "--out",
                    str(out),
                ]
            )
        os._exit(code)
    return pid


def digest(out: Path) -> dict[str, str]:
    """sha256 of every kept file, by its path below ``out``."""
    files = sorted(
        path for path in out.rglob("*") if path.name in KEPT and "checkpoints" not in path.parts
    )
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def stage_under_way(out: Path) -> str:
    """The kind of stage that was cut: the one begun and not done."""
    begun = [
        path.parent for path in out.rglob("identity.json") if not (path.parent / "DONE").exists()
    ]
    kinds = {
        part
        for folder in begun
        for part in folder.parts
        if part in ("questions", "pairs", "train", "answers", "grades")
    }
    return "+".join(sorted(kinds)) or BETWEEN


def run(times: int, seed: int) -> int:
    """The number of studies that differ from the undisturbed one."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="selfsight-kill-"))
    began = time.monotonic()
    _, status = os.waitpid(child(folder / "undisturbed"), 0)
    whole = time.monotonic() - began
    if status:
        sys.exit(
            "The undisturbed study failed; run `python -m harness run compare --limit 40` to see"
            " why."
        )
    wanted = digest(folder / "undisturbed")
    print(f"undisturbed: {whole:.0f} s, {len(wanted)} files", flush=True)
    cut: Counter[str] = Counter()
    different = studies = 0

    def hit() -> int:
        """Kills in the middle of a stage; those that fell between two, or before the first, are not
        counted as tries."""
        return sum(count for stage, count in cut.items() if stage != BETWEEN)

    while hit() < times:
        out = folder / f"study{studies}"
        while True:
            # The second half of a study this small is drawing table, figures and page: kills are
            # for the stages before it.
            pid, patience = child(out), rng.uniform(0.05, 0.45) * whole
            until = time.monotonic() + patience
            done = 0
            while time.monotonic() < until and not done:
                time.sleep(0.01)
                done, status = os.waitpid(pid, os.WNOHANG)
            if done and status:
                sys.exit(
                    f"A continued study failed with {os.waitstatus_to_exitcode(status)} in {out}."
                )
            if done or hit() >= times:
                if not done:
                    os.waitpid(pid, 0)
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            cut[stage_under_way(out)] += 1
            if stage_under_way(out) == BETWEEN and digest(out).keys() == wanted.keys():
                break  # every stage is done; only drawing was cut
        found = digest(out)
        wrong = [name for name in wanted if found.get(name) != wanted[name]]
        different += bool(wrong)
        studies += 1
        print(
            f"study {studies}: {hit()} kills so far, {len(wrong)} files differ {wrong[:3]}",
            flush=True,
        )
        shutil.rmtree(out)
    shutil.rmtree(folder)
    print(
        f"{hit()} kills in the middle of a stage over {studies} studies, {different} studies differ"
    )
    print(f"where: {dict(cut.most_common())}")
    return different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(1 if run(given.times, given.seed) else 0)
