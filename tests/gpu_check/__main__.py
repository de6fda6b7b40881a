"""Check a GPU in minutes: does all run there, is it right, how fast is it, what to mend.

    python -m tests.gpu_check --minutes 11 --out FOLDER                 on a CUDA GPU
    python -m tests.gpu_check --minutes 6 --out FOLDER --shape slim --device cpu    a rehearsal

It needs no network: no more than torch, transformers, peft, trl and this repository. Its parts run
in the order of their worth, each in a process of its own with its share of the minutes; what a part
leaves over flows to the later ones. Every figure is in FOLDER the moment it is measured, and a part
that fails or runs over is recorded with its reason while the next one begins.

FOLDER gets gpu-check.md (the tables), gpu-check.json (how each part ended), gpu-check.jsonl (every
figure, a line each) and gpu-check.log (what the parts printed).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from harness.errors import UserError
from tests.gpu_check.runner import Part, run

PARTS = (
    Part(name="machine", title="a. Versions, card, memory", share=8),
    Part(name="gpu_tests", title="a. Tests that need a GPU", share=18),
    Part(name="generation", title="b. Pairs and answers", share=36),
    Part(name="training", title="c. DPO", share=24),
    Part(name="comparison", title="d. The default comparison", share=12),
    Part(name="where_time_goes", title="e. Where the time goes", share=8),
)
"""In the order of their worth; ``share`` of the minutes, of those that are left when it begins."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 if every part ended well, 1 if one did not, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=11.0, help="for all parts (default: 11)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the results")
    parser.add_argument(
        "--shape",
        choices=("7b", "slim", "tiny"),
        default="7b",
        help="of the model: LLaVA-1.5-7B's; 7B's but for its width; the synthetic base",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[part.name for part in PARTS],
        help="only these parts (default: all)",
    )
    given = parser.parse_args(argv)
    try:
        check(given)
    except UserError as problem:
        print(f"gpu_check: {problem}", file=sys.stderr)
        return 2
    about = f"{given.minutes:g} minutes, shape {given.shape}, device {given.device}"
    if given.device == "cpu":
        about += "; a rehearsal, whose seconds are of processor time and say nothing of a GPU"
    options = ("--shape", given.shape, "--device", given.device)
    parts = [part for part in PARTS if not given.only or part.name in given.only]
    return run(parts, given.out, 60 * given.minutes, options, about, surroundings(given.device))


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: with what is wrong and how to mend it.
    """
    import torch

    if not given.minutes > 0:
        raise UserError(f"--minutes is {given.minutes:g}; give more than 0.")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no CUDA GPU for torch; add --device cpu --shape slim to rehearse."
        )
    if given.device == "cpu" and given.shape == "7b":
        raise UserError(
            "The 7B shape needs a CUDA GPU; with --device cpu give --shape slim or tiny."
        )
    if (given.out / "gpu-check.jsonl").exists():
        raise UserError(f"{given.out} holds a check already; give another --out, or delete it.")


def surroundings(device: str) -> dict[str, str]:
    """The environment of the parts: no network, and no GPU where the CPU was asked for."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **quiet, **hidden}


if __name__ == "__main__":
    sys.exit(main())
