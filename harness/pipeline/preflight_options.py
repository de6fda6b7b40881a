"""Checks each option of a study alone, so that all mistakes are listed at once."""

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
"""A finding whose ``about`` begins with one of these is about missing data, not a wrong option."""

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
    """The study. Where it cannot be built, each option is tried alone, and the study has the valid
    options only (None where there is none)."""
    try:
        return reference.load(), []
    except UserError as error:
        first = Finding(f"study {reference.name}", str(error))
    if reference.name not in STUDIES:  # the options of a user's own study mean what it says
        return None, [first]
    parameters = inspect.signature(STUDIES[reference.name]).parameters
    accepted = {name: value for name, value in reference.options.items() if name in parameters}
    findings, valid = of_options(reference.name, accepted)
    if accepted != reference.options or not findings:  # an option that the study does not take
        findings = [first, *findings]
    try:
        return StudyReference(reference.name, valid).load(), findings
    except UserError as error:
        second = Finding(first.about, str(error))
        return None, findings if second in findings else [*findings, second]


def of_options(study: str, options: Mapping[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """What is wrong with each option alone, and the valid options."""
    valid, findings = dict(options), list[Finding]()

    def refuse(name: str, option_findings: list[Finding]) -> bool:
        findings.extend(option_findings)
        if option_findings:
            valid.pop(name, None)
        return bool(option_findings)

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
        findings += [finding for row_findings in rows.values() for finding in row_findings]
        valid["rows"] = [text for text, row_findings in rows.items() if not row_findings]
    if study not in DATA_STUDIES:
        findings += _benchmark_options(valid)
    return findings, valid


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
        baseline, lacks = audit.needs(**options)
        row_findings = [Finding(lack.about, f"{lack.says}.") for lack in lacks]
        return [*row_findings, *of_models([baseline])], None
    runs, missing = paper.needs(**options)
    files = [Finding("file", f"{line}.") for line in missing]
    names = options.get("benchmarks") or paper.BENCHMARK_NAMES
    return [*files, *of_runs(runs, out, placement)], _cost_inputs(runs, names, options)


def without_data(
    study: Study, options: Mapping[str, Any], findings: Sequence[Finding]
) -> WithoutData | None:
    """What can be costed of a study with these findings, which was built from its valid options.
    None: more than data is missing."""
    if not all(finding.about.partition(" ")[0] in DATA for finding in findings):
        return None
    names = options.get("benchmarks") or [benchmark.name for benchmark in study.benchmarks]
    return _cost_inputs(study.answering, names, options)


def _cost_inputs(
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


def _benchmark_options(valid: dict[str, Any]) -> list[Finding]:
    """Open each benchmark alone; options that are wrong are taken out of ``valid``."""
    synthetic = find_base(valid.get("base", "synthetic")).prompts == "synthetic"
    findings, folders = list[Finding](), list[str]()
    for text in valid.get("local_data", ()):
        data_findings = attempt("--local-data", partial(_call_check, named_folders, [text]))
        findings += data_findings
        folders += [] if data_findings else [text]
    names, read = list[str](), set[str]()
    for name in valid.get("benchmarks", ()):
        served = [text for text in folders if _reads_data(name, text.partition("=")[0])]
        read |= set(served)
        limit = valid.get("limit")
        check = partial(
            _call_check, open_benchmarks, [name], "test", limit, served, synthetic=synthetic
        )
        data_findings = attempt(f"benchmark {name}", check)
        findings += [*data_findings, *(of_judge([name]) if data_findings else ())]
        names += [] if data_findings else [name]
    if "benchmarks" in valid:
        valid["benchmarks"] = names
    if "local_data" in valid:
        used = [
            text
            for text in folders
            if any(_reads_data(name, text.partition("=")[0]) for name in names)
        ]
        unread = [text for text in folders if text not in read]
        if unread and not findings:
            check = partial(_call_check, open_benchmarks, names, "test", None, unread)
            findings += attempt("--local-data", check)
        valid["local_data"] = used
    return findings


def _call_check(check: Callable[..., object], *args: object, **kwargs: object) -> None:
    with user_errors():
        check(*args, **kwargs)


def _reads_data(benchmark: str, name: str) -> bool:
    """Whether the benchmark reads the local data of this name."""
    try:
        spec = find(benchmark)
    except KeyError:
        return False
    return name in (benchmark, spec.local.name if spec.local else None)
