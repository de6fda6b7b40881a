"""The job file for Slurm: its syntax, and its torchrun line with stand-ins for Slurm's own commands
and two processes without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "examples" / "slurm.sbatch"

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo 127.0.0.1
"""


def test_the_job_file_is_bash() -> None:
    subprocess.run(["bash", "-n", str(JOB)], check=True)


@pytest.mark.slow
def test_the_job_runs_a_study_in_two_processes(tmp_path: Path) -> None:
    commands = {"srun": SRUN, "scontrol": SCONTROL}
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    study = ["run", "compare", "--only", "sena", "--seeds", "1", "--limit", "2", "--out", "out"]
    done = subprocess.run(
        ["bash", str(JOB), *study, "--benchmarks", "synthetic_pope", "--log-to", "none"],
        env={
            **os.environ,
            **slurm,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "out" / "table.md").is_file()
    # The first process alone speaks. On a slow machine it says again for how long it has loaded.
    assert done.stdout.count("loading PyTorch and the study\n") == 1
