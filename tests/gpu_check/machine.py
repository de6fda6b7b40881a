"""Part a, first half: versions, the card, its driver and memory, and what it does a second."""

from __future__ import annotations

import shutil
import subprocess

import torch

from harness.artifacts.environment import hardware, versions
from harness.training.memory import GIB
from tests.gpu_check.card import layers_to_answer, measure
from tests.gpu_check.part import Asked, child

TABLE = "The machine"
ASK = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit"


def run(asked: Asked) -> None:
    asked.row(TABLE, "versions", {"": ", ".join(f"{k} {v}" for k, v in versions().items())})
    asked.row(TABLE, "hardware", {"": ", ".join(f"{k} {v}" for k, v in hardware().items())})
    asked.row(TABLE, "threads", {"": torch.get_num_threads()})
    if asked.device == "cuda":
        card(asked)
    rates = measure(asked.device)
    shown = {
        "bfloat16 products, TFLOP/s": rates.flops / 1e12,
        "float32 products, TFLOP/s": rates.flops32 / 1e12,
        "copies, bytes read and written, TB/s": rates.bytes / 1e12,
    }
    for name, value in shown.items():
        asked.row(TABLE, name, {"": value})


def card(asked: Asked) -> None:
    """What torch and the driver say of the card, and what this check leaves out for its memory."""
    found = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    shown = {
        "card": found.name,
        "compute capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory, GiB": total / GIB,
        "free before the check, GiB": free / GIB,
        "CUDA of torch": torch.version.cuda,
        "bfloat16": torch.cuda.is_bf16_supported(),
    }
    for name, value in shown.items():
        asked.row(TABLE, name, {"": value})
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={ASK}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
        asked.row(TABLE, f"nvidia-smi: {ASK}", {"": (done.stdout or done.stderr).strip()})
    if asked.shape == "7b" and (layers := layers_to_answer(free)) is not None:
        asked.note(
            f"Left out: the whole 7B shape does not fit here. Parts b and e run {layers} of its 32 "
            "layers, and their figures a second are not 7B's."
        )


if __name__ == "__main__":
    child("machine", run)
