"""``doctor``: lists what is ready on this machine, what is lacking, and how to get it.

It changes nothing and uses the network only with ``--online``. It also runs where requirements are
missing, so every module that needs one is imported inside its check.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import judgements
from benchmarks.judge import open_judge
from benchmarks.judge_settings import JUDGE_VARIABLE
from benchmarks.spec import Spec
from harness.artifacts.environment import cores
from harness.cli.doctor_report import Check, State, check
from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
LATEX = ("tectonic", "latexmk", "lualatex", "pdflatex")
DISK_GIB, MEMORY_GIB = 5.0, 4.0
"""What the default comparison needs, with some room: disk with its environment, and memory."""
HUB_SECONDS = 10.0

TOOLKITS: Mapping[str, tuple[str, str, str]] = {
    "lmms_eval": ("SELFSIGHT_LMMS_EVAL_PYTHON", "toolkit_lmms_eval", "lmms_eval"),
    "vlmevalkit": ("SELFSIGHT_VLMEVALKIT_PYTHON", "toolkit_vlmevalkit", "vlmeval"),
}
"""For each toolkit: its environment variable, its nox session, its distribution's name."""

POOLS: Mapping[str, frozenset[str]] = {
    "synthetic": frozenset({"image", "question", "reference", "ground_truth"}),
    "a folder of images": frozenset({"image"}),
    "a .jsonl manifest": frozenset({"image", "question", "reference"}),
    "llava:": frozenset({"image", "question", "reference"}),
    "coco:": frozenset({"image", "reference"}),
    "hub:": frozenset({"image", "question", "reference"}),
}
"""The fields that a kind of pool can have. A scorer belongs to the base, not to the pool."""


