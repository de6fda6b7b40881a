"""The paper study: SENA, SIMA and CSR on LLaVA-1.5-7B, all measured in the same way, to check the
gains that their papers report.

    python -m harness plan paper                          GPU-hours, memory, disk and missing data;
                                                          needs no GPU and no data
    python -m harness run paper                           each paper's own pool, rounds and recipe
                                                          (profile published)
    python -m harness run paper --profile equal           the same images, steps and batches for all
    python -m harness run paper --released                adds the authors' released code as rows
    python -m harness run paper --row "SIMA released=org/name"    adds a released checkpoint

On one H200 a seed takes at least 6 GPU-hours in the published profile and 1 in the equal profile.
``plan paper`` computes these lower bounds and replaces them by times measured on this machine, if
there are any. The data are in ``data/`` (another folder: ``--pool``):

    data/ocr_vqa/  data/textvqa/  data/coco/train2017/  data/gqa/  data/vg/
        images (SENA: 1,200 of each per round, 3 rounds)
    data/llava/detail_23k.json  data/llava/complex_reasoning_77k.json
        LLaVA-Instruct (SIMA: 17,000 prompts of both files; CSR: 12,856 of the first, the same
        in each round)

SIMA's paper does not state the ratio of detail to reasoning prompts: 1 : 3 here, about the ratio of
the sizes of the two files. CSR's paper names both kinds, but its released file holds requests for
detailed descriptions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.catalogue import BENCHMARKS, named_folders, open_benchmarks
from benchmarks.interface import Benchmark
from harness.errors import UserError, unknown, user_errors
from harness.models.base_cards import find_base
from harness.study import compare, training_kind
from harness.study.study import Run, Study
from methods.catalogue import METHODS

DATA = "data"
SENA_SETS = ("ocr_vqa", "textvqa", "coco/train2017", "gqa", "vg")
INSTRUCT = ("detail_23k.json", "complex_reasoning_77k.json")
ROUNDS: Mapping[str, tuple[int, int]] = {
    name: (entry.images, entry.rounds) for name, entry in METHODS.items() if entry.images
}
"""Images per round and number of rounds, as published."""
EQUAL = (6000, 1)
"""Images per round and number of rounds in the profile "equal"."""
BENCHMARK_NAMES = ("coco_chair", "pope", "amber_d", "mme")
"""The papers' benchmarks that are graded here without a judge. If you cannot get some of the files,
choose other benchmarks."""


def images_pool(data: str) -> str:
    """SENA's five sets in equal shares."""
    return "mix:" + ",".join(f"{data}/{name}=1" for name in SENA_SETS)


def instruct_pool(data: str) -> str:
    """LLaVA-Instruct's detail and complex reasoning prompts with their answers, in ratio 1 : 3."""
    folder = f"{data}/coco/train2017"
    return "mix:" + ",".join(
        f"llava:{data}/llava/{file}:{folder}={share}"
        for file, share in zip(INSTRUCT, (1, 3), strict=True)
    )


def detail_pool(data: str) -> str:
    """LLaVA-Instruct's requests for a detailed description."""
    return f"llava:{data}/llava/{INSTRUCT[0]}:{data}/coco/train2017"


def runs_of(
    base: str = "llava-1.5-7b",
    data: str = DATA,
    profile: compare.Profile = "published",
    only: Sequence[str] = (),
    seeds: int = 1,
    images: int | None = None,
    rounds: int | None = None,
    limit: int | None = None,
    released: bool = False,
    lora: bool = False,
    full: bool = False,
) -> tuple[Run, ...]:
    """The runs of the untrained row and of the methods; opens no file."""
    compare.check_profile(profile)
    compare.check_at_least_one(seeds=seeds, images=images, rounds=rounds, limit=limit)
    methods = compare.settings(base, profile, lora=lora, full=full)
    equal = profile == "equal"
    for label in only:
        if label not in ROUNDS:
            raise unknown("row", label, ROUNDS)
    runs = [Run(label=compare.BASELINE, base=base, method=methods[compare.BASELINE])]
    for label in only or ROUNDS:
        method = methods[label]
        published_images, published_rounds = EQUAL if equal else ROUNDS[label]
        count = min(images or published_images, limit or published_images)
        pool = instruct_pool(data)
        if not equal and method.needs == {"image"}:  # SENA: the mixture of its paper
            pool = images_pool(data)
        elif not equal and "reference" not in method.needs:  # CSR
            pool = detail_pool(data)
        run = Run(
            label=label,
            base=base,
            method=method,
            pool=pool,
            images=count,
            rounds=rounds or published_rounds,
            same_images=not equal and METHODS[label].same_images,
            steps=compare.equal_steps(method.recipe, count) if equal else None,
        )
        runs += compare.seed_runs(run, seeds, released=released)
    return tuple(runs)


