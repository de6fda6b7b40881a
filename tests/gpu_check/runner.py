"""Runs the parts one after the other, each in a process of its own within its share of the time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu_check.report import State, write

ROOT = Path(__file__).resolve().parents[2]
KEPT_BACK, LEAST_BACK = 0.06, 2.0
"""Of a part's time, and seconds: it is told to be done so much earlier than it is ended."""
LEAST = 1.0
"""Seconds below which a part is not started."""
TRACEBACK_LINES = 60


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: its share of the time, and its command (by default the module of its name)."""

    name: str
    title: str
    share: float
    command: tuple[str, ...] = ()


def run(
    parts: Sequence[Part],
    out: Path,
    seconds: float,
    options: Sequence[str],
    about: str,
    environment: Mapping[str, str],
) -> int:
    """Run all parts; 0 if each ended well, else 1. Whatever happens, ``out`` tells how far it came.

    A part is called with ``options`` and ``--out``, ``--until`` (seconds since the epoch).
    """
    out.mkdir(parents=True, exist_ok=True)
    states = [State(name=part.name, title=part.title) for part in parts]
    end = time.monotonic() + seconds
    for place, (part, state) in enumerate(zip(parts, states, strict=True)):
        left = end - time.monotonic()
        state.limit = left * part.share / sum(one.share for one in parts[place:])
        if state.limit < LEAST:
            state.state, state.why = "left out", "No time was left."
            write(out, about, states)
            continue
        state.state = "running"
        write(out, about, states)
        print(f"{part.title} (up to {state.limit:.0f} s)", flush=True)
        run_part(part, state, out, options, about, states, environment)
        print(f"  {state.state} after {state.seconds:.0f} s", flush=True)
        write(out, about, states)
    print(f"\n{out / 'gpu-check.md'} holds the tables.", flush=True)
    return 0 if all(state.state == "done" for state in states) else 1


def run_part(
    part: Part,
    state: State,
    out: Path,
    options: Sequence[str],
    about: str,
    states: Sequence[State],
    environment: Mapping[str, str],
) -> None:
    """Run one part and fill in how it ended; the tables follow its figures while it runs."""
    rows, log = out / "gpu-check.jsonl", out / "gpu-check.log"
    began = time.monotonic()
    until = time.time() + state.limit - max(LEAST_BACK, KEPT_BACK * state.limit)
    command = part.command or (sys.executable, "-m", f"tests.gpu_check.{part.name}")
    with log.open("ab") as file:
        file.write(f"\n===== {part.name}\n".encode())
        file.flush()
        start = file.tell()
        child = subprocess.Popen(
            [*command, *options, "--out", str(out.resolve()), "--until", f"{until:.3f}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=dict(environment),
            start_new_session=True,
        )
        seen = -1
        try:
            while child.poll() is None and time.monotonic() - began < state.limit:
                time.sleep(0.1)
                size = rows.stat().st_size if rows.exists() else 0
                if size != seen:
                    seen, state.seconds = size, time.monotonic() - began
                    write(out, about, states)
        finally:
            over = child.poll() is None
            end_group(child)
    state.seconds = time.monotonic() - began
    said = log.read_bytes()[start:].decode(errors="replace")
    if over:
        state.state, state.why = (
            "ran over",
            f"Ran over {state.limit:.0f} s and was ended.\n{tail(said)}",
        )
    elif child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        state.state, state.why = "failed", f"Ended by {name}.\n{tail(said)}"
    elif child.returncode:
        state.state, state.why = "failed", traceback_of(said)
    else:
        state.state = "done"


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End the part and all that it started; none of it may stay on the card."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def traceback_of(said: str) -> str:
    """The last traceback of what a part printed, or its last lines."""
    place = said.rfind("Traceback (most recent call last)")
    lines = said[place:].splitlines() if place >= 0 else said.splitlines()[-20:]
    half = TRACEBACK_LINES // 2
    cut = lines if len(lines) <= TRACEBACK_LINES else [*lines[:half], "[...]", *lines[-half:]]
    return "\n".join(cut)


def tail(said: str) -> str:
    return "\n".join(said.splitlines()[-12:])