def examine(
    benchmarks: Mapping[str, Spec],
    methods: Mapping[str, Any],
    folders: Mapping[str, Path],
    *,
    bases: Sequence[str] = (),
    online: bool = False,
) -> list[Check]:
    """All checks, group by group. A group that fails with an unexpected error gives one check.

    Args:
        folders: local data by name.
        bases: folders, adapters and hub ids to examine besides the cards.
        online: also ask the hub for the pinned revisions.
    """
    judge = check("judge", _judge())
    groups: Mapping[str, Callable[[], Iterator[State]]] = {
        "machine": _machine,
        "programs": _programs,
        "bases": lambda: _bases(bases),
        "input": lambda: _inputs(bases),
        "scorers": _scorers,
        "benchmarks": lambda: _benchmarks(benchmarks, folders, judge.ready),
        "methods": lambda: _methods(methods),
        "toolkits": _toolkits,
    }
    checks: list[Check] = []
    for group, states in groups.items():
        try:
            checks += [check(group, state) for state in states()]
        except Exception as error:  # a broken installation can raise anything
            says = f"could not be looked at: {type(error).__name__}: {_first_line(error)}"
            mend = "install the requirements (CONTRIBUTING.md)"
            checks.append(Check(group, group, False, says, mend))
    return [*checks, judge, *(check("hub", state) for state in (_hub() if online else ()))]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _requirements() -> list[str]:
    """The packages that SelfSight needs, of a checkout or of an installation."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
        return list(declared)
    return [
        text for text in importlib.metadata.requires("selfsight") or () if "extra ==" not in text
    ]


def _machine() -> Iterator[State]:
    requirements = _requirements()
    python = platform.python_version()
    recent = tuple(map(int, python.split(".")[:2])) >= (3, 11)
    yield State("python", recent, python, "install Python 3.11 or newer")
    wrong = list(_wrong_packages(requirements))
    says = ", ".join(wrong) or f"all {len(requirements)} requirements"
    mend = "let nox make the environment, or pip install them with --constraint constraints.txt"
    yield State("packages", not wrong, says, mend)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    says = f"{memory:.1f} GiB, {cores()} cores for this process"
    mend = f"at least {MEMORY_GIB:.0f} GiB: take smaller --images and --limit"
    yield State("memory", memory >= MEMORY_GIB, says, mend)
    disk = shutil.disk_usage(ROOT).free / 2**30
    says = f"{disk:.1f} GiB free where the repository is"
    mend = f"at least {DISK_GIB:.0f} GiB: free some, or give --out on another disk"
    yield State("disk", disk >= DISK_GIB, says, mend)
    yield _gpu()


def _wrong_packages(requirements: Sequence[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, not {requirement.specifier}"


def _gpu() -> State:
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
            return State("gpu", True, f"{count} x {name}, {memory:.0f} GiB")
    if shutil.which("nvidia-smi"):
        says = "nvidia-smi is here, but torch can use no GPU"
        mend = (
            "install a build of torch for the driver's CUDA version (pytorch.org), or see"
            " nvidia-smi for what is wrong"
        )
    else:
        says = "none that torch can use: the synthetic base runs without"
        mend = "for LLaVA-1.5 take a machine with a CUDA GPU and a CUDA build of torch"
    return State("gpu", False, says, mend)


def _programs() -> Iterator[State]:
    missing = [] if CHROMIUM.exists() else [str(CHROMIUM)]
    if importlib.util.find_spec("playwright") is None:
        missing.append("playwright")
    says = "the page can be tested in a browser"
    if missing:
        says = f"without {' and '.join(missing)}: browser tests are skipped"
    yield State("chromium", not missing, says, "apt install chromium, pip install playwright")
    latex = next((name for name in LATEX if shutil.which(name)), None)
    says = "none: the LaTeX table is written, but cannot be set here"
    if latex:
        says = f"{latex} can set the table"
    yield State("latex", latex is not None, says, "apt install texlive-latex-recommended")


def _bases(names: Sequence[str]) -> Iterator[State]:
    from harness.models.base_cards import BASES

    for card in BASES.values():
        yield _base(card, load=isinstance(card.source, Path) or card.name in names)
    for name in names:
        if name not in BASES:
            yield load_state(name)


def load_state(name: str) -> State:
    """The state of a base that a user names; where its files are here, it is loaded and checked."""
    from harness.models.base_cards import find_base

    try:
        return _base(find_base(name), load=True)
    except UserError as error:
        return State(name, False, str(error))


def _base(card: Any, *, load: bool) -> State:
    """The state of a base card; ``load``: by loading it, where its files are here."""
    from harness.engine.load import load_model
    from harness.models.checkpoints import check_files
    from harness.models.hub_snapshots import cached_folder
    from harness.models.load_base import check_machine, default_device

    device = default_device()
    folder, mend = cached_folder(card.source, card.revision), _get(card)
    ready, stored = folder is not None, None
    if folder is None:
        size = f" (about {card.parameters * 2 / 1e9:.0f} GB)" if card.parameters else ""
        says = f"not downloaded{size}"
    else:
        try:
            stored = check_files(folder)
            says = f"{stored / 1e6:,.0f} MB of weights here"
        except UserError as error:
            ready, says = False, str(error)
    try:
        check_machine(card.name, device, stored, card.parameters, card.dtype)
        if ready and load:
            load_model(card, device)
            says += ", loaded and checked"
    except UserError as error:
        mend = str(error).rstrip(".") + ("" if ready else f"; there: {mend}")
        ready = False
    return State(card.name, ready, says, mend)


def _inputs(names: Sequence[str]) -> Iterator[State]:
    from harness.cli.doctor_prompt import input_checks

    return input_checks(names)


def _scorers() -> Iterator[State]:
    from harness.engine.clip_scorer import SCORERS, load_scorer, stored_scorer

    for card in SCORERS.values():
        ready = stored_scorer(card) is not None
        says = "its weights are here" if ready else "not here"
        if ready and isinstance(card.source, Path):
            try:
                load_scorer(card)
                says += ", loaded and checked"
            except UserError as error:
                ready, says = False, str(error)
        yield State(card.name, ready, says, _get(card))


def _get(card: Any) -> str:
    """The command that builds or downloads a base's or scorer's weights."""
    if isinstance(card.source, Path):
        return "python -m nox -s synthetic"
    return f"hf download {card.source}" + (f" --revision {card.revision}" if card.revision else "")


def _benchmarks(
    entries: Mapping[str, Spec], folders: Mapping[str, Path], has_judge: bool
) -> Iterator[State]:
    for name, entry in entries.items():
        missing = entry.missing(entry.folder(folders))
        needs_judge = bool(entry.judge) and not has_judge and not entry.unavailable
        mend = ""
        if entry.unavailable:
            says = f"cannot be run here: {entry.unavailable}"
        elif missing and entry.local is not None:
            says = f"needs {', '.join(missing)}" + (" and a judge" if needs_judge else "")
            mend = f"get {entry.local.get}, then --local-data {entry.local.name}=FOLDER"
        elif needs_judge:
            says, mend = "can be answered; grading needs a judge", f"see {JUDGE_VARIABLE} below"
        else:
            size = f"{entry.size} images in full" if entry.size else ""
            says = ", ".join(filter(None, ["its files are here" if entry.local else "", size]))
        ready = not missing and not needs_judge and not entry.unavailable
        yield State(name, ready, says, mend)


def _methods(methods: Mapping[str, Any]) -> Iterator[State]:
    for name, entry in methods.items():
        method = entry.published
        needs = set(method.needs) - {"scorer"}
        pools = [pool for pool, fields in POOLS.items() if needs <= fields]
        scorer = ", and an image-text scorer" if "scorer" in method.needs else ""
        with_each = ", ".join(sorted(needs)) or "no image"
        says = f"needs {with_each}{scorer}; pools that have it: {', '.join(pools)}"
        yield State(name, True, says)


def known_methods() -> Mapping[str, Any]:
    """The methods of the catalogue; none where torch is not installed."""
    try:
        from methods.catalogue import METHODS
    except ImportError:
        return {}
    return METHODS


def _toolkits() -> Iterator[State]:
    for name, (variable, session, distribution) in TOOLKITS.items():
        named = os.environ.get(variable)
        pattern = f".nox/{session.replace('_', '?')}*/bin/python"
        pythons = [Path(named)] if named else sorted(ROOT.glob(pattern))
        mend = f"python -m nox -s {session}, or set {variable} to the python of its environment"
        if not pythons or not pythons[0].is_file():
            says = "no environment of its own"
            if named:
                says = f"{variable} names {named}, which is not there"
            yield State(name, False, says, mend)
            continue
        version = _version(pythons[0], distribution)
        says = f"version {version} in {pythons[0]}"
        if not version:
            says = f"{pythons[0]} has no {distribution}"
        yield State(name, bool(version), says, mend)


def _version(python: Path, distribution: str) -> str:
    """The version of a distribution in another environment; empty where it is missing."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    command = [str(python), "-I", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _judge() -> State:
    """Whether a judge can be asked. Of its key it reports presence only."""
    try:
        judge = open_judge()
        if judge is None:
            mend = f"write them and set {JUDGE_VARIABLE} to the file (benchmarks/README.md)"
            return State(JUDGE_VARIABLE, False, "no settings are named", mend)
        recorded = len(judgements.read(judge.recording))
    except ValueError as error:
        return State(JUDGE_VARIABLE, False, str(error))
    says = f"{judge.settings.name}, {recorded} judgements recorded"
    variable = judge.settings.key_variable
    if variable is None:
        return State(JUDGE_VARIABLE, True, f"{says}, needs no key")
    if os.environ.get(variable, "").strip():
        return State(JUDGE_VARIABLE, True, f"{says}, key present in {variable}")
    says = f"{says}, no key: what is recorded can be graded again"
    return State(JUDGE_VARIABLE, False, says, f"set {variable}")


def _hub() -> Iterator[State]:
    """Whether the hub has the pinned revisions; the only check that uses the network."""
    try:
        from huggingface_hub import HfApi

        from harness.engine.clip_scorer import SCORERS
        from harness.models.base_cards import BASES
    except ImportError as error:
        says = f"cannot be asked: {error}"
        yield State("hub", False, says, "install the requirements")
        return
    cards: list[Any] = [*BASES.values(), *SCORERS.values()]
    for card in cards:
        if isinstance(card.source, Path):
            continue
        try:
            HfApi().model_info(card.source, revision=card.revision, timeout=HUB_SECONDS)
        # No network, a proxy, a repository that is gone: each raises exceptions of its own.
        except Exception as error:
            reason = f"{type(error).__name__}: {_first_line(error)[:160]}"
            says = f"{card.source} at {card.revision}: {reason}"
            mend = "check the network, or give a folder as --base"
            yield State(card.name, False, says, mend)
        else:
            yield State(card.name, True, f"{card.source} has commit {card.revision}")
