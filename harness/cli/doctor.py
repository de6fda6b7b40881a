"""What is ready on this machine, what is lacking, and how to mend it: a line each. Changes nothing,
and asks the network only where it is told to. It runs where half of the requirements are missing,
too: that is when it is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import judgements
from benchmarks.judge import open_judge
from benchmarks.judge_settings import JUDGE_VARIABLE
from benchmarks.spec import Spec
from harness.artifacts.fingerprint import cores
from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
LATEX = ("tectonic", "latexmk", "lualatex", "pdflatex")
DISK, MEMORY = 5.0, 4.0
"""GiB that the main job needs with some room: on the disk with its environment, and in memory."""
HUB_SECONDS = 10.0

# A toolkit's environment variable, the environment that nox makes for it, and its distribution's
# name there.
TOOLKITS: Mapping[str, tuple[str, str, str]] = {
    "lmms_eval": ("SELFSIGHT_LMMS_EVAL_PYTHON", "toolkit_lmms_eval", "lmms_eval"),
    "vlmevalkit": ("SELFSIGHT_VLMEVALKIT_PYTHON", "toolkit_vlmevalkit", "vlmeval"),
}

# What kind of pool has what a method may need with each image; a scorer belongs to the base, not
# to the pool.
POOLS: Mapping[str, frozenset[str]] = {
    "synthetic": frozenset({"image", "question", "reference", "ground_truth"}),
    "a folder of images": frozenset({"image"}),
    "a .jsonl manifest": frozenset({"image", "question", "reference"}),
    "llava:": frozenset({"image", "question", "reference"}),
    "coco:": frozenset({"image", "reference"}),
    "hub:": frozenset({"image", "question", "reference"}),
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing: whether it is ready, what there is to say, and the way to mend it (empty: it is
    ready, or there is no way)."""

    group: str
    name: str
    ready: bool
    says: str
    mend: str = ""


def examine(
    benchmarks: Mapping[str, Spec],
    methods: Mapping[str, Any],
    folders: Mapping[str, Path],
    *,
    bases: Sequence[str] = (),
    online: bool = False,
) -> list[Line]:
    """Every line, group by group. ``folders``: local data by name; ``bases``: folders and adapters
    to look at beside the cards. A check that fails in an unforeseen way is a line as well."""
    judge = _judge()
    groups: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("machine", _machine),
        ("programs", _programs),
        ("bases", lambda: _bases(bases)),
        ("scorers", _scorers),
        ("benchmarks", lambda: _benchmarks(benchmarks, folders, judge.ready)),
        ("methods", lambda: _methods(methods)),
        ("toolkits", _toolkits),
    ]
    lines = []
    for group, look in groups:
        try:
            lines += list(look())
        # a broken installation fails in its own ways, and the other lines are wanted then
        except Exception as error:
            why = (
                f"could not be looked at: {type(error).__name__}:"
                f" {str(error).splitlines()[0] if str(error) else ''}"
            )
            lines.append(
                Line(
                    group=group,
                    name=group,
                    ready=False,
                    says=why,
                    mend="install the requirements (CONTRIBUTING.md)",
                )
            )
    return [*lines, judge, *(_hub() if online else ())]


def as_text(lines: Sequence[Line]) -> str:
    wide = max(len(line.name) for line in lines)
    shown = []
    for group in dict.fromkeys(line.group for line in lines):
        shown.append(group)
        for line in lines:
            if line.group == group:
                mend = f"; {line.mend}" if line.mend else ""
                shown.append(
                    f"  {'ready  ' if line.ready else 'lacking'}  {line.name:<{wide}} "
                    f" {line.says}{mend}"
                )
    ready = sum(line.ready for line in lines)
    return "\n".join([*shown, f"{ready} ready, {len(lines) - ready} lacking."])


def as_json(lines: Sequence[Line]) -> str:
    return json.dumps([asdict(line) for line in lines], indent=1, ensure_ascii=False)


