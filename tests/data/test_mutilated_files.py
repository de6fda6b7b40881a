"""700 mutilated files of all text kinds and Parquet, through pools, benchmarks and exchanges: each
is refused in one sentence, or is other data by its fingerprint, or changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks import coco
from benchmarks.catalogue import BENCHMARKS, open_benchmarks
from harness.artifacts.results_folder import read_json
from harness.data.open_pool import open_pool
from harness.errors import UserError
from harness.pipeline import exchange, foreign_answers
from harness.pipeline.checked_results import graded, questions_of
from tests.benchmarks import official_files
from tests.data.mutilate import mutilated
from tests.data.test_layouts import parquet
from tests.pipeline.answer_files import ids, save_answers
from tests.tiny_models import picture

FILES_A_KIND = 50
Reading = tuple[str, object]
"""(a fingerprint of the data, the numbers that come of them)."""


def read_pool(spec: str) -> Callable[[], Reading]:
    def read() -> Reading:
        drawn = (pool := open_pool(spec)).draw(len(pool.ids), 0, 1)
        needs = frozenset({"image", *(pool.fields & {"question", "reference"})})
        return drawn.fingerprint(needs), [(item.id, item.sha256) for item in drawn.images]

    return read


def make_pool(kind: str, folder: Path) -> tuple[list[Path], Callable[[], Reading]]:
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    texts = [(f"{number}.png", f"what is {number} ?", f"it is {number} .") for number in range(3)]
    if kind == "manifest":
        rows = [{"image": a, "question": b, "reference": c} for a, b, c in texts]
        path = folder / "pool.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [path], read_pool(str(path))
    path = folder / "pool.json"
    if kind == "llava":
        entries = [
            {
                "id": a,
                "image": a,
                "conversations": [{"from": "human", "value": b}, {"from": "gpt", "value": c}],
            }
            for a, b, c in texts
        ]
        path.write_text(json.dumps(entries))
    else:
        images = [{"id": number, "file_name": a} for number, (a, _, _) in enumerate(texts)]
        notes = [{"image_id": number, "caption": c} for number, (_, _, c) in enumerate(texts)]
        path.write_text(json.dumps({"images": images, "annotations": notes}))
    return [path], read_pool(f"{kind}:{path}:{folder}")


def make_hub(folder: Path) -> tuple[list[Path], Callable[[], Reading]]:
    images = [
        {"bytes": (folder / f"{number}.png").read_bytes(), "path": None}
        for number in range(3)
        if picture(number).save(folder / f"{number}.png") is None
    ]
    spec = parquet(folder / "data", {"image": images, "question": ["a ?", "b ?", "c ?"]})
    return sorted((folder / "data").rglob("*.parquet")), read_pool(spec)


def make_benchmark(name: str, folder: Path) -> tuple[list[Path], Callable[[], Reading]]:
    official_files.folder_for(name, folder)
    first = BENCHMARKS[name].factory("test", None, folder)
    answers = {question.id: "Yes, a dog, B" for question in questions_of(first)}

    def read() -> Reading:
        coco._val2014.cache_clear()  # a process reads 200 MB of JSON once
        benchmark = BENCHMARKS[name].factory("test", None, folder)
        asked = {question.id: question.text for question in questions_of(benchmark)}
        known = {id: text for id, text in answers.items() if id in asked}
        return benchmark.version, (asked, graded(benchmark, known).values)

    local = BENCHMARKS[name].local
    assert local is not None
    named = {path for pattern in local.files for path in folder.glob(pattern.partition("|")[0])}
    inner = {path for above in named for path in (above, *above.rglob("*"))}
    kinds = (".json", ".txt", ".tsv")
    return sorted(path for path in inner if path.suffix in kinds), read


def make_exchange(folder: Path) -> tuple[list[Path], Callable[[], Reading]]:
    (benchmark,) = open_benchmarks(["synthetic_pope"], "test", 2)
    questions = folder / "q"
    exchange.export(benchmark, questions, split="test", limit=2)
    answers = save_answers(
        folder / "a.jsonl", [{"id": id, "answer": "yes"} for id in ids(questions)]
    )

    def read() -> Reading:
        shutil.rmtree(folder / "g", ignore_errors=True)
        found = foreign_answers.read_export(questions)
        (opened,) = open_benchmarks([found["benchmark"]], found["split"], found["limit"])
        exchange.grade(opened, questions, answers, folder / "g")
        stored = read_json(folder / "g" / "answers" / "identity.json")
        return json.dumps(stored), read_json(folder / "g" / "report.json")["values"]

    names = ("identity.json", "questions.jsonl")
    return [*(questions / name for name in names), answers], read


MAKERS: dict[str, Callable[[Path], tuple[list[Path], Callable[[], Reading]]]] = {
    **{kind: lambda folder, kind=kind: make_pool(kind, folder) for kind in ("manifest", "llava")},
    "coco pool": lambda folder: make_pool("coco", folder),
    "parquet": make_hub,
    **{
        name: lambda folder, name=name: make_benchmark(name, folder)  # type: ignore[misc]
        for name in (
            *("coco_chair", "pope", "repope", "amber_g", "amber_d", "mme", "mmbench_dev_en"),
        )
    },
    **{f"exchange {part}": make_exchange for part in (1, 2, 3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_a_mutilated_file_is_refused_or_is_other_data(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    files, read = MAKERS[kind](tmp_path)
    rng = Random(f"mutilated {kind}")
    fingerprint, numbers = read()
    outcomes: Counter[str] = Counter()
    for _ in range(FILES_A_KIND):
        path = rng.choice(files)
        whole = path.read_bytes()
        how, content = mutilated(whole, rng)
        path.write_bytes(content)
        try:
            new_fingerprint, new_numbers = read()
        except (UserError, ValueError) as error:  # a benchmark's sentence is a ValueError
            one = type(error) in (UserError, ValueError) and "\n" not in str(error)
            outcomes["refused" if one else f"no sentence: {how}: {error!r}"] += 1
        else:
            same = new_fingerprint == fingerprint
            assert not same or new_numbers == numbers, (how, path, content[:2000])
            outcomes["changes nothing" if same else "other data"] += 1
        path.write_bytes(whole)
    assert read() == (fingerprint, numbers)
    assert set(outcomes) <= {"refused", "other data", "changes nothing"}
    assert outcomes["refused"]
    record_property("outcomes", dict(outcomes))
    print(f"{kind}: {dict(outcomes)}")
