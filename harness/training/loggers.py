"""Where a training's curves go besides ``log.jsonl``, which stays the record: TensorBoard, trackio
or wandb.

TensorBoard's files are written into the stage's folder where the package is installed; the others
when they are asked for by name (``--log-to trackio``). A tracker's keys come from its own
environment variables and are never written down. A tracker that fails never ends a training: it is
left out with one sentence, and ``log.jsonl`` has what it would have shown."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from harness.artifacts.results_folder import read_json, read_jsonl, write_json
from harness.errors import UserError, process_name, unknown

TRACKERS = ("tensorboard", "trackio", "wandb", "none")
DEFAULT = ""
"""TensorBoard where it is installed, else nothing."""

LEAST: Mapping[str, tuple[int, int]] = {"trackio": (0, 43), "wandb": (0, 31)}
"""The versions whose interface is used here. pip takes a trackio of two years ago, which lacks it,
where the newest asks for an older Pillow than the one that is pinned."""

PROJECT = "selfsight"
IDENTITY = "trackers.json"
"""In the stage's folder: the id of this training's run, the same when it goes on and another when
the folder is made anew."""

Log = Callable[[int, Mapping[str, float]], None]
"""(step, values); ``close`` is called with the step -1 and no values."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A tracker's run: ``log`` and the last step that it ``knows`` from before, which is not told
    again."""

    log: Log
    knows: int


def check_trackers(names: Sequence[str]) -> None:
    """Refuse an unknown tracker, or one that is not installed or not usable, before any work is
    done.

    Raises:
        UserError: naming the nearest tracker, or how to install this one.
    """
    for name in names:
        if name and name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if name not in (DEFAULT, "none"):
            _check_installed(name)


def _check_installed(name: str) -> None:
    least = LEAST.get(name, (0, 0))
    wanted = f"{name}>={'.'.join(map(str, least))}" if any(least) else name
    mend = f'pip install "{wanted}", or leave --log-to {name} out.'
    if importlib.util.find_spec(name) is None:
        raise UserError(f"The tracker {name} is not installed; {mend}")
    version = metadata.version(name)
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < least:
        raise UserError(
            f"The tracker {name} is installed as version {version}, which is too old; {mend}"
        )
    try:
        _import(name)
    except Exception as error:  # half an installation fails in its own ways
        raise UserError(
            f"The tracker {name} cannot be imported ({type(error).__name__}: {error}); {mend}"
        ) from error


def _import(name: str) -> None:
    if name == "trackio":
        import trackio  # noqa: F401
    elif name == "wandb":
        import wandb  # noqa: F401
    else:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401


def open_logs(
    names: Sequence[str], folder: Path, *, title: str, settings: Mapping[str, object], done: int
) -> list[Log]:
    """The trackers of a training that has ``done`` steps behind it (the lines of
    ``folder/log.jsonl``); each is a function of a step and its values. ``title``: the path of its
    round's folder, of which the last five parts name the run. What a tracker lacks of those steps
    it is told now; a step that it knows it is not told twice."""
    title = "/".join(
        PurePosixPath(title).parts[-5:]
    )  # what lies above the results folder is no tracker's business
    wanted = [name for name in names if name not in (DEFAULT, "none")]
    if DEFAULT in names and importlib.util.find_spec("tensorboard") is not None:
        wanted.append("tensorboard")
    makers = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
    return [
        _careful(name, partial(makers[name], folder, title, settings, done), folder)
        for name in dict.fromkeys(wanted)
    ]


def _careful(name: str, make: Callable[[], Opened], folder: Path) -> Log:
    """The tracker's run, opened and caught up; from its first failure on it is silent."""
    broken = False

    def guarded(work: Callable[[], Any]) -> Any:
        nonlocal broken
        if broken:
            return None
        try:
            return work()
        except (
            Exception
        ) as error:  # no network, no key, a full disk: each tracker has its own exceptions
            broken = True
            said = str(error).strip().splitlines()
            why = f"{type(error).__name__}{': ' + said[0][:200] if said else ''}"
            print(
                f"{process_name()}: the tracker {name} is left out from here on ({why}); log.jsonl"
                " goes on.",
                file=sys.stderr,
            )
            return None

    opened: Opened | None = guarded(make)

    def log(step: int, values: Mapping[str, float]) -> None:
        if opened is not None and (step < 0 or step > opened.knows):
            guarded(lambda: opened.log(step, values))

    for row in _rows(folder) if opened is not None else ():
        log(
            row["step"],
            {
                key: row[key]
                for key in row
                if key not in ("step", "steps", "seconds") and row[key] is not None
            },
        )
    return log


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    return read_jsonl(path) if path.exists() else []


def _id(folder: Path) -> str:
    path = folder / IDENTITY
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(read_json(path)["id"])


def _tensorboard(folder: Path, _title: str, _settings: Mapping[str, object], done: int) -> Opened:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run wrote beyond its last checkpoint is about to be done again.
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, step)
        if step < 0:
            writer.close()

    return Opened(log=log, knows=done)


def _trackio(folder: Path, title: str, settings: Mapping[str, object], done: int) -> Opened:
    import trackio

    run = trackio.init(
        project=PROJECT,
        name=f"{title} {_id(folder)}",
        config=dict(settings),
        resume="allow",
        embed=False,
        auto_log_cpu=False,  # the machine's load is no curve of the training
        auto_log_gpu=False,
    )
    return Opened(log=_logger(run), knows=getattr(run, "_next_step", done + 1) - 1)


def _wandb(folder: Path, title: str, settings: Mapping[str, object], _done: int) -> Opened:
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=title,
        id=_id(folder),
        resume="allow",
        reinit="finish_previous",
        config=dict(settings),
        dir=str(folder),
        save_code=False,
        # Without a key it would ask for one, on a terminal that nobody may be sitting at; without a
        # network it would wait longer.
        settings=wandb.Settings(console="off", disable_git=True, login_timeout=1, init_timeout=30),
    )
    # Offline nothing is known of an earlier piece: each piece then holds the whole curve.
    return Opened(log=_logger(run), knows=run.starting_step - 1 if run.resumed else 0)


def _logger(run: Any) -> Log:
    def log(step: int, values: Mapping[str, float]) -> None:
        if step < 0:
            run.finish()
        else:
            run.log(dict(values), step=step)

    return log