def missing(
    data: str, runs: Sequence[Run], benchmarks: Sequence[str], folders: Mapping[str, Path]
) -> list[str]:
    """The missing data, one line each. ``folders``: data folders given on the command line."""
    root, pools = Path(data), {run.pool for run in runs if run.method.recipe}
    needed = [root / name for name in SENA_SETS] if images_pool(data) in pools else []
    for pool, files in ((instruct_pool(data), INSTRUCT), (detail_pool(data), INSTRUCT[:1])):
        if pool in pools:
            needed += [root / "coco" / "train2017", *(root / "llava" / name for name in files)]
    lines = [f"{path} is not there" for path in dict.fromkeys(needed) if not path.exists()]
    for name in benchmarks:
        entry = BENCHMARKS.get(name)
        if entry and entry.local:
            folder = entry.folder(folders) or root / entry.local.name
            lines += [f"{name}: {folder / file} is not there" for file in entry.missing(folder)]
    return lines


def open_local_benchmarks(
    data: Path, names: Sequence[str], limit: int | None, local_data: Sequence[str]
) -> tuple[Benchmark, ...]:
    """The benchmarks. Official files are in the data folder, unless their folder is given.

    Raises:
        UserError: a benchmark is unknown, a folder serves none of them, or data are broken.
    """
    entries = [entry for name in names if (entry := BENCHMARKS.get(name))]
    local = sorted({entry.local.name for entry in entries if entry.local})
    with user_errors():
        given_folders = named_folders(local_data)
        found_folders = [
            f"{name}={data / name}"
            for name in local
            if name not in given_folders and (data / name).is_dir()
        ]
        return open_benchmarks(names, "test", limit, [*local_data, *found_folders], synthetic=False)


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
    released: bool = False,
    lora: bool = False,
    full: bool = False,
    rows: Sequence[str] = (),
    local_data: Sequence[str] = (),
) -> Study:
    """The paper study.

    ``pool`` is the data folder. ``images`` and ``rounds`` replace the papers' numbers. ``limit``
    caps the test images and the pool images per round. The other options are those of
    :func:`harness.study.compare.study`.

    Raises:
        UserError: data are missing (each is named), or an unknown row, base, benchmark or profile.
    """
    numbers = (seeds, images, rounds, limit)
    runs = runs_of(base, pool, profile, only, *numbers, released, lora, full)
    default_methods = compare.settings(base, profile)
    run_methods = {run.label: run.method for run in runs if run.label in default_methods}
    lora_note = training_kind.note(default_methods, run_methods)
    names = list(benchmarks or BENCHMARK_NAMES)
    with user_errors():
        given_folders = named_folders(local_data)
    if missing_lines := missing(pool, runs, names, given_folders):
        raise UserError(
            f"Missing for the study paper ({len(missing_lines)}): {'; '.join(missing_lines)}. Add"
            " them, name another folder with --pool, or choose fewer --benchmarks; `python -m"
            " harness plan paper` shows what the study will cost."
        )
    return Study(
        name=compare.folder_name(f"paper-{profile}", base, limit, lora=lora),
        question=(
            f"Do SENA, SIMA and CSR on {find_base(base).name} do what their papers report, when all"
            " are measured in the same way?"
        ),
        runs=(*runs, *(compare.run_from_text(text) for text in rows)),
        benchmarks=open_local_benchmarks(Path(pool), names, limit, local_data),
        baseline=compare.BASELINE,
        limit=limit,
        notes=tuple(filter(None, [lora_note])),
    )


def needs(
    *,
    pool: str = DATA,
    benchmarks: Sequence[str] = (),
    local_data: Sequence[str] = (),
    **options: Any,
) -> tuple[tuple[Run, ...], list[str]]:
    """The runs and the missing data of :func:`study`, with its options; needs no data.

    Raises:
        UserError: an unknown row, base or profile, or a wrong number or folder.
    """
    options.pop("rows", None)  # checkpoints need none of these data
    runs = runs_of(data=pool, **options)
    with user_errors():
        folders = named_folders(local_data)
    return runs, missing(pool, runs, benchmarks or BENCHMARK_NAMES, folders)
