"""Where a training's curves go besides ``log.jsonl``, which stays the record: TensorBoard, trackio or wandb.

TensorBoard's files are written into the stage's folder where the package is installed; the others when they are asked for by
name (``--log-to trackio``). A tracker's keys come from its own environment variables and are never written down.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.errors import Problem, unknown

TRACKERS = ("tensorboard", "trackio", "wandb", "none")
DEFAULT = ""
"""TensorBoard where it is installed, else nothing."""

Log = Callable[[int, Mapping[str, float]], None]
"""(step, values); ``close`` is called with the step -1 and no values."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse an unknown tracker, or one that is not installed, before any work is done.

    Raises:
        Problem: naming the nearest tracker, or how to install this one.
    """
    for name in names:
        if name and name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if name not in (DEFAULT, "none") and importlib.util.find_spec(name) is None:
            raise Problem(f"The tracker {name} is not installed; pip install {name}, or leave --log-to {name} out.")


def open_logs(names: Sequence[str], folder: Path, *, title: str, settings: Mapping[str, object], done: int) -> list[Log]:
    """The trackers of a training that has ``done`` steps behind it; each is a function of a step and its values."""
    check_trackers(names)
    wanted = [name for name in names if name not in (DEFAULT, "none")]
    if DEFAULT in names and importlib.util.find_spec("tensorboard") is not None:
        wanted.append("tensorboard")
    makers = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
    return [makers[name](folder, title, settings, done) for name in dict.fromkeys(wanted)]


def _tensorboard(folder: Path, _title: str, _settings: Mapping[str, object], done: int) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run wrote beyond its last checkpoint is about to be done again.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, step)
        if step < 0:
            writer.close()

    return log


def _trackio(_folder: Path, title: str, settings: Mapping[str, object], _done: int) -> Log:
    import trackio

    run = trackio.init(project="selfsight", name=title, config=dict(settings), resume="allow")

    def log(step: int, values: Mapping[str, float]) -> None:
        if step < 0:
            run.finish()
        else:
            run.log(dict(values), step=step)

    return log


def _wandb(folder: Path, title: str, settings: Mapping[str, object], _done: int) -> Log:
    import wandb

    run = wandb.init(project="selfsight", name=title, config=dict(settings), dir=str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        if step < 0:
            run.finish()
        else:
            run.log(dict(values), step=step)

    return log
