"""A study by its name and options: what the command line gives, and what a worker process needs to
build the same study again."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown, user_code
from harness.study import ablate, audit, compare, paper, smoke, tune
from harness.study.study import Study

STUDIES: Mapping[str, Callable[..., Study]] = {
    "compare": compare.study,
    "ablate": ablate.study,
    "tune": tune.study,
    "smoke": smoke.study,
    "paper": paper.study,
    "audit": audit.study,
}
"""The studies that are shipped."""

EXPECTED = "study(**options) must return a harness.study.study.Study"
"""What a user's file is asked for."""


@dataclass(frozen=True)
class StudyReference:
    """``name`` of a shipped study, or the path of a ``.py`` file that defines
    ``study(**options)``; ``options`` are plain data. It is pickled for worker processes."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Study:
        """
        Raises:
            UserError: there is no such study or file, or the study takes no such option.
        """
        if self.name.endswith(".py"):
            build = _from_file(Path(self.name))
            with user_code(Path(self.name), "study()", EXPECTED):
                self.check_options(build)
                study = build(**self.options)
        elif self.name in STUDIES:
            build = STUDIES[self.name]
            self.check_options(build)
            try:
                study = build(**self.options)
            except ValueError as error:  # of a method or a benchmark, in a sentence of its own
                raise UserError(f"The study {self.name} cannot be built: {error}") from error
        else:
            raise unknown("study", self.name, [*STUDIES, "or a path to a .py file"])
        if not isinstance(study, Study):
            raise UserError(
                f"study() of {self.name} returned a {type(study).__name__}; it must return a"
                " harness.study.study.Study."
            )
        return study

    def check_options(self, build: Callable[..., Study]) -> None:
        """
        Raises:
            UserError: the study takes no such option.
        """
        parameters = inspect.signature(build).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        for name in self.options:
            if name not in parameters:
                raise unknown(
                    f"option of the study {self.name}", _flag(name), map(_flag, parameters)
                )


def _flag(name: str) -> str:
    """An option as it is written on the command line: ``local_data`` is ``--local-data``."""
    return "--row" if name == "rows" else f"--{name.replace('_', '-')}"


def _from_file(path: Path) -> Callable[..., Study]:
    """The ``study`` function of a user's own file."""
    if not path.is_file():
        raise UserError(
            f"There is no study file {path}; give a .py file that defines study(**options) ->"
            " Study."
        )
    spec = importlib.util.spec_from_file_location(f"user_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None  # of every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    # A study's own files lie beside it; they come after everything else.
    sys.path.append(str(path.resolve().parent))
    with user_code(path, "the file", f"it must define study(**options), and {EXPECTED}"):
        spec.loader.exec_module(module)
    build: Callable[..., Study] | None = getattr(module, "study", None)
    if not callable(build):
        raise UserError(
            f"{path} defines no study(); add a function study(**options) that returns a"
            " harness.study.study.Study."
        )
    return build
