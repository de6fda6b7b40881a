"""Runs many requests of ``via_lmms_eval`` in one process of lmms-eval's environment, because
importing the kit takes seconds. ``serving()`` replaces ``via_lmms_eval_run.ask``, with the same
files and the same program. Tests and the recorder use it; studies start a process a request."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from_path = importlib.util.spec_from_file_location


@contextmanager
def serving(interpreter: Path, program: Path) -> Iterator[Callable[..., Any]]:
    """The stand-in, as long as its process lives."""
    whole = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [str(interpreter), "-P", str(Path(__file__).resolve()), str(program)]
    with subprocess.Popen(
        command,
        env=whole,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        talk, listen = process.stdin, process.stdout

        def ask(
            folder: Path,
            request: Mapping[str, Any],
            _interpreter: Path,
            more: Mapping[str, str] | None = None,
        ) -> Any:
            (folder / "request.json").write_text(json.dumps(request))
            changed = {
                name: os.environ[name]
                for name in ("NLTK_DATA", "AMBER_BASE_DIR", "PYTHONPATH", "OPENAI_API_KEY")
                if name in os.environ
            }
            talk.write(
                json.dumps({"folder": str(folder), "environment": {**changed, **(more or {})}})
                + "\n"
            )
            talk.flush()
            if fault := json.loads(listen.readline() or '"it is gone"'):
                raise ValueError(f"lmms-eval's program ended with {fault}")
            reply = json.loads((folder / "reply.json").read_text())
            if "trouble" in reply:
                raise ValueError(f"lmms-eval: {reply['trouble']}.")
            return reply

        yield ask
        talk.close()


def main() -> None:
    program = from_path("via_lmms_eval_child", sys.argv[1])
    assert program is not None
    assert program.loader is not None
    child = importlib.util.module_from_spec(program)
    program.loader.exec_module(child)
    # Tasks print; the answers to the other side have a line of their own.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.update(job["environment"])
        for place in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            if place and place not in sys.path:
                sys.path.append(place)
        if tasks := sys.modules.get(
            "lmms_eval.api.task"
        ):  # the kit remembers the first cache folder
            tasks._resolve_hf_datasets_cache_dir.cache_clear()
        os.chdir(job["folder"])
        fault = ""
        try:
            child.main(Path(job["folder"]))
        except BaseException:
            fault = traceback.format_exc()[-1500:]
        out.write(json.dumps(fault) + "\n")
        out.flush()
        os.chdir("/")


if __name__ == "__main__":
    main()
