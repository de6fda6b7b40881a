"""Command lines in processes of their own that need not import torch each: a process that has, and
forks for each command.

    python -m tests.models.hub.warm     then on stdin a line of JSON a command: {"arguments",
    "environment", "out"}; its exit code back

The settings that huggingface_hub reads when it is imported (where the hub and the cache are) are
the environment's that this process is started with; of those of a command, ``HF_HUB_OFFLINE`` is
read once more."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
import huggingface_hub

# Imported before the fork, so that a command begins at once.
import harness.reporting.figures.draw
import harness.reporting.page.write
import harness.reporting.tables.build
import harness.study.compare
import harness.study.smoke
from harness.cli import main as cli
from harness.pipeline import runner

assert harness
assert runner


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            obey(order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def obey(order: dict[str, object]) -> None:
    """Run the command as ``python -m harness`` would, with what it says written to files; never
    returns."""
    out = Path(str(order["out"]))
    os.environ.update(dict(order["environment"]))  # type: ignore[call-overload]
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        file = os.open(
            os.devnull if number == 0 else out / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC
        )
        os.dup2(file, number)
    code = 70
    try:
        code = cli.main([str(one) for one in order["arguments"]])  # type: ignore[attr-defined]
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
