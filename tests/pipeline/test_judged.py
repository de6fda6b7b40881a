"""A benchmark that a model judges, by file and in a study: it waits for its judge and goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.catalogue import open_benchmarks
from benchmarks.mmhal import MMHal
from harness.cli import main as cli
from harness.errors import UserError
from harness.models.base_cards import BASES
from harness.pipeline import exchange
from harness.study.study import Run, Study
from methods.untrained import Untrained
from tests.benchmarks.fake_judge import MODEL, said, serving
from tests.benchmarks.test_mmhal import save_data
from tests.pipeline.answer_files import files, ids, save_answers
from tests.running import run_study
from tests.toy_method import save_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SELFSIGHT_JUDGE", raising=False)


def test_a_judged_benchmark_stops_without_its_judge_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, questions, grades = (
        save_data(tmp_path / "data"),
        str(tmp_path / "questions"),
        str(tmp_path / "grades"),
    )
    local = ["--local-data", f"mmhal={data}"]
    assert cli.main(["export", "mmhal", *local, "--out", questions]) == 0
    shutil.rmtree(data / "images")  # grading needs no image
    rows = [{"id": id, "answer": f"answer {id}"} for id in ids(tmp_path / "questions")]
    command = [
        "grade",
        questions,
        str(save_answers(tmp_path / "answers.jsonl", rows)),
        *local,
        "--out",
        grades,
    ]
    assert cli.main(command) == 2
    assert "name that file in the environment variable SELFSIGHT_JUDGE" in capsys.readouterr().err
    with serving(lambda _prompt, _before: said("Rating: 4")) as server:
        settings = {
            "base_url": server.url,
            "model": MODEL,
            "key_variable": "FAKE_KEY",
            "requests_per_minute": 1e6,
        }
        (tmp_path / "judge.json").write_text(
            json.dumps(settings | {"price_in": 1.0, "price_out": 2.0})
        )
        monkeypatch.setenv("SELFSIGHT_JUDGE", str(tmp_path / "judge.json"))
        monkeypatch.delenv("FAKE_KEY", raising=False)
        assert cli.main(command) == 2
        assert "needs a key in the environment variable FAKE_KEY" in capsys.readouterr().err
        assert cli.main([*command, "--estimate"]) == 0
        assert "mmhal: 4 requests, about" in capsys.readouterr().out
        monkeypatch.setenv("FAKE_KEY", "secret")
        assert server.asked == []
        assert cli.main(command) == 0
    output = capsys.readouterr()
    assert "score                        4.00 of 6" in output.out
    assert "asked 4 requests, 400 tokens in, 40 out" in output.err
    before = files(tmp_path / "grades")
    shutil.rmtree(grades)
    assert cli.main(command) == 0  # the server is gone: replayed
    assert files(tmp_path / "grades") == before
    assert not any(b"secret" in content for content in files(tmp_path).values())
    benchmark = open_benchmarks(["mmhal"], "test", None, [f"mmhal={data}"])[0]
    assert isinstance(benchmark, MMHal)
    assert exchange.estimate(
        open_benchmarks(["synthetic_pope"], "test", 2)[0], *pope_answers(tmp_path)
    ).startswith("No model judges")


def pope_answers(folder: Path) -> tuple[Path, Path]:
    exchange.export(
        open_benchmarks(["synthetic_pope"], "test", 2)[0], folder / "pope", split="test", limit=2
    )
    return folder / "pope", save_answers(
        folder / "pope.jsonl", [{"id": ids(folder / "pope")[0], "answer": "no"}]
    )


def test_a_study_with_a_judge_keeps_its_answers_while_it_waits_for_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASES, "tiny", save_base(tmp_path / "tiny"))
    data, out = save_data(tmp_path / "data"), tmp_path / "out"
    monkeypatch.setenv("FAKE_KEY", "secret")

    def do() -> None:
        untrained = Run(label="untrained", base="tiny", method=Untrained())
        benchmarks = open_benchmarks(["mmhal"], "test", None, [f"mmhal={data}"])
        study = Study(
            name="judged", question="Does it wait?", runs=(untrained,), benchmarks=benchmarks
        )
        run_study(study, out)

    with pytest.raises(UserError, match="mmhal cannot be graded: mmhal is graded by a judge"):
        do()
    answers = (
        out / "runs" / "untrained" / "seed0" / "round0" / "answers" / "mmhal" / "answers.jsonl"
    )
    modified = answers.stat().st_mtime_ns
    with serving(lambda _prompt, _before: said("Rating: 2")) as server:
        settings = {
            "base_url": server.url,
            "model": MODEL,
            "key_variable": "FAKE_KEY",
            "requests_per_minute": 1e6,
        }
        (tmp_path / "judge.json").write_text(json.dumps(settings))
        monkeypatch.setenv("SELFSIGHT_JUDGE", str(tmp_path / "judge.json"))
        do()
        assert len(server.asked) == 4
    assert answers.stat().st_mtime_ns == modified
    report = json.loads((out / "runs/untrained/seed0/round0/grades/mmhal/report.json").read_text())
    assert (
        report["values"]["score"],
        report["values"]["hallucination_rate"],
        report["unscored"],
    ) == (2.0, 100.0, 0)
    (tmp_path / "judge.json").write_text(json.dumps(settings | {"repeats": 2, "retries": 0}))
    with pytest.raises(
        UserError, match="gave no usable answer"
    ):  # another judge is asked anew; the old one's words are kept
        do()
    (tmp_path / "judge.json").write_text(json.dumps(settings))
    do()
    assert (
        json.loads((out / "runs/untrained/seed0/round0/grades/mmhal/report.json").read_text())
        == report
    )
