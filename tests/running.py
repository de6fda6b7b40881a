"""Runs a study as the command line does, in this process and without showing anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from harness.artifacts.results_folder import Results
from harness.pipeline import runner
from harness.pipeline.context import Context
from harness.pipeline.progress import Display
from harness.study.study import Study


def run_study(study: Study, out: Path, **options: Any) -> list[str]:
    """What :func:`harness.pipeline.runner.run` returns, with its ``options``."""
    return runner.run(Context(study, Results(out)), Display(io.StringIO()), **options)
