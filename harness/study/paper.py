"""Do SENA, SIMA and CSR keep on LLaVA-1.5-7B what their papers say of them, once all three are
measured in one way?

    python -m harness plan paper                          what is missing, GPU-hours, memory and
    disk; needs no GPU and no data
    python -m harness run paper                           each paper's own pool, rounds and recipe
    (profile published)
    python -m harness run paper --profile equal           the same images, steps and batch for all
    three
    python -m harness run paper --row "SIMA released=org/name"    a ready-made checkpoint beside
    them

About 6 GPU-hours on one H200 for a seed of the published profile, 1 of the equal one, by floors of
arithmetic (``plan paper`` computes them, and takes what this machine has measured in their place).
Data lie below ``data/`` (another folder: ``--pool``):

    data/ocr_vqa/  data/textvqa/  data/coco/train2017/  data/gqa/  data/vg/     images (SENA:
    1,200 of each a round, 3 rounds) data/llava/detail_23k.json
    data/llava/complex_reasoning_77k.json           LLaVA-Instruct (SIMA: 17,000; CSR: 13,000 a
    round)

Where the papers are silent: the shares of detail and reasoning prompts (here one to three, about
the sizes of the two files), and whether CSR's rounds repeat their prompts (here each round draws
fresh ones, as everywhere in this harness)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.catalogue import BENCHMARKS, named_folders, open_benchmarks
from harness.errors import UserError, unknown, user_errors
from harness.models.base_cards import find_base
from harness.study import compare, cost_model
from harness.study.study import Run, Study

DATA = "data"
SENA_SETS = ("ocr_vqa", "textvqa", "coco/train2017", "gqa", "vg")
INSTRUCT = ("detail_23k.json", "complex_reasoning_77k.json")
ROUNDS = {"sena": (6000, 3), "sima": (17000, 1), "csr": (13000, 3)}
"""Images a round and rounds, as published."""

EQUAL = (6000, 1)
"""Images a round and rounds of the profile "equal"."""

WANTED = ("coco_chair", "pope", "amber_d", "mme")
"""What the papers report that is graded here without a judge; where the files of some cannot be
had, name the others."""


def images_pool(data: str) -> str:
    """SENA's five sets, in equal shares."""
    return "mix:" + ",".join(f"{data}/{name}=1" for name in SENA_SETS)


def instruct_pool(data: str) -> str:
    """LLaVA-Instruct's detail and complex reasoning prompts with their answers, one to three."""
    folder = f"{data}/coco/train2017"
    return "mix:" + ",".join(
        f"llava:{data}/llava/{file}:{folder}={share}"
        for file, share in zip(INSTRUCT, (1, 3), strict=True)
    )


def runs_of(
    base: str,
    data: str,
    profile: compare.Profile,
    only: Sequence[str],
    seeds: int,
    images: int | None,
    rounds: int | None,
    limit: int | None = None,
) -> tuple[Run, ...]:
    """The untrained row and the three methods' runs; opens nothing."""
    compare.check_profile(profile)
    compare.at_least_one(seeds=seeds, images=images, rounds=rounds, limit=limit)
    known = compare.settings(find_base(base).prompts == "synthetic", profile)
    for label in only:
        if label not in ROUNDS:
            raise unknown("row", label, ROUNDS)
    found = [Run(label=compare.BASELINE, base=base, method=known[compare.BASELINE])]
    for label in only or ROUNDS:
        number, times = ROUNDS[label] if profile == "published" else EQUAL
        count = min(images or number, limit or number)
        recipe = known[label].recipe
        steps = compare.equal_steps(recipe, count) if profile == "equal" and recipe else None
        pool = (
            images_pool(data) if label == "sena" and profile == "published" else instruct_pool(data)
        )
        one = Run(
            label=label,
            base=base,
            method=known[label],
            pool=pool,
            images=count,
            rounds=rounds or times,
            steps=steps,
        )
        found += [replace(one, seed=seed) for seed in range(seeds)]
    return tuple(found)


