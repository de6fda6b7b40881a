"""Versions of libraries, hardware and memory, as recorded beside every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "peft", "numpy", "pillow")
"""The libraries whose version can change a number."""


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of LIBRARIES, and this checkout's commit where git knows it."""
    found_versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found_versions[name] = importlib.metadata.version(name)
    if not (ROOT / ".git").exists():  # installed, or a copy without git
        with suppress(importlib.metadata.PackageNotFoundError):
            found_versions["selfsight"] = importlib.metadata.version("selfsight")
        return found_versions
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.SubprocessError):  # no git program
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found_versions["selfsight"] = completed.stdout.strip()
    return found_versions


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def hardware() -> dict[str, str | int]:
    """The processor, the cores this process may use, memory (GiB) and the accelerators' name."""
    facts: dict[str, str | int] = {"processor": _processor(), "cores": cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        facts["memory_gib"] = round(memory / 2**30)
    if (torch := _torch()) is not None and torch.cuda.is_available():
        facts["accelerator"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return facts


def arithmetic() -> dict[str, str | int]:
    """Further settings that rounding depends on; empty without torch.

    ``threads`` per operation, and ``cpu_capability``: the instruction set of torch's kernels (such
    as AVX512). They are not in the identity: another number of threads changes the last digits of
    log-probabilities, and texts hardly ever.
    """
    if (torch := _torch()) is None:
        return {}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"threads": torch.get_num_threads(), "cpu_capability": capability}


def peak_memory_mib() -> dict[str, int]:
    """This process's peak memory (MiB): resident on the host and, with a GPU, allocated there."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    if (torch := _torch()) is not None and torch.cuda.is_available():
        peak["accelerator"] = torch.cuda.max_memory_allocated() // 2**20
    return peak


def _torch() -> Any:
    """The torch module, or None where it is not installed: export and grade run without it."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
