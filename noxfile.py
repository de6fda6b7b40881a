"""The project's menu. Two commands do all set-up on a fresh machine:

    python -m pip install nox && python -m nox -s compare     the main job: a comparison table on
    the synthetic world
    python -m pip install nox && python -m nox -s tests       the test suite

Options of a study go behind two dashes: ``python -m nox -s compare -- --seeds 1 --limit 100``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
VLMEVALKIT_COMMIT = "e8e78f05f3080fe28154f2130321f17951c3be94"
# Waiting threads sleep rather than spin: on few cores that is what keeps a run from fighting
# itself.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def install(session: nox.Session, *groups: str) -> None:
    """Install what the project needs, pinned by constraints.txt; which build of torch that is,
    pip's own settings decide."""
    extra = [package for group in groups for package in PROJECT["dependency-groups"][group]]
    session.install("--constraint", "constraints.txt", *PROJECT["project"]["dependencies"], *extra)


@nox.session
def compare(session: nox.Session) -> None:
    """The main job: every method from the same base on the same images, and the table that
    compares them."""
    install(session)
    session.run("python", "-m", "harness", "run", "compare", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def ablate(session: nox.Session) -> None:
    """One setting changed at a time, on the development split: what each part of a method does."""
    install(session)
    session.run("python", "-m", "harness", "run", "ablate", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """LLaVA-1.5 and released checkpoints on the official files, without training; published values
    beside."""
    install(session)
    session.run("python", "-m", "harness", "run", "audit", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def reference(session: nox.Session) -> None:
    """results/reference: five seeds with all controls, three rounds, ablations (hours; continues
    where cut).

    The whole folders, with page, PDFs, answers, pairs and logs, lie in results/reference-full,
    which git ignores; results/reference is packed from them."""
    install(session)
    whole = "results/reference-full"
    methods = ("sena", "sima", "csr")
    carried = (*methods, *(f"{method} random rejected" for method in methods))
    rounds = ("compare", "--only", *carried, "--rounds", "3", "--seeds", "3")
    for arguments in (
        ("compare", "--controls", "--seeds", "5", "--out", whole),
        (*rounds, "--out", f"{whole}/rounds"),
        ("ablate", "--out", f"{whole}/ablations"),
    ):
        session.run("python", "-m", "harness", "run", *arguments, env=ENVIRONMENT)
    session.run(
        "python", "-m", "harness", "pack", whole, "--out", "results/reference", env=ENVIRONMENT
    )


@nox.session(default=False)
def figures(session: nox.Session) -> None:
    """Draw a results folder's figures again from its stored records: ``-- compare``, or ``-- --out
    FOLDER``."""
    install(session)
    session.run("python", "-m", "harness", "figures", *session.posargs, env=ENVIRONMENT)


@nox.session
def smoke(session: nox.Session) -> None:
    """A minute's check that the whole chain works: few images, few questions, numbers that mean
    nothing."""
    install(session)
    session.run("python", "-m", "harness", "run", "smoke", *session.posargs, env=ENVIRONMENT)


@nox.session
def tests(session: nox.Session) -> None:
    """The fast suite, about two minutes on two cores; `-- -m "thorough and not slow" -n auto` runs
    what it leaves out: whole runs, sweeps, the page in a browser (minutes)."""
    install(session, "test")
    run_tests(session, "not thorough and not slow and not gpu")


def run_tests(session: nox.Session, markers: str) -> None:
    """pytest with the session's own arguments, or the tests with these markers."""
    # A process a core, each with one thread: the models are tiny. A file's tests share fixtures.
    alone = ["-m", markers, "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
    session.run(
        "python",
        "-m",
        "pytest",
        *(session.posargs or alone),
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
    )


@nox.session(default=False)
def tests_portable(session: nox.Session) -> None:
    """The equality tests with the code that torch picks on older processors: none of AVX2 and
    AVX-512, then AVX2 alone."""
    install(session, "test")
    asked = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    own = str(session.run("python", "-c", asked, silent=True)).split()[-1].lower()
    # What this processor picks by itself is what the session "tests" ran. The second time with two
    # threads an operation.
    others = [("default", "1"), ("avx2", "2")] if own == "avx512" else [("default", "1")]
    options = session.posargs or [
        "-q",
        "-m",
        "equality and not slow and not gpu",
        "-n",
        "auto",
        "--maxprocesses",
        "4",
    ]
    for capability, threads in others:
        chosen = {**ENVIRONMENT, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
        session.run("python", "-m", "pytest", *options, env=chosen)


@nox.session(default=False)
def tests_lowest(session: nox.Session) -> None:
    """The fast and thorough tests with the lowest version of each requirement of pyproject.toml.

    torch alone stays at the version of constraints.txt: PyPI's older builds for Linux bring CUDA's
    libraries (3 GB). With SELFSIGHT_LOWEST_TORCH=1 it is the lowest one too.
    """
    lowest = [re.sub(r">=([\w.]+).*", r"==\1", one) for one in PROJECT["project"]["dependencies"]]
    if os.environ.get("SELFSIGHT_LOWEST_TORCH") != "1":
        pinned = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
        torch = next(line for line in pinned if line.startswith("torch=="))
        lowest = [torch if one.startswith("torch==") else one for one in lowest]
    session.install(*lowest, *PROJECT["dependency-groups"]["test"])
    run_tests(session, "not slow and not gpu")


@nox.session(default=False)
def regenerate(session: nox.Session) -> None:
    """Write the files that tests compare with again, from the code as it is; look at the difference
    before committing it."""
    install(session, "test")
    session.run("python", "-m", "tests.reporting.test_tables")
    session.run("python", "-m", "tests.cli.test_commands_page")
    session.run("python", "-m", "tests.test_recorded_study", env=ENVIRONMENT)
    for folder in ("results/reference", "results/reference/rounds", "results/reference/ablations"):
        session.run("python", "-m", "harness", "table", "--out", folder, silent=True)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install(*PROJECT["dependency-groups"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    install(session, "types", "test")
    session.run("mypy")


@nox.session(default=False)
def synthetic(session: nox.Session) -> None:
    """Rebuild the synthetic world's models from nothing (about an hour on two cores; continues
    where it was cut off)."""
    install(session)
    session.run("python", "-m", "harness", "synthetic", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def toolkit_vlmevalkit(session: nox.Session) -> None:
    """VLMEvalKit in an environment of its own (.nox/toolkit_vlmevalkit), from git at one commit.

    Where github.com is out of reach, give a local clone (or its bare git directory) that holds the
    commit:
    ``python -m nox -s toolkit_vlmevalkit -- /path/to/VLMEvalKit``, or its path in
    SELFSIGHT_VLMEVALKIT_SOURCE."""
    local = session.posargs[0] if session.posargs else os.environ.get("SELFSIGHT_VLMEVALKIT_SOURCE")
    source = (
        Path(local).resolve().as_uri()
        if local
        else "https://github.com/open-compass/VLMEvalKit.git"
    )
    session.install("--constraint", "constraints.txt", *PROJECT["dependency-groups"]["vlmevalkit"])
    # These ask for other builds of what is there: torchvision for its own torch, qwen-vl-utils for
    # a video reader.
    session.install("--no-deps", "torchvision==0.28.0", "qwen-vl-utils==0.0.14")
    # Editable, because a plain installation leaves sub-packages and data files out.
    session.install("--no-deps", "--editable", f"git+{source}@{VLMEVALKIT_COMMIT}#egg=vlmeval")
    session.run("python", "-I", "benchmarks/via_vlmevalkit_child.py", "--check")


@nox.session(default=False)
def toolkit_lmms_eval(session: nox.Session) -> None:
    """lmms-eval in an environment of its own (.nox/toolkit_lmms_eval), from PyPI; its tests: ``nox
    -s tests -- -m toolkit``."""
    session.install("--constraint", "constraints.txt", *PROJECT["dependency-groups"]["lmms_eval"])
    session.install("--no-deps", "lmms-eval==0.7.3")
    session.run("python", "-P", "-c", "import lmms_eval.evaluator")


@nox.session(default=False)
def cross_check(session: nox.Session) -> None:
    """The stored answers of a results folder graded natively and by the toolkits installed: ``--
    results/compare``."""
    install(session)
    session.run(
        "python",
        "-m",
        "harness",
        "cross-check",
        *(session.posargs or ["results/compare"]),
        env=ENVIRONMENT,
    )


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Timings: generation against a one-by-one loop; the calibration of the statistics, on the real
    trainings of results/calibration/ and by simulation."""
    install(session, "test")
    for name in ("bench_generate", "bench_methods", "bench_stats"):
        session.run("python", "-m", f"tests.benches.{name}", env=ENVIRONMENT)


@nox.session(default=False)
def bench_gpu(session: nox.Session) -> None:
    """Recorded prompts at LLaVA-1.5-7B's shape against one-by-one and trl; `-- --shape tiny` and
    `slim` run anywhere."""
    install(session, "test")
    session.run("python", "-m", "tests.benches.bench_gpu", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def gpu_check(session: nox.Session) -> None:
    """Everything that is to be known of a GPU in eleven minutes: `-- --out FOLDER`; GPUS.md has
    more."""
    install(session, "test")
    session.run("python", "-m", "tests.gpu_check", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def bench_schedule(session: nox.Session) -> None:
    """The least seconds that the engine's schedule can take at LLaVA-1.5-7B's shape on one H200:
    counted, anywhere."""
    install(session, "test")
    session.run("python", "-m", "tests.benches.bench_schedule", *session.posargs, env=ENVIRONMENT)


@nox.session(default=False)
def bench_memory(session: nox.Session) -> None:
    """Memory and FLOPs of training at LLaVA-1.5-7B's and 13B's shape, counted with fake tensors:
    runs anywhere."""
    install(session, "test")
    session.run("python", "-m", "tests.benches.bench_memory", *session.posargs, env=ENVIRONMENT)