def _machine() -> Iterator[Line]:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = platform.python_version()
    fits = tuple(map(int, python.split(".")[:2])) >= (3, 11)
    yield Line(
        group="machine",
        name="python",
        ready=fits,
        says=python,
        mend="" if fits else "install Python 3.11 or newer",
    )
    wrong = list(_wrong_packages(wanted["dependencies"]))
    yield Line(
        group="machine",
        name="packages",
        ready=not wrong,
        says=f"all {len(wanted['dependencies'])} requirements" if not wrong else ", ".join(wrong),
        mend=(
            ""
            if not wrong
            else (
                "let nox make the environment, or pip install them with --constraint"
                " constraints.txt"
            )
        ),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    says = f"{memory:.1f} GiB, {cores()} cores for this process"
    yield _enough("memory", memory, MEMORY, says, "take smaller --images and --limit")
    disk = shutil.disk_usage(ROOT).free / 2**30
    yield _enough(
        "disk",
        disk,
        DISK,
        f"{disk:.1f} GiB free where the repository is",
        "free some, or give --out on another disk",
    )
    yield _gpu()


def _enough(name: str, there: float, least: float, says: str, mend: str) -> Line:
    ready = there >= least
    return Line(
        group="machine",
        name=name,
        ready=ready,
        says=says,
        mend="" if ready else f"at least {least:.0f} GiB: {mend}",
    )


def _wrong_packages(requirements: Sequence[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in requirements:
        wanted = Requirement(text)
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{wanted.name} is {version}, not {wanted.specifier}"


def _gpu() -> Line:
    lacking = "none that torch can use: the synthetic world runs without"
    mend = "for LLaVA-1.5 take a machine with a CUDA GPU and a CUDA build of torch"
    if shutil.which("nvidia-smi"):
        lacking = "nvidia-smi is here, but torch can use no GPU"
        mend = (
            "install a build of torch for the driver's CUDA version (pytorch.org), or see"
            " nvidia-smi for what is wrong"
        )
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
            says = (
                f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
            )
            return Line(group="machine", name="gpu", ready=True, says=says)
    return Line(group="machine", name="gpu", ready=False, says=lacking, mend=mend)


def _programs() -> Iterator[Line]:
    playwright = importlib.util.find_spec("playwright") is not None
    lacking = [
        what
        for what, there in (("/usr/bin/chromium", CHROMIUM.exists()), ("playwright", playwright))
        if not there
    ]
    yield Line(
        group="programs",
        name="chromium",
        ready=not lacking,
        says=(
            "the page can be tested in a browser"
            if not lacking
            else f"without {' and '.join(lacking)}: browser tests are skipped"
        ),
        mend="" if not lacking else "apt install chromium, pip install playwright",
    )
    found = next((name for name in LATEX if shutil.which(name)), None)
    yield Line(
        group="programs",
        name="latex",
        ready=found is not None,
        says=(
            f"{found} can set the table"
            if found
            else "none: the LaTeX table is written, but cannot be set here"
        ),
        mend="" if found else "apt install texlive-latex-recommended",
    )


def _bases(more: Sequence[str]) -> Iterator[Line]:
    from harness.engine.model_checks import check_machine
    from harness.models import checkpoints
    from harness.models.base_cards import BASES, find_base

    cards = list(BASES.values())
    for name in more:
        try:
            card = find_base(name)
            cards += [] if card in cards else [card]
        except UserError as problem:
            yield Line(group="bases", name=name, ready=False, says=str(problem))
    for card in cards:
        folder = (
            card.source if isinstance(card.source, Path) else _cached(card.source, card.revision)
        )
        stored = None
        ready, says, mend = folder is not None, "", ""
        if folder is None:
            size = f" (about {card.parameters * 2 / 1e9:.0f} GB)" if card.parameters else ""
            says, mend = f"not downloaded{size}", _download(str(card.source), card.revision)
        else:
            try:
                stored = checkpoints.check_files(folder)
                says = f"{stored / 1e6:,.0f} MB of weights here"
            except UserError as problem:
                ready, says = False, str(problem)
                mend = (
                    "python -m nox -s synthetic"
                    if isinstance(card.source, Path)
                    else _download(card.source, card.revision)
                )
        try:
            check_machine(card.name, _device(), stored, card.parameters, card.dtype)
        except UserError as problem:
            ready, mend = False, str(problem).rstrip(".") + (f"; there: {mend}" if mend else "")
        yield Line(group="bases", name=card.name, ready=ready, says=says, mend=mend)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _scorers() -> Iterator[Line]:
    from harness.engine.clip_scorer import SCORERS

    for card in SCORERS.values():
        folder = (
            card.source if isinstance(card.source, Path) else _cached(card.source, card.revision)
        )
        weights = folder is not None and any(
            any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin")
        )
        mend = (
            "python -m nox -s synthetic"
            if isinstance(card.source, Path)
            else _download(card.source, card.revision)
        )
        yield Line(
            group="scorers",
            name=card.name,
            ready=weights,
            says="its weights are here" if weights else "not here",
            mend="" if weights else mend,
        )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The folder of a pinned hub model in the local cache; None where it is not there. Asks no
    network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _download(repo: str, revision: str | None) -> str:
    return f"hf download {repo}" + (f" --revision {revision}" if revision else "")


def _benchmarks(
    entries: Mapping[str, Spec], folders: Mapping[str, Path], judged: bool
) -> Iterator[Line]:
    for name, entry in entries.items():
        missing = entry.missing(entry.folder(folders))
        needs_judge = bool(entry.judge) and not judged and not entry.unavailable
        if entry.unavailable:
            says, mend = f"cannot be run here: {entry.unavailable}", ""
        elif missing and entry.local is not None:
            says = f"needs {', '.join(missing)}" + (" and a judge" if needs_judge else "")
            mend = f"get {entry.local.get}, then --local-data {entry.local.name}=FOLDER"
        elif needs_judge:
            says, mend = "can be answered; grading needs a judge", f"see {JUDGE_VARIABLE} below"
        else:
            whole = f"{entry.size} images in full" if entry.size else ""
            says, mend = (
                (f"its files are here{f', {whole}' if whole else ''}" if entry.local else whole),
                "",
            )
        ready = not missing and not needs_judge and not entry.unavailable
        yield Line(group="benchmarks", name=name, ready=ready, says=says, mend=mend)


def _methods(methods: Mapping[str, Any]) -> Iterator[Line]:
    for name, method in methods.items():
        needs = set(method.needs) - {"scorer"}
        pools = [pool for pool, has in POOLS.items() if needs <= has]
        scorer = ", and an image-text scorer" if "scorer" in method.needs else ""
        says = (
            f"needs {', '.join(sorted(needs)) or 'no picture'}{scorer}; pools that have it:"
            f" {', '.join(pools)}"
        )
        yield Line(group="methods", name=name, ready=True, says=says)


def known_methods() -> Mapping[str, Any]:
    """The methods of the catalogue; none where torch is not installed."""
    try:
        from methods.catalogue import METHODS
    except ImportError:
        return {}
    return METHODS


def _toolkits() -> Iterator[Line]:
    for name, (variable, session, distribution) in TOOLKITS.items():
        named = os.environ.get(variable)
        found = (
            [Path(named)]
            if named
            else sorted(ROOT.glob(f".nox/{session.replace('_', '?')}*/bin/python"))
        )
        mend = f"python -m nox -s {session}, or set {variable} to the python of its environment"
        if not found or not found[0].is_file():
            says = (
                f"{variable} names {named}, which is not there"
                if named
                else "no environment of its own"
            )
            yield Line(group="toolkits", name=name, ready=False, says=says, mend=mend)
            continue
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        try:
            done = subprocess.run(
                [found[0], "-I", "-c", code],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            version = done.stdout.strip() if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            version = ""
        says = (
            f"version {version} in {found[0]}" if version else f"{found[0]} has no {distribution}"
        )
        yield Line(
            group="toolkits",
            name=name,
            ready=bool(version),
            says=says,
            mend="" if version else mend,
        )


def _judge() -> Line:
    """Whether a judge could be asked; of the key only whether it is there."""

    def line(ready: bool, says: str, mend: str = "") -> Line:
        return Line(group="judge", name=JUDGE_VARIABLE, ready=ready, says=says, mend=mend)

    try:
        judge = open_judge()
        if judge is None:
            return line(
                False,
                "no settings are named",
                f"write them and set {JUDGE_VARIABLE} to the file (benchmarks/README.md)",
            )
        recorded = len(judgements.read(judge.recording))
    except ValueError as error:
        return line(False, str(error))
    says = f"{judge.settings.name}, {recorded} judgements recorded"
    variable = judge.settings.key_variable
    if variable is None:
        return line(True, f"{says}, needs no key")
    if not os.environ.get(variable, "").strip():
        return line(
            False, f"{says}, no key: what is recorded can be graded again", f"set {variable}"
        )
    return line(True, f"{says}, key present in {variable}")


def _hub() -> Iterator[Line]:
    """Whether the hub has the pinned revisions; the only look outside this machine."""
    try:
        from huggingface_hub import HfApi

        from harness.engine.clip_scorer import SCORERS
        from harness.models.base_cards import BASES
    except ImportError as error:
        yield Line(
            group="hub",
            name="hub",
            ready=False,
            says=f"cannot be asked: {error}",
            mend="install the requirements",
        )
        return
    cards = [(card.name, card.source, card.revision) for card in BASES.values()]
    cards += [(card.name, card.source, card.revision) for card in SCORERS.values()]
    for name, source, revision in cards:
        if isinstance(source, Path):
            continue
        try:
            HfApi().model_info(source, revision=revision, timeout=HUB_SECONDS)
            yield Line(group="hub", name=name, ready=True, says=f"{source} has commit {revision}")
        except (
            Exception
        ) as error:  # no network, a proxy, a repository that is gone: each has its own exceptions
            why = str(error).strip().splitlines()
            says = f"{source} at {revision}: {type(error).__name__}: {why[0][:160] if why else ''}"
            yield Line(
                group="hub",
                name=name,
                ready=False,
                says=says,
                mend="check the network, or give a folder as --base",
            )
