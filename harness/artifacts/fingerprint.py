"""What a result depends on, as plain JSON: fingerprints, field-by-field differences, versions and
hardware.

Identity holds what changes the output (settings, weights' content, prompts, pool, versions of
graders). Versions of libraries and hardware are recorded beside results, not compared: they are the
reader's business, not a reason to refuse to continue."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "peft", "numpy", "pillow")
_ABSENT = object()


def describe(value: object) -> Any:
    """Any settings as JSON: dataclasses become objects, tuples lists, sets sorted lists.

    Raises TypeError for what has no stable text (functions, paths, tensors): it could not be
    compared on the next run."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): describe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(inner) for inner in value), key=canonical)
    raise TypeError(
        f"settings hold a {type(value).__name__}; use numbers, text, tuples, mappings and"
        " dataclasses of these."
    )


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def fingerprint(value: object) -> str:
    """The sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(_whole(describe(value))).encode()).hexdigest()


def _whole(value: Any) -> Any:
    """2.0 as 2: the same setting, however it was typed."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return (
        int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        else value
    )


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line a differing field, such as ``method.noise_step: 420 there, 600 asked``; empty where
    the two are equal."""
    a, b = _flat(there), _flat(asked)
    lines = []
    for key in [*a, *(key for key in b if key not in a)]:
        left, right = a.get(key, _ABSENT), b.get(key, _ABSENT)
        # A number may be 1 in one place and 1.0 in the other: the same setting. True and 1 are not.
        if left != right or isinstance(left, bool) != isinstance(right, bool):
            lines.append(f"{key}: {_short(left)} there, {_short(right)} asked")
    return lines


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            k: v
            for key, inner in value.items()
            for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def _short(value: object, width: int = 60) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"


@cache
def versions() -> dict[str, str]:
    """Python, the libraries that touch the numbers, and the commit of this checkout where git knows
    it."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found["selfsight"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # a copy without git: the libraries' versions still stand
    return found


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def hardware() -> dict[str, str | int]:
    """Processor, cores this process may use, memory (GiB) and the accelerator's name."""
    found: dict[str, str | int] = {"processor": _processor(), "cores": cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        )
    if (torch := _torch()) is not None and torch.cuda.is_available():
        found["accelerator"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return found


def arithmetic() -> dict[str, str | int]:
    """What else rounding depends on: the threads of one operation, and the instructions of torch's
    own kernels (such as AVX512).

    Not in the identity: another number of threads changes log-probabilities in their last digits,
    and texts hardly ever. Empty without torch.
    """
    if (torch := _torch()) is None:
        return {}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"threads": torch.get_num_threads(), "cpu_capability": capability}


def _torch() -> Any:
    """torch, where it is installed: exporting and grading go without."""
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


def peak_memory_mib() -> dict[str, int]:
    """The most memory this process has held so far: resident on the host and, with a GPU, allocated
    there (MiB)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    found = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    if (torch := _torch()) is not None and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.max_memory_allocated() // 2**20
    return found
