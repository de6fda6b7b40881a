"""A small study's records with pairs to look at: two methods, two seeds, a pool of 30 images, and
texts that mean harm."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from harness.artifacts.results_folder import (
    Results,
    read_json,
    write_bytes,
    write_json,
    write_jsonl,
)
from harness.data.open_pool import open_pool
from harness.data.pool import pixels_sha
from methods.interface import Dropped, PreferencePair
from tests.reporting.records import write_study
from tests.tiny_models import picture
from tests.toy_method import save_pictures

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    " & ' \" \\ \x00\x1b[31m\u202etxt\u2028"
)
HOSTILE_FILE = "<img src=x onerror=document.title='taken'>'&.png"
STEP = 420


def page_study(out: Path, pool: Path) -> Path:
    """Write the study to ``out`` and its images to ``pool``; its base is called "tiny"."""
    write_study(out, seeds=(0, 1), images=8, labels=("untrained", "sena", "sima"))
    save_pictures(pool, 29)
    picture(29).save(pool / HOSTILE_FILE)
    results = Results(out)
    study = read_json(results.study)
    study["question"] = f"Is it safe? {HOSTILE}"
    study["runs"] = [{**run, "base": "tiny", "pool": str(pool)} for run in study["runs"]]
    write_json(results.study, study)
    _questions(results)
    opened_pool = open_pool(str(pool))
    for seed in (0, 1):
        for label, outcomes in (
            ("sena", [_sena(id, index, seed) for index, id in enumerate(opened_pool.ids)]),
            ("sima", _sima()),
        ):
            folder = results.pairs(label, seed, 1)
            hashes = [
                {"id": id, "sha256": pixels_sha(opened_pool.image(id))} for id in opened_pool.ids
            ]
            write_jsonl(folder / "items.jsonl", hashes)
            pairs = [item for item in outcomes if isinstance(item, PreferencePair)]
            drops = [item for item in outcomes if isinstance(item, Dropped)]
            write_jsonl(folder / "pairs.jsonl", [asdict(pair) for pair in pairs])
            write_jsonl(folder / "drops.jsonl", [asdict(drop) for drop in drops])
            counts: dict[str, Any] = {
                "images": len(opened_pool.ids),
                "pairs": len(pairs),
                "dropped": len(drops),
            }
            counts |= {"drops_by_reason": Counter(drop.reason for drop in drops)}
            record = read_json(folder / "record.json")
            write_json(
                folder / "record.json", {**record, "counts": counts, "items": len(opened_pool.ids)}
            )
    return out


def _questions(results: Results) -> None:
    """Questions about one image, and answers with a wrong word in them; the last question and its
    answers mean harm."""
    images = results.questions("synthetic_chair") / "images"
    content = io.BytesIO()
    picture(50).save(content, format="PNG")
    write_bytes(images / "shot.png", content.getvalue())
    questions = [
        {
            "id": f"c{index}",
            "text": HOSTILE if index == 7 else f"describe {index} .",
            "cluster": f"p{index}",
            "images": ["shot.png"],
        }
        for index in range(8)
    ]
    write_jsonl(results.questions("synthetic_chair") / "questions.jsonl", questions)
    for label, seeds, number in (("untrained", (0,), 0), ("sena", (0, 1), 1), ("sima", (0, 1), 1)):
        for seed in seeds:
            where = (label, seed, number, "synthetic_chair")
            answers = [
                {"id": f"c{index}", "answer": HOSTILE if index == 7 else f"a dog , says {label}"}
                for index in range(8)
            ]
            write_jsonl(results.answers(*where) / "answers.jsonl", answers)
            path = results.grades(*where) / "grades.parquet"
            frame = pd.read_parquet(path).assign(
                truth="cup <b>", wrong="2-5" if label == "untrained" else ""
            )
            content = io.BytesIO()
            frame.to_parquet(content, index=False)
            write_bytes(path, content.getvalue())


def _sena(id: str, index: int, seed: int) -> PreferencePair | Dropped:
    key = f"{seed}/{id}/question/0"
    steps: dict[str, Any] = {
        "seed": seed,
        "asked": "what is this thing?",
        "checked": "ask : what is this?",
        "question": "what is this?",
    }
    if index % 10 == 3:
        return Dropped(
            key=key,
            item=id,
            reason="no question",
            kind="question",
            trace={**steps, "question": None},
        )
    chosen = HOSTILE if index == 5 else f"a red ball number {index} on a table ."
    rejected = f"a blue ball number {index} on a chair and a cup ."
    trace: Mapping[str, Any] = steps | {
        "description": "a ball on a table .",
        "first": _completion("a ball ."),
        "enhanced": _completion(f"precise answer : {chosen}"),
        "enhancement_used": True,
        "rejected": _completion(rejected),
        "corruption": "diffusion",
        "noise_step": STEP,
        "noise_key": f"{key}/reject",
    }
    if index % 10 == 7:
        reason, trace = "equal answers", {**trace, "prompt": "what is this?", "chosen": rejected}
        return Dropped(key=key, item=id, reason=reason, kind="question", trace=trace)
    kind = "description" if index % 2 else "question"
    prompt = HOSTILE if index == 5 else "what is this?\nanswer with a single word or phrase ."
    return PreferencePair(
        key=key, item=id, prompt=prompt, chosen=chosen, rejected=rejected, kind=kind, trace=trace
    )


def _completion(text: str) -> dict[str, Any]:
    return {"text": text, "logp": -1.25, "n_tokens": 9, "finished": False}


def _sima() -> list[PreferencePair | Dropped]:
    trace: dict[str, Any] = {
        "critique": "the second tells of a cup",
        "candidates": [{"text": "one", "scores": [1, 0.5]}, {"text": "two"}],
        "odd": None,
    }
    pair = PreferencePair(
        key="sima",
        item="01.png",
        prompt="describe",
        chosen="one dog .",
        rejected="two dogs .",
        trace=trace,
    )
    dropped = Dropped(
        key="lost", item="gone.png", reason=HOSTILE, trace={HOSTILE: HOSTILE, "deep": [[[[[[1]]]]]]}
    )
    return [pair, dropped]
