"""The options of a study, each tried alone, so that all that is wrong is listed at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.catalogue import find, named_folders, open_benchmarks
from benchmarks.spec import Spec
from harness.data.open_pool import open_pool
from harness.errors import UserError, user_errors
from harness.models.base_cards import find_base
from harness.pipeline.preflight import Finding, attempt, of_judge, of_models, of_runs
from harness.study import audit, compare, paper
from harness.study.reference import STUDIES, StudyReference
from harness.study.study import Run, Study
from harness.training.placement import Placement

DATA = ("pool", "benchmark", "judge", "row", "--local-data")
"""First words of what a finding is about, where data are lacking and the options may be right."""

DATA_STUDIES = ("paper", "audit")
"""Studies whose pool is the folder of all data, and which name what is missing themselves."""

NUMBERS = ("seeds", "rounds", "images", "limit")
"""Options that are at least 1."""


@dataclass(frozen=True, kw_only=True)
class WithoutData:
    """What can be costed of a study on a real base whose data are not here."""

    runs: Sequence[Run]
    benchmarks: Sequence[Spec]
    limit: int | None
    """Most images of a benchmark."""


def open_study(reference: StudyReference) -> tuple[Study | None, list[Finding]]:
    """The study. Where it cannot be built, each option is tried alone, and the study is that of the
    options that are right (None where there is none)."""
    try:
        return reference.load(), []
    except UserError as error:
        first = Finding(f"study {reference.name}", str(error))
    if reference.name not in STUDIES:  # the options of a user's own study mean what it says
        return None, [first]
    taken = inspect.signature(STUDIES[reference.name]).parameters
    known = {name: value for name, value in reference.options.items() if name in taken}
    findings, right = of_options(reference.name, known)
    if known != reference.options or not findings:  # an option that the study does not take
        findings = [first, *findings]
    try:
        return StudyReference(reference.name, right).load(), findings
    except UserError as error:
        second = Finding(first.about, str(error))
        return None, findings if second in findings else [*findings, second]


def of_options(study: str, options: Mapping[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """What is wrong with each option alone, and the options that are right."""
    right, findings = dict(options), list[Finding]()

    def refuse(name: str, found: list[Finding]) -> bool:
        findings.extend(found)
        if found:
            right.pop(name, None)
        return bool(found)

    for name in NUMBERS:
        if name in options:
            check = partial(compare.check_at_least_one, **{name: options[name]})
            refuse(name, attempt(f"--{name}", check))
    if "base" in options:
        refuse("base", attempt("base", lambda: find_base(options["base"])))
    if "pool" in options and study not in DATA_STUDIES:
        refuse("pool", attempt("pool", lambda: open_pool(options["pool"])))
    if texts := list(options.get("rows", ())):
        about = {text: f"row {text.partition('=')[0]}" for text in texts}
        rows = {text: attempt(about[text], partial(compare.run_from_text, text)) for text in texts}
        findings += [finding for found in rows.values() for finding in found]
        right["rows"] = [text for text, found in rows.items() if not found]
    if study not in DATA_STUDIES:
        findings += _benchmark_options(right)
    return findings, right


def of_data(
    study: str, options: Mapping[str, Any], out: Path, placement: Placement
) -> tuple[list[Finding], WithoutData | None]:
    """What a study of :data:`DATA_STUDIES` lacks that cannot be built for want of data, and what of
    it can be costed.

    Raises:
        UserError: an option is wrong.
    """
    StudyReference(study, options).check_options(STUDIES[study])
    compare.check_at_least_one(**{name: options[name] for name in NUMBERS if name in options})
    if study == "audit":
        baseline, lacking = audit.needs(**options)
        rows = [Finding(one.about, f"{one.says}.") for one in lacking]
        return [*rows, *of_models([baseline])], None
    runs, missing = paper.needs(**options)
    files = [Finding("file", f"{line}.") for line in missing]
    names = options.get("benchmarks") or paper.BENCHMARK_NAMES
    return [*files, *of_runs(runs, out, placement)], _costed(runs, names, options)


def without_data(
    study: Study, options: Mapping[str, Any], wrong: Sequence[Finding]
) -> WithoutData | None:
    """What can be costed of a study that is ``wrong``, and was built with the other options; None:
    more than data is lacking."""
    if not all(finding.about.partition(" ")[0] in DATA for finding in wrong):
        return None
    names = options.get("benchmarks") or [benchmark.name for benchmark in study.benchmarks]
    return _costed(study.answering, names, options)


def _costed(
    runs: Sequence[Run], names: Sequence[str], options: Mapping[str, Any]
) -> WithoutData | None:
    """None: a synthetic base, whose data are never lacking, or an unknown benchmark."""
    try:
        specs = [find(name) for name in names]
    except KeyError:
        return None
    if all(find_base(run.base).prompts == "synthetic" for run in runs):
        return None
    return WithoutData(runs=runs, benchmarks=specs, limit=options.get("limit"))


def _benchmark_options(right: dict[str, Any]) -> list[Finding]:
    """Open each benchmark alone; what is wrong is taken out of the options ``right``."""
    synthetic = find_base(right.get("base", "synthetic")).prompts == "synthetic"
    findings, folders = list[Finding](), list[str]()
    for text in right.get("local_data", ()):
        found = attempt("--local-data", partial(_in_words, named_folders, [text]))
        findings += found
        folders += [] if found else [text]
    names, read = list[str](), set[str]()
    for name in right.get("benchmarks", ()):
        served = [text for text in folders if _serves(name, text.partition("=")[0])]
        read |= set(served)
        limit = right.get("limit")
        check = partial(
            _in_words, open_benchmarks, [name], "test", limit, served, synthetic=synthetic
        )
        found = attempt(f"benchmark {name}", check)
        findings += [*found, *(of_judge([name]) if found else ())]
        names += [] if found else [name]
    if "benchmarks" in right:
        right["benchmarks"] = names
    if "local_data" in right:
        kept = [
            text for text in folders if any(_serves(name, text.partition("=")[0]) for name in names)
        ]
        unread = [text for text in folders if text not in read]
        if unread and not findings:
            check = partial(_in_words, open_benchmarks, names, "test", None, unread)
            findings += attempt("--local-data", check)
        right["local_data"] = kept
    return findings


def _in_words(check: Callable[..., object], *arguments: object, **more: object) -> None:
    with user_errors():
        check(*arguments, **more)


def _serves(benchmark: str, name: str) -> bool:
    """Whether the benchmark reads the local data of this name."""
    try:
        spec = find(benchmark)
    except KeyError:
        return False
    return name in (benchmark, spec.local.name if spec.local else None)
