"""Experiment trackers beside ``log.jsonl``, which stays the record: TensorBoard, trackio, wandb.

TensorBoard's files are written into the stage's folder if the package is installed; the others if
they are named (``--log-to trackio``). Trackers read their keys from their own environment
variables; no key is written. A tracker that fails is left out with one sentence, and the training
continues."""

from __future__ import annotations

import importlib.util
import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from harness.artifacts.results_folder import (
    explain_disk_errors,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from harness.artifacts.safe_files import append_to
from harness.errors import UserError, process_name, unknown

TRACKERS = ("tensorboard", "trackio", "wandb", "none")

DEFAULT = ""
"""TensorBoard if it is installed, else nothing."""

MIN_VERSIONS: Mapping[str, tuple[int, int]] = {"trackio": (0, 43), "wandb": (0, 31)}
"""Oldest versions with the interface that is used here. Beside an old Pillow, pip installs a
trackio that lacks it."""

PROJECT = "selfsight"

RUN_ID_FILE = "trackers.json"
"""In the stage's folder: the run's id. A continued training keeps it, a new folder gets a new
one."""

Log = Callable[[int, Mapping[str, float]], None]
"""Logs a step's values. Step -1 without values closes the tracker."""


@dataclass(frozen=True, kw_only=True)
class TrackerRun:
    """A run that is open in a tracker."""

    log: Log
    last_step: int
    """The last step that the tracker holds from before; it is not logged again."""


def check_trackers(names: Sequence[str]) -> None:
    """Check trackers before any work is done.

    Raises:
        UserError: a tracker is unknown (with the nearest name), not installed, too old or broken.
    """
    for name in names:
        if name and name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if name not in (DEFAULT, "none"):
            _check_installed(name)


def _check_installed(name: str) -> None:
    minimum = MIN_VERSIONS.get(name, (0, 0))
    requirement = f"{name}>={'.'.join(map(str, minimum))}" if any(minimum) else name
    remedy = f'pip install "{requirement}", or leave --log-to {name} out.'
    if importlib.util.find_spec(name) is None:
        raise UserError(f"The tracker {name} is not installed; {remedy}")
    version = metadata.version(name)
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < minimum:
        raise UserError(
            f"The tracker {name} is installed as version {version}, which is too old; {remedy}"
        )
    try:
        _import_tracker(name)
    except Exception as error:  # a broken installation may raise anything
        raise UserError(
            f"The tracker {name} cannot be imported ({type(error).__name__}: {error}); {remedy}"
        ) from error


def _import_tracker(name: str) -> None:
    if name == "trackio":
        import trackio  # noqa: F401
    elif name == "wandb":
        import wandb  # noqa: F401
    else:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401


class StepLog:
    """The log of a training: ``folder/log.jsonl`` with a line a step, and the trackers ``names``.

    The training has ``steps`` steps, of which ``done`` are finished and kept in the log. Steps that
    a tracker lacks are logged at once; steps that it holds are not repeated."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        settings: Mapping[str, object],
        steps: int,
        done: int,
    ) -> None:
        self.path, self.steps = folder / "log.jsonl", steps
        truncate_log(self.path, done)
        # The last parts of the round's path name the run; the rest is private to this machine.
        title = "/".join(PurePosixPath(folder.resolve().parent.as_posix()[-120:]).parts[-5:])
        trackers = [name for name in names if name not in (DEFAULT, "none")]
        if DEFAULT in names and importlib.util.find_spec("tensorboard") is not None:
            trackers.append("tensorboard")
        openers = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
        self.trackers = [
            _guarded_log(name, partial(openers[name], folder, title, settings, done), folder)
            for name in dict.fromkeys(trackers)
        ]

    def write(self, step: int, row: Mapping[str, float | None], seconds: float) -> None:
        line = {"step": step, "steps": self.steps, **row, "seconds": round(seconds, 3)}
        append_log(self.path, line)
        values = {name: value for name, value in row.items() if value is not None}
        for tracker in self.trackers:
            tracker(step, values)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker(-1, {})


def truncate_log(path: Path, step: int) -> None:
    """Keep the first ``step`` lines of a training log; the steps of later lines are done again."""
    rows: list[object] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:step] if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # a killed run's last line is half-written
    write_jsonl(path, rows)


def append_log(path: Path, row: Mapping[str, object]) -> None:
    with explain_disk_errors(path.parent), append_to(path) as file:
        file.write((json.dumps(row, allow_nan=False) + "\n").encode())


def _guarded_log(name: str, open_run: Callable[[], TrackerRun], folder: Path) -> Log:
    """The log function of an opened run that holds all earlier steps. After its first failure it
    does nothing."""
    broken = False

    def guarded(work: Callable[[], Any]) -> Any:
        nonlocal broken
        if broken:
            return None
        try:
            return work()
        except Exception as error:  # network, key, full disk: each tracker raises its own
            broken = True
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}{': ' + lines[0][:200] if lines else ''}"
            print(
                f"{process_name()}: the tracker {name} is left out from here on ({reason});"
                " log.jsonl goes on.",
                file=sys.stderr,
            )
            return None

    run: TrackerRun | None = guarded(open_run)

    def log(step: int, values: Mapping[str, float]) -> None:
        if run is not None and (step < 0 or step > run.last_step):
            guarded(lambda: run.log(step, values))

    path, skipped = folder / "log.jsonl", ("step", "steps", "seconds")
    for row in read_jsonl(path) if run is not None and path.exists() else ():
        values = {name: row[name] for name in row if name not in skipped and row[name] is not None}
        log(row["step"], values)
    return log


def _run_id(folder: Path) -> str:
    path = folder / RUN_ID_FILE
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(read_json(path)["id"])


def _tensorboard(
    folder: Path, _title: str, _settings: Mapping[str, object], done: int
) -> TrackerRun:
    from torch.utils.tensorboard import SummaryWriter

    # Steps that a killed run logged after its last checkpoint are about to be done again.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, step)
        if step < 0:
            writer.close()

    return TrackerRun(log=log, last_step=done)


def _trackio(folder: Path, title: str, settings: Mapping[str, object], done: int) -> TrackerRun:
    import trackio

    run = trackio.init(
        project=PROJECT,
        name=f"{title} {_run_id(folder)}",
        config=dict(settings),
        resume="allow",
        embed=False,
        auto_log_cpu=False,  # the machine's load is no curve of the training
        auto_log_gpu=False,
    )
    return TrackerRun(log=_log_to(run), last_step=getattr(run, "_next_step", done + 1) - 1)


def _wandb(folder: Path, title: str, settings: Mapping[str, object], _done: int) -> TrackerRun:
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=title,
        id=_run_id(folder),
        resume="allow",
        reinit="finish_previous",
        config=dict(settings),
        dir=str(folder),
        save_code=False,
        # Without a key wandb would ask for one on a terminal; without a network it would wait.
        settings=wandb.Settings(console="off", disable_git=True, login_timeout=1, init_timeout=30),
    )
    # Offline, wandb has no earlier pieces of the run, so each piece holds the whole curve.
    return TrackerRun(log=_log_to(run), last_step=run.starting_step - 1 if run.resumed else 0)


def _log_to(run: Any) -> Log:
    def log(step: int, values: Mapping[str, float]) -> None:
        if step < 0:
            run.finish()
        else:
            run.log(dict(values), step=step)

    return log
