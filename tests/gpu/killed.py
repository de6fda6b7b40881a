"""A training that waits to be killed: ``python -m tests.gpu.killed OUT DEVICE``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from methods.interface import Recipe
from tests.tiny_models import tiny_llava
from tests.training.cases import train

RECIPE = Recipe(lr=1e-3, epochs=3, global_batch=3, warmup=0.0, alignment_weight=0.5)
STEPS_ALIVE = 3
"""Of six."""


def wait(what: str, done: int, _total: int) -> None:
    if what == "train" and done == STEPS_ALIVE:
        time.sleep(600)


if __name__ == "__main__":
    out, device = sys.argv[1:]
    model = tiny_llava()[0].to(device)
    train(Path(out), RECIPE, model, checkpoint_every=1, progress=wait)
