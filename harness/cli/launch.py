"""How a run is started on what is there: one process, a team under torchrun, or a Ray cluster."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.models.base_cards import find_base
from harness.pipeline import runner
from harness.pipeline.progress import Display
from harness.study import cost_model
from harness.study.study import Study
from harness.training.loggers import DEFAULT, check_trackers
from harness.training.placement import Placement, check_optimizer
from harness.training.ranks import leave, team


def placement(given: argparse.Namespace) -> Placement:
    """What the command line says about training; everything else is found by what fits.

    Raises:
        UserError: an optimiser or a tracker that is not there.
    """
    asked = Placement(
        optimizer="adamw8bit" if given.eight_bit else "adamw",
        log_to=tuple(getattr(given, "log_to", None) or (DEFAULT,)),
    )
    check_optimizer(asked.optimizer)
    check_trackers(asked.log_to)
    return asked


def forecast(study: Study, out: Path, *, told: bool = False) -> list[str]:
    """What ``plan`` says before the stages: the study's notes, and on a real base what it costs
    (``told``: that was said)."""
    lines = list(study.notes)
    if all(find_base(run.base).prompts == "synthetic" for run in study.runs):
        return lines
    if not told:
        lines += [
            "What it costs:",
            *cost_model.lines(study.runs, out.parent, share=cost_model.share_of(study.limit)),
        ]
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    return [*lines, f"{free:,.0f} GiB are free on the disk of {out}."]


def run(study: Study, out: Path, given: argparse.Namespace, arguments: Sequence[str]) -> bool:
    """Do what is missing of the study; whether this process is the one that says what came out.

    Raises:
        UserError: see :func:`harness.pipeline.runner.run`; or there is no Ray, or no cluster.
    """
    laid = placement(given)
    if team().first:
        for note in study.notes:
            print(note, flush=True)
    if given.on == "ray":
        from harness.pipeline import on_ray

        with on_ray.cluster() as slots:
            runner.run(
                study,
                out,
                Display(sys.stdout),
                placement=laid,
                do=on_ray.Elsewhere(slots, tuple(arguments)),
            )
        return True
    first = team().first
    runner.run(study, out, Display(sys.stdout if first else io.StringIO()), placement=laid)
    leave()
    return first
