"""The toy study of the runner tests: the untrained model and the toy method, one benchmark."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from harness.artifacts.results_folder import Results
from harness.pipeline import planning, runner
from harness.pipeline.context import Context
from harness.pipeline.progress import Display
from harness.study.study import Run, Study
from methods.untrained import Untrained
from tests.toy_method import Toy, Words


def a_study(pool: str, *, rounds: int = 1, **method: Any) -> Study:
    toy = Run(label="toy", base="tiny", method=Toy(**method), pool=pool, images=8, rounds=rounds)
    untrained = Run(label="untrained", base="tiny", method=Untrained())
    return Study(name="toys", question="Does it run?", runs=(untrained, toy), benchmarks=(Words(),))


def do(study: Study, out: Path, display: Display | None = None) -> str:
    """What ``run`` shows, and last the sentences of rows that ended early."""
    stream = io.StringIO()
    ended = runner.run(Context(study, Results(out)), display or Display(stream))
    return "\n".join([stream.getvalue(), *ended])


def planned(study: Study, out: Path, *, stages: bool = False) -> str:
    """What ``plan`` prints."""
    return "\n".join(planning.plan(Context(study, Results(out)), stages=stages))