def missing(
    data: str, runs: Sequence[Run], benchmarks: Sequence[str], given: Mapping[str, Path]
) -> list[str]:
    """What has to be brought before the study can run, a line each; ``given``: folders named on the
    command line."""
    root, pools = Path(data), {run.pool for run in runs if run.method.recipe}
    wanted = [root / name for name in SENA_SETS] if images_pool(data) in pools else []
    if instruct_pool(data) in pools:
        wanted += [root / "coco" / "train2017", *(root / "llava" / name for name in INSTRUCT)]
    told = [f"{path} is not there" for path in dict.fromkeys(wanted) if not path.exists()]
    for name in benchmarks:
        entry = BENCHMARKS.get(name)
        if entry and entry.local:
            folder = entry.folder(given) or root / entry.local.name
            told += [f"{name}: {folder / what} is not there" for what in entry.missing(folder)]
    return told


def study(
    *,
    base: str = "llava-1.5-7b",
    pool: str = DATA,
    images: int | None = None,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int | None = None,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    profile: compare.Profile = "published",
    rows: Sequence[str] = (),
    local_data: Sequence[str] = (),
) -> Study:
    """The paper study; ``pool`` is the folder of its data, ``images`` and ``rounds`` stand in for
    the papers' numbers, ``limit`` caps test images and pool images a round.

    Raises:
        UserError: data are missing (each named), or an unknown row, base, benchmark or profile.
    """
    runs = runs_of(base, pool, profile, only, seeds, images, rounds, limit)
    names = list(benchmarks or WANTED)
    with user_errors():
        given = named_folders(local_data)
    if lacking := missing(pool, runs, names, given):
        raise UserError(
            f"The study paper lacks {len(lacking)} things: {'; '.join(lacking)}. Bring them, name"
            " another folder with --pool, or fewer --benchmarks; `python -m harness plan paper`"
            " says what the study will cost."
        )
    found = {
        entry.local.name: Path(pool) / entry.local.name
        for name in names
        if (entry := BENCHMARKS.get(name)) and entry.local
    }
    folders = [
        f"{name}={folder}"
        for name, folder in found.items()
        if name not in given and folder.is_dir()
    ]
    with user_errors():
        opened = open_benchmarks(names, "test", limit, [*local_data, *folders], synthetic=False)
    return Study(
        name=compare.folder_name(f"paper-{profile}", base, limit),
        question=(
            f"Do SENA, SIMA and CSR keep on {find_base(base).name} what their papers say, measured"
            " in one way?"
        ),
        runs=(*runs, *(compare.ready_made(text) for text in rows)),
        benchmarks=opened,
        baseline=compare.BASELINE,
        limit=limit,
    )


def told(
    results: Path,
    *,
    base: str = "llava-1.5-7b",
    pool: str = DATA,
    images: int | None = None,
    only: Sequence[str] = (),
    seeds: int = 1,
    rounds: int | None = None,
    limit: int | None = None,
    benchmarks: Sequence[str] = (),
    profile: compare.Profile = "published",
    local_data: Sequence[str] = (),
    **_: object,
) -> tuple[str, bool]:
    """What ``plan paper`` prints before the stages - the costs, and what is missing - and whether
    nothing is; needs neither data nor a GPU. It takes the options of ``study``."""
    runs = runs_of(base, pool, profile, only, seeds, images, rounds, limit)
    with user_errors():
        given = named_folders(local_data)
    lacking = missing(pool, runs, benchmarks or WANTED, given)
    text = [
        f"paper ({profile}) on {base}:",
        *cost_model.lines(runs, results, share=cost_model.share_of(limit)),
    ]
    text += (
        [f"Missing, {len(lacking)}:", *(f"  {line}" for line in lacking)]
        if lacking
        else ["No file is missing."]
    )
    return "\n".join(text), not lacking
