"""Cases that lmms-eval's unmodified code grades, and the recorder of its replies: run it when the
kit's version changes,

    python -m tests.benchmarks.lmms_eval_cases        (all cases, or those named)

It writes ``lmms_eval_recorded.json``: the kit's reply to each request, and the report. Tests
without the kit replay them; tests with the kit expect the same replies."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import via_lmms_eval as via
from benchmarks import via_lmms_eval_run as run
from tests.benchmarks import lmms_eval_data as data
from tests.benchmarks import lmms_eval_language as language
from tests.benchmarks import lmms_eval_server as server
from tests.benchmarks.fake_judge import MODEL, Answer, said, serving

RECORDED = Path(__file__).with_name("lmms_eval_recorded.json")
STUBS = Path(__file__).with_name("lmms_eval_stubs")


@dataclass(frozen=True, kw_only=True)
class Case:
    """``answers`` in the questions' order (None: none); ``judge`` answers the task's prompts;
    ``stubs``: language resources."""

    make: Callable[[Path], Path] | None
    answers: tuple[str | None, ...]
    judge: Callable[[str, int], Answer] | None = None
    stubs: bool = False


def points(prompt: str, _before: int) -> Answer:
    """MM-Vet's judge: half right where the prediction has an x."""
    return said("0.5" if "| an x |" in prompt else "1.0" if "say" in prompt.lower() else "0.0")


def two_scores(prompt: str, _before: int) -> Answer:
    return said(
        "1"
        if prompt.startswith("Say")
        else "8 6\nbecause"
        if "[Assistant 2]\nA" in prompt
        else "9 3\nbecause"
    )


def option(prompt: str, _before: int) -> Answer:
    return said("C" if "the third" in prompt else "E")


CASES: Mapping[str, Case] = {
    "pope": Case(make=data.pope, answers=("yes", "no", "Yes.", "no", "no", "yes", "YES", None)),
    "mme": Case(make=data.mme, answers=("Yes", "No", "Yes.", "Yes", "no", "maybe", "YES", "No")),
    "mmbench_en_dev_static": Case(
        make=data.mmbench, answers=("A", "B. word y", "word z", "B", "A")
    ),
    "mmbench_en_dev": Case(
        make=data.mmbench, answers=("A", "B\x07", "the third", "B", "C"), judge=option
    ),
    "scienceqa_img": Case(make=data.scienceqa, answers=("A", "B.", "a", "the answer is B")),
    "gqa": Case(make=data.gqa, answers=("Red.", "blue", "blue", "blue")),
    "textvqa_val": Case(make=data.textvqa, answers=("stop", "the stop", "Halt.", "")),
    "vizwiz_vqa_val": Case(
        make=data.vizwiz, answers=("can", "Unanswerable ASSISTANT: can", "a can")
    ),
    "seedbench": Case(make=data.seed, answers=("A", "Answer: B", "C. made")),
    "mmstar": Case(make=data.mmstar, answers=("A", "B", "D", "A")),
    "mmvet": Case(make=data.mmvet, answers=("an x", "x and y, I say", "nothing"), judge=points),
    "llava_in_the_wild": Case(
        make=data.llava_wild, answers=("A", "A thing", "none", "A"), judge=two_scores
    ),
    "amber_g": Case(
        make=data.amber, answers=("a tree and a house", "a tree and a car", "a boat"), stubs=True
    ),
    "coco_cap_chair": Case(
        make=data.coco_chair, answers=("a dog and a cat.", "a cat", "there is a car"), stubs=True
    ),
    "synthetic_pope": Case(make=None, answers=("yes", "yes", "no") * 4),
    "synthetic_vqa": Case(make=None, answers=("yes",) * 14),
}
SYNTHETIC_LIMIT = 2


@contextmanager
def opened(task: str) -> Iterator[via.ViaLmmsEval]:
    """The case's benchmark on its data, with its judge and stubs about it."""
    case = CASES[task]
    with tempfile.TemporaryDirectory() as name, environment(case, Path(name)):
        data_set = None if case.make is None else case.make(Path(name) / "data")
        yield via.benchmark(task, "test", None if case.make else SYNTHETIC_LIMIT, data_set)


@contextmanager
def environment(case: Case, folder: Path) -> Iterator[None]:
    kept = dict(os.environ)
    try:
        if case.stubs:
            os.environ["NLTK_DATA"] = str(language.nltk_data(folder / "nltk"))
            os.environ["AMBER_BASE_DIR"] = str(language.amber_words(folder / "amber"))
            os.environ["PYTHONPATH"] = str(STUBS)
        if case.judge is None:
            yield
            return
        with serving(case.judge) as judge:
            os.environ.update(
                {"OPENAI_API_KEY": "sk-made", "OPENAI_API_URL": judge.url, "MODEL_VERSION": MODEL}
            )
            yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def answered(task: str, rows: Any) -> dict[str, str]:
    """The case's answers by question; cut to the number of questions."""
    answers = CASES[task].answers
    return {
        f"{row['doc']:06d}": text
        for row, text in zip(rows, answers, strict=False)
        if text is not None
    }


def record(task: str, through: Callable[..., Any]) -> dict[str, Any]:
    """Ask and grade a case in the kit: its replies, and the report that they gave."""
    replies: dict[str, Any] = {}
    kept = run.ask

    def heard(folder: Path, request: Mapping[str, Any], *others: Any) -> Any:
        replies[request["do"]] = reply = through(folder, request, *others)
        return reply

    run.ask = heard  # type: ignore[assignment]
    try:
        run.describe.cache_clear()
        with opened(task) as benchmark:
            report = benchmark.grade(answered(task, benchmark.rows))
    finally:
        run.ask = kept
    replies["describe"] = {**replies["describe"], "folder": ""}
    values = {
        name: None if value is None else round(value, 6) for name, value in report.values.items()
    }
    grades = [[grade.question, grade.value, grade.read_as, grade.why] for grade in report.grades]
    return {"replies": replies, "values": values, "unscored": report.unscored, "grades": grades}


def main(names: list[str]) -> None:
    with server.serving(run.python(), run.CHILD) as through:
        _record_all(names or list(CASES), through)


def _record_all(names: list[str], through: Callable[..., Any]) -> None:
    for name in names:
        try:
            recorded = record(name, through)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(name, json.dumps(recorded["values"]))
        every = {**(json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}), name: recorded}
        RECORDED.write_text(
            json.dumps(
                {key: every[key] for key in CASES if key in every}, indent=1, ensure_ascii=False
            )
            + "\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
