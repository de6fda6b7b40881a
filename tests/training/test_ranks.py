"""Ranks that cannot meet, or whose launcher dies, end with a sentence."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from harness.cli import main as cli
from harness.errors import UserError, process_name
from harness.training import ranks as ranks_module

ROOT = Path(__file__).resolve().parents[2]
WAITING = """
import os, time, pathlib, sys
from harness.training.ranks import ranks
group = ranks()
pathlib.Path(sys.argv[1], str(group.rank)).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "x"), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "-2"), ("RANK", "")],
)
def test_an_environment_that_is_not_torchruns_is_a_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"variable {name} is '{value}'; torchrun sets it"):
        ranks_module.ranks.__wrapped__()
    assert process_name() == "harness"


def test_a_command_says_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    ranks_module.ranks.cache_clear()
    try:
        assert cli.main(["run", "compare", "--limit", "2"]) == 2
    finally:
        ranks_module.ranks.cache_clear()
    said = capsys.readouterr().err
    assert said.startswith("harness: The environment variable WORLD_SIZE is 'x'")
    assert said.count("\n") == 1


@pytest.mark.thorough
def test_a_rank_whose_others_do_not_start_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks_module, "START_TIMEOUT", datetime.timedelta(seconds=1))
    with pytest.raises(UserError, match="Not all 2 processes started within"):
        ranks_module._wait_for_ranks(0, 2)
    assert not dist.is_initialized()


@pytest.mark.thorough
def test_ranks_end_when_torchrun_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", str(script)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with subprocess.Popen(
        [*command, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
    ) as launcher:
        files = [tmp_path / "0", tmp_path / "1"]
        while not all(file.exists() and file.read_text() for file in files):
            assert launcher.poll() is None
            time.sleep(0.1)
        launcher.send_signal(signal.SIGKILL)
        assert launcher.stderr is not None
        said = launcher.stderr.read()  # ends when no rank holds the pipe any more
    assert said.count("torchrun, which started this process, has ended") == 2
