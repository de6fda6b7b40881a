"""One hub with its repositories, and one cache, for all tests of this folder; commands in processes
of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models.hub.fake_hub import Hub, serving
from tests.tiny_models import tiny_llava

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "hf_neverToBeSeenAnywhere"


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """A user's place: the hub, the cache, and ``harness(...)``, a command line there."""

    hub: Hub
    home: Path
    work: Path
    warm: subprocess.Popen[str]
    count: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.home), "HF_TOKEN": TOKEN}

    def harness(self, *arguments: str | Path, **environment: str) -> Said:
        """``python -m harness`` with these arguments, in a process that was forked with everything
        imported."""
        assert self.warm.stdin
        assert self.warm.stdout
        self.count += 1
        out = self.work / f"said{self.count}"
        out.mkdir(parents=True)
        order = {
            "arguments": list(map(str, arguments)),
            "environment": environment,
            "out": str(out),
        }
        self.warm.stdin.write(json.dumps(order) + "\n")
        self.warm.stdin.flush()
        code = int(self.warm.stdout.readline())
        return Said(code, (out / "stdout").read_text(), (out / "stderr").read_text())

    def fresh(self, *arguments: str | Path, **environment: str) -> Said:
        """The same in an interpreter of its own, for what is read when libraries are imported
        (``HF_HUB_OFFLINE``)."""
        done = subprocess.run(
            [sys.executable, "-m", "harness", *map(str, arguments)],
            env={**os.environ, **self.environment, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def refused(self, *arguments: str | Path) -> str:
        """The one sentence of a command that must end with 2; beside it a library may show its
        progress."""
        said = self.harness(*arguments)
        assert said.code == 2, said
        lines = [
            line for line in said.err.splitlines() if line and not line.startswith("Generating ")
        ]
        assert len(lines) == 1, said.err
        sentence = lines[0]
        assert sentence.startswith("harness: "), said.err
        return sentence


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    work, hub = tmp_path_factory.mktemp("hub"), Hub()
    with serving(hub):
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(work / "home"), "HF_TOKEN": TOKEN}
        warm = subprocess.Popen(
            [sys.executable, "-m", "tests.models.hub.warm"],
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert warm.stdin
        assert warm.stdout
        assert warm.stdout.readline() == "ready\n"
        yield Desk(hub, work / "home", work, warm)
        warm.stdin.close()
        warm.wait()
        warm.stdout.close()


@pytest.fixture(scope="session")
def base(desk: Desk) -> Path:
    """The folder of a tiny LLaVA."""
    folder = desk.work / "base"
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder
