"""What a comparison is: runs (a base, a method with its settings, a pool, a seed) that answer the
same benchmarks.

A study is plain data, built by a function. An ablation is one line: ``vary(run, "noise_step", (0,
200, 400))``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.interface import Benchmark, Group, Metric
from harness.artifacts.fingerprint import describe
from harness.artifacts.results_folder import ANSWERS_PREFIX, check_name
from harness.errors import UserError, unknown
from methods.controls import Control
from methods.interface import Field, Method, Recipe
from methods.settings import read_setting

Role = Literal["baseline", "method", "reference", "control", "matched"]
"""``bound``: uses more than a method may. ``control``: a method with one thing removed.
``derived``: a matched baseline, computed from the baseline's own answers
(harness/pipeline/matched_baselines.py)."""


@dataclass(frozen=True, kw_only=True)
class Varied:
    """One setting of a row was changed: which row's, which field, and the value as in the label."""

    row: str
    field: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of the table and one training seed.

    A method without a recipe (the untrained model) is only evaluated; ``pool``, ``images`` and
    ``rounds`` are then ignored."""

    label: str
    """The row's name. Runs with one label differ in their seed alone."""
    base: str
    """A base card's name, a checkpoint (harness/models/base_cards.py), or ``answers:FOLDER``."""
    method: Method
    pool: str = "synthetic"
    images: int = 600
    """Images drawn from the pool, afresh in each round unless ``same_images``."""
    rounds: int = 1
    """Each round trains the model of the round before."""
    same_images: bool = False
    """Whether all rounds use the images and prompts of the first, as CSR's do."""
    seed: int = 0
    """Of the draw of images, of sampling and of the training."""
    steps: int | None = None
    """Optimizer steps of a round: pairs are subsampled or repeated to fit. None: the recipe's
    epochs over the pairs that were made."""
    varied: Varied | None = None
    """The setting that :func:`vary` changed; None for a row of its own."""

    def __post_init__(self) -> None:
        check_name("label", self.label)
        if not _is_method(self.method):
            raise UserError(
                f"The method of {self.label!r} must be a dataclass that extends"
                " methods.interface.Method, such as Sena(...)."
            )
        for name in ("base", "pool"):
            if not isinstance(value := getattr(self, name), str) or not value.strip():
                raise UserError(
                    f"{name} of {self.label!r} is {value!r:.60}; it must be a text, such as the"
                    " path of a folder."
                )
        for name, lowest in (("images", 1), ("rounds", 1), ("seed", 0), ("steps", 1)):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
            if not is_whole and (name, value) != ("steps", None):
                raise UserError(
                    f"{name} of {self.label!r} is {value!r:.60}; it must be at least {lowest}, a"
                    " whole number."
                )
        self._check_method()
        if self.method.recipe is None and self.seed:
            raise UserError(
                f"{self.label!r} trains nothing, so it has no training seed; give it seed 0, as the"
                " only run of its row."
            )

    def _check_method(self) -> None:
        """Check what the harness reads of a method beside its settings."""
        method, allowed = self.method, get_args(Field)
        if not isinstance(method.needs, frozenset | set) or not method.needs <= set(allowed):
            raise UserError(
                f"needs of the method of {self.label!r} is {method.needs!r:.60}; it must be a"
                f" frozenset of {', '.join(allowed)}."
            )
        if not isinstance(method.recipe, Recipe | None):
            raise UserError(
                f"recipe of the method of {self.label!r} is {method.recipe!r:.60}; it must be a"
                " methods.interface.Recipe, or None."
            )
        try:
            describe([method, method.recipe, self.varied], f"the method of {self.label!r}")
        except (TypeError, ValueError) as error:
            raise UserError(f"The settings cannot be stored: {error}.") from error

    @property
    def answers(self) -> Path | None:
        """The folder of another program's answers; None: the row's own model answers."""
        folder = self.base.removeprefix(ANSWERS_PREFIX)
        return Path(folder) if folder != self.base else None

    @property
    def last(self) -> int:
        """The last round; 0 for a method that trains nothing."""
        return self.rounds if self.method.recipe else 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs, and the benchmarks that all of them answer."""

    name: str
    """Names the results folder."""
    question: str
    """What the study is to find out, in one sentence."""
    runs: tuple[Run, ...]
    benchmarks: tuple[Benchmark, ...]
    baseline: str = "untrained"
    """The label of the row that every other row is compared with."""
    split: Literal["dev", "test"] = "test"
    """The split that the benchmarks were built with."""
    limit: int | None = None
    """The most images a benchmark was built with; None: all."""
    primary: tuple[str, ...] = ()
    """Metrics that carry the stars, as ``benchmark/metric``. Empty: those that the benchmarks
    mark."""
    tuning: str = ""
    """How the rows' settings were chosen; a sentence that the table prints."""
    notes: tuple[str, ...] = ()
    """Sentences to show before any work, such as what was left out and why."""

    def __post_init__(self) -> None:
        check_name("study", self.name)
        for field, entries, kind in (
            ("runs", self.runs, Run),
            ("benchmarks", self.benchmarks, object),
            ("notes", self.notes, str),
            ("primary", self.primary, str),
        ):
            is_sequence = isinstance(entries, tuple | list)
            if not is_sequence or not all(isinstance(entry, kind) for entry in entries):
                expected = "benchmarks" if kind is object else f"{kind.__name__} entries"
                raise UserError(
                    f"{field} of the study {self.name!r} is {entries!r:.60}; it must be a tuple"
                    f" of {expected}."
                )
        if not isinstance(self.question, str) or not self.question.strip():
            raise UserError(
                f"The study {self.name!r} asks no question; say in one sentence what it is to find"
                " out."
            )
        if not self.benchmarks:
            raise UserError(f"The study {self.name!r} has no benchmark; give at least one.")
        for benchmark in self.benchmarks:
            _check_benchmark(benchmark)
        labels = list(dict.fromkeys(run.label for run in self.runs))
        if self.baseline not in labels:
            raise unknown("row to be the baseline", self.baseline, labels)
        for noun, names in (
            ("run", [f"{run.label}, seed {run.seed}" for run in self.runs]),
            ("benchmark", [benchmark.name for benchmark in self.benchmarks]),
        ):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(
                    f"The study {self.name!r} holds the {noun} {repeated[0]!r} twice; give each"
                    " a name of its own."
                )
        for label in labels:
            if len({_without_seed(run) for run in self.runs if run.label == label}) > 1:
                raise UserError(
                    f"The rows labelled {label!r} differ in more than their seed; give each setting"
                    " a label of its own."
                )
        metrics = [f"{b.name}/{metric.name}" for b in self.benchmarks for metric in b.metrics]
        for name in self.primary:
            if name not in metrics:
                raise unknown("metric", name, metrics)

    @property
    def answering(self) -> list[Run]:
        """The runs whose own model answers."""
        return [run for run in self.runs if run.answers is None]

    def as_json(self) -> dict[str, Any]:
        """The content of ``study.json``: all that tables need to know of methods and benchmarks
        without importing them."""
        return {
            "name": self.name,
            "question": self.question,
            "baseline": self.baseline,
            "split": self.split,
            "limit": self.limit,
            "tuning": self.tuning,
            "notes": list(self.notes),
            "runs": [
                {
                    "label": run.label,
                    "base": run.base,
                    "method": run.method.name,
                    "needs": sorted(run.method.needs),
                    "settings": describe(run.method),
                    "recipe": describe(run.method.recipe),
                    "pool": run.pool,
                    "images": run.images,
                    **({"same_images": True} if run.same_images else {}),
                    "rounds": run.last,
                    "steps": run.steps,
                    "seed": run.seed,
                    "role": self.role(run),
                    "of": self.inner(run),
                    "varied": describe(run.varied),
                }
                for run in self.runs
            ],
            "benchmarks": [
                {
                    "name": benchmark.name,
                    "group": benchmark.group,
                    "version": benchmark.version,
                    "metrics": [
                        {
                            **describe(metric),
                            "primary": self.is_primary(benchmark.name, metric.name, metric.primary),
                        }
                        for metric in benchmark.metrics
                    ],
                }
                for benchmark in self.benchmarks
            ],
        }

    def role(self, run: Run) -> Role:
        """What the row is in the comparison: a claim to be tested, or a reference for one."""
        if run.label == self.baseline:
            return "baseline"
        if isinstance(run.method, Control):
            return "control"
        return run.method.role

    def inner(self, run: Run) -> str | None:
        """The row of a control's inner method; None where the study has no such row."""
        if not isinstance(run.method, Control):
            return None
        inner_settings = describe(run.method.inner)
        labels = (other.label for other in self.runs if describe(other.method) == inner_settings)
        return next(labels, None)

    def is_primary(self, benchmark: str, metric: str, marked: bool) -> bool:
        return f"{benchmark}/{metric}" in self.primary if self.primary else marked


def _check_benchmark(benchmark: Any) -> None:
    """Check what the harness reads of a benchmark; a user's own may lack some of it."""
    check_name("benchmark", getattr(benchmark, "name", None))
    rules: dict[str, tuple[str, Callable[[Any], object]]] = {
        "group": ('"hallucination" or "general"', lambda value: value in get_args(Group)),
        "version": ("a text that is not empty", lambda value: isinstance(value, str) and value),
        "metrics": (
            "a tuple of benchmarks.interface.Metric",
            lambda value: (
                isinstance(value, tuple | list)
                and value
                and all(isinstance(metric, Metric) for metric in value)
            ),
        ),
    }
    for name, (rule, holds) in rules.items():
        value = getattr(benchmark, name, None)
        if not holds(value):
            raise UserError(
                f"{name} of the benchmark {benchmark.name!r} is {value!r:.60}; it must be {rule}"
                " (benchmarks/interface.py)."
            )
        try:
            describe(value, f"{name} of the benchmark {benchmark.name!r}")
        except (TypeError, ValueError) as error:
            raise UserError(f"A benchmark cannot be stored: {error}.") from error


def _is_method(value: object) -> bool:
    return isinstance(value, Method) and dataclasses.is_dataclass(value)


def _without_seed(run: Run) -> str:
    """The run without its seed, as text: equal for the seeds of one row."""
    return repr(replace(run, seed=0))


def vary(run: Run, field: str, values: Iterable[object]) -> tuple[Run, ...]:
    """The run once for each value, labelled such as ``sena noise_step=200``. A varied ``seed``
    keeps the label, because all seeds are one row.

    ``field`` is a field of the method, of one of its parts (``recipe.lr``), or of the run
    (``images``).

    Raises:
        UserError: there is no such field (with the nearest one), or the value is not allowed there.
    """
    return tuple(_vary_one(run, field, value) for value in values)


def read_vary(run: Run, field: str, texts: Iterable[str]) -> tuple[Run, ...]:
    """:func:`vary` with values from a command line, read by the field's annotation. The run's own
    value is left out, because the run itself is that row.

    Raises:
        UserError: there is no such field (with the nearest one), or a value is not allowed there.
    """
    owner: Any = run if _is_run_field(run, field) else run.method
    *path, name = field.split(".")
    for part_name in path:
        owner = getattr(owner, part_name)
    try:
        values = [read_setting(owner, name, text) for text in texts]
    except ValueError as error:
        raise UserError(f"--vary {run.label}.{field}: {error}") from error
    return vary(run, field, [value for value in values if value != getattr(owner, name)])


def _vary_one(run: Run, field: str, value: object) -> Run:
    is_run_field = _is_run_field(run, field)
    changes: dict[str, Any] = {}
    if field != "seed":
        changes["label"] = f"{run.label} {field}={_folder_text(value)}"
        changes["varied"] = Varied(row=run.label, field=field, value=_folder_text(value))
    try:
        if is_run_field:
            changes[field] = value
        else:
            changes["method"] = _replace_field(run.method, field.split("."), value)
        return replace(run, **changes)
    except (TypeError, ValueError) as error:
        raise UserError(f"{run.label}: {field} cannot be {value!r}: {error}") from error


def _is_run_field(run: Run, field: str) -> bool:
    """Whether the field is the run's, not its method's.

    Raises:
        UserError: neither has it.
    """
    paths = _field_paths(run.method)
    if field not in paths and field not in RUN_FIELDS:
        names = [*paths, *RUN_FIELDS]
        raise unknown(f"field of {run.method.name} or of a run", field, names)
    return field not in paths


RUN_FIELDS = ("base", "pool", "images", "rounds", "same_images", "seed", "steps")


def _folder_text(value: object) -> str:
    """A value as text that may be a folder's name, such as ``5e-05``, ``a+b`` or
    ``r=8,alpha=16``."""
    if isinstance(value, tuple | list):
        return "+".join(map(_folder_text, value))
    if dataclasses.is_dataclass(value):
        return ",".join(
            f"{field.name}={_folder_text(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
        )
    return re.sub(r"[^A-Za-z0-9 ._=,+-]+", "-", str(value)).strip()


def _replace_field(owner: Any, path: list[str], value: object) -> Any:
    if len(path) == 1:
        return replace(owner, **{path[0]: value})
    return replace(owner, **{path[0]: _replace_field(getattr(owner, path[0]), path[1:], value)})


def _field_paths(owner: object, prefix: str = "") -> list[str]:
    """Every field of a dataclass that can be set, parts by dotted path."""
    paths = []
    if dataclasses.is_dataclass(owner):
        for field in dataclasses.fields(owner):
            if field.init:
                paths.append(prefix + field.name)
                paths += _field_paths(getattr(owner, field.name), f"{prefix}{field.name}.")
    return paths
