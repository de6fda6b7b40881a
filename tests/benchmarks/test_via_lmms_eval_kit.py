"""lmms-eval's own code, where it is installed: every recorded case again, native grades against the
kit's, bad rows, and a live model."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value

from benchmarks import kit_process
from benchmarks import via_lmms_eval as via
from benchmarks import via_lmms_eval_run as run
from benchmarks.grading import ItemBenchmark
from benchmarks.pope import Probe
from benchmarks.synthetic import suite
from benchmarks.synthetic.lmms_eval.data import write
from benchmarks.visual_questions import Expected
from harness.engine.engine import Engine
from harness.engine.load import load_model
from harness.models.base_cards import BASES
from methods.interface import Decoding, Prompt
from tests.benchmarks import lmms_eval_server as server
from tests.benchmarks.lmms_eval_cases import CASES, RECORDED, record
from tests.benchmarks.lmms_eval_data import image_of


def installed() -> bool:
    try:
        run.python()
    except ValueError:
        return False
    return True


pytestmark = [
    pytest.mark.toolkit,
    pytest.mark.slow,
    pytest.mark.skipif(
        not installed(), reason="lmms-eval is not installed: python -m nox -s toolkit_lmms_eval"
    ),
]


@pytest.fixture(scope="module")
def kit() -> Iterator[Callable[..., Any]]:
    """The kit's program, imported once."""
    with server.serving(run.python(), run.CHILD) as through:
        yield through


@pytest.mark.parametrize("task", list(CASES))
def test_the_kit_says_what_was_recorded(task: str, kit: Callable[..., Any]) -> None:
    heard = json.loads(RECORDED.read_text(encoding="utf-8"))[task]
    recorded = record(task, kit)
    assert {name: recorded[name] for name in ("values", "unscored", "grades")} == {
        name: heard[name] for name in ("values", "unscored", "grades")
    }
    assert recorded["replies"]["grade"]["rows"] == heard["replies"]["grade"]["rows"]


NATIVE: dict[str, Callable[[str, int], ItemBenchmark[Probe] | ItemBenchmark[Expected]]] = {
    "synthetic_pope": suite.pope,
    "synthetic_vqa": suite.visual_questions,
}


@pytest.mark.parametrize("task", list(NATIVE))
def test_a_live_model_gives_the_stored_answers_and_native_grades(task: str, tmp_path: Path) -> None:
    """The shipped LLaVA asked through lmms-eval, in its environment, against our own export, engine
    and grader."""
    native = NATIVE[task]("dev", 6)
    asked = list(native.questions())
    model, processor = load_model(BASES["synthetic"])
    prompts = [
        Prompt(key=question.id, text=question.text, image=question.images[0]) for question in asked
    ]
    stored = [
        done.text for done in Engine(model, processor).generate(prompts, Decoding(max_new_tokens=8))
    ]
    write(task, tmp_path / "selfsight", "dev", 6)
    (tmp_path / "request.json").write_text(
        json.dumps({"task": task, "folder": str(run.SYNTHETIC), "base": "synthetic"})
    )
    command = [str(run.python()), "-P", "-m", "harness.pipeline.via_lmms_eval", str(tmp_path)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(kit_process.ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reply = json.loads((tmp_path / "reply.json").read_text())
    assert reply["answers"] == stored
    report = native.grade({question.id: text for question, text in zip(asked, stored, strict=True)})
    metric = "accuracy" if task == "synthetic_pope" else "exact_match"
    assert report.unscored == 0
    assert reply["totals"][metric] == pytest.approx(report.values["accuracy"] / 100)  # type: ignore[operator]
    assert 0.5 < reply["totals"][metric] < 1.0


def rows(folder: Path, **changed: Any) -> Path:
    """POPE's schema, three rows, with columns changed."""
    names = ("id", "question_id", "question", "answer", "image_source", "category")
    whole: dict[str, Any] = {name: [f"{name} {n}" for n in range(3)] for name in names}
    whole |= {"answer": ["yes", "no", "yes"], "image": [image_of(n) for n in range(3)]} | changed
    features = Features({**{name: Value("string") for name in names}, "image": Image()})
    Dataset.from_dict(whole, features=features).to_parquet(folder / "test.parquet")
    return folder / "test.parquet"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"image": [image_of(0), None, None]},
            r"2 rows of test have no image that can be read: row 2: AttributeError",
        ),
        (
            {"id": ["a", "b", "a"]},
            r"1 rows of the file are there twice: row 3: its id 'a' is that of row 1",
        ),
        (
            {"question": ["a", "b\x07c", "d"]},
            r"1 rows of test cannot be asked: row 2: the prompt holds the control character",
        ),
    ],
)
def test_rows_that_cannot_be_asked_are_named(
    changed: dict[str, Any],
    why: str,
    kit: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "ask", kit)
    with pytest.raises(ValueError, match=why) as caught:
        _ = via.benchmark("pope", "test", None, rows(tmp_path, **changed)).rows
    assert "test.parquet" in str(caught.value)


def test_a_truth_that_the_kit_refuses_is_said(
    kit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kit retries for eight seconds and then hides the reason."""
    monkeypatch.setattr(run, "ask", kit)
    benchmark = via.benchmark("pope", "test", None, rows(tmp_path, answer=["yes", "perhaps", "no"]))
    with pytest.raises(ValueError, match="an answer could not be scored: AssertionError"):
        benchmark.grade({f"{n:06d}": "yes" for n in range(3)})


def test_an_unknown_task_has_neighbours(
    kit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ask", kit)
    run.describe.cache_clear()
    with pytest.raises(ValueError, match=r"it has no task 'popee'; near it are pope"):
        via.benchmark("popee", "test", None)


def test_a_limit_takes_whole_images(
    kit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ask", kit)
    data = CASES["pope"].make
    assert data is not None
    asked = {
        limit: list(via.benchmark("pope", "test", limit, data(tmp_path)).questions())
        for limit in (1, 2, None)
    }
    assert [len(asked[limit]) for limit in (1, 2, None)] == [2, 4, 8]
    assert {question.id for question in asked[1]} < {question.id for question in asked[2]}
    assert len({question.cluster for question in asked[2]}) == 2
    assert asked[None][0].images[0].tobytes() == image_of(0).convert("RGB").tobytes()


def test_a_process_of_its_own_does_the_same(tmp_path: Path) -> None:
    """What studies do: no server, a process a request."""
    run.describe.cache_clear()
    benchmark = via.benchmark("pope", "test", None, rows(tmp_path))
    report = benchmark.grade({"000000": "yes", "000001": "yes", "000002": "yes"})
    assert report.values["lmms_eval:pope_accuracy"] == pytest.approx(2 / 3)
