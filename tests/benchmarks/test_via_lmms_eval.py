"""Our side of lmms-eval, on replies of the kit that ``lmms_eval_cases`` recorded."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from datasets import load_dataset
from PIL import Image

from benchmarks import via_lmms_eval as via
from benchmarks import via_lmms_eval_run as run
from benchmarks.interface import metric_value
from benchmarks.pope import SETTINGS
from benchmarks.synthetic import suite
from benchmarks.synthetic.lmms_eval.data import write
from benchmarks.via_lmms_eval_counts import score
from benchmarks.via_lmms_eval_tasks import counting
from tests.benchmarks.fake_judge import MODEL, refused, said, serving
from tests.benchmarks.lmms_eval_cases import CASES, RECORDED, answered

HEARD: Mapping[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))


def replayed(
    task: str, monkeypatch: pytest.MonkeyPatch, changed: Mapping[str, Any] | None = None
) -> via.ViaLmmsEval:
    """The benchmark, with the kit's recorded replies (or changed ones) in its place."""
    replies = {**HEARD[task]["replies"], **(changed or {})}
    monkeypatch.setattr(run, "ask", lambda _folder, request, *_others: replies[request["do"]])
    monkeypatch.setattr(run, "python", lambda: Path("python"))
    monkeypatch.setattr(run, "judge_environment", lambda _task: {})
    return via.ViaLmmsEval(
        task=task, split="test", limit=None, data=None, config=replies["describe"]
    )


@pytest.mark.thorough
@pytest.mark.parametrize("task", list(HEARD))
def test_recorded_replies_give_the_recorded_report(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = replayed(task, monkeypatch)
    report = benchmark.grade(answered(task, benchmark.rows))
    assert {
        name: value if value is None else round(value, 6) for name, value in report.values.items()
    } == HEARD[task]["values"]
    assert [
        [grade.question, grade.value, grade.read_as, grade.why] for grade in report.grades
    ] == HEARD[task]["grades"]


def test_every_case_is_recorded() -> None:
    assert list(HEARD) == list(CASES)


def shared(task: str) -> list[str]:
    """The kit's totals that have a metric of the same name."""
    replies = HEARD[task]["replies"]
    ours = {metric.name for metric in counting(task, replies["describe"]["metrics"]).metrics}
    return [name for name in replies["grade"]["totals"] if name.replace(" ", "_") in ours]


@pytest.mark.thorough
@pytest.mark.parametrize("task", [task for task in HEARD if shared(task)])
def test_a_metric_with_the_kits_name_is_its_total(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said by the counts alone, over all rows (pope's case lacks an answer, which the kit calls
    wrong: it is given here)."""
    benchmark = replayed(task, monkeypatch)
    rows = benchmark.rows
    report = benchmark.grade({f"{row['doc']:06d}": "" for row in rows} | answered(task, rows))
    for name in shared(task):
        total = report.values[f"lmms_eval:{name}"]
        value = report.values[name.replace(" ", "_")]
        if value is not None:
            scaled = value * benchmark.counting.scale
            assert scaled == pytest.approx(total, abs=0.11 if "llava" in name else 1e-6)


def test_an_answer_that_is_missing_or_unreadable_is_unscored_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    benchmark = replayed("pope", monkeypatch)
    report = benchmark.grade(answered("pope", benchmark.rows))
    whys = {grade.question: grade.why for grade in report.grades if grade.value is None}
    assert whys == {
        "000002": "lmms-eval reads the words yes and no alone, and calls this a mistake",
        "000007": "no answer",
    }
    assert report.unscored == 2
    assert report.values["accuracy"] == pytest.approx(100 * 4 / 6)
    assert report.values["pope_accuracy"] == pytest.approx(
        100 * 4 / 7
    )  # the kit's way, of the seven that were answered
    assert report.values["lmms_eval:pope_accuracy"] == pytest.approx(
        4 / 8
    )  # the kit's own, a missing answer wrong
    assert report.values["unreadable"] == pytest.approx(100 / 7)


def test_totals_that_are_no_ratios_are_checked_and_stand_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MME's case by hand: existence has acc (100 + 50) / 2 and acc+ 50, count acc 0 and acc+ 0;
    code reasoning 100 and 100."""
    benchmark = replayed("mme", monkeypatch)
    report = benchmark.grade(answered("mme", benchmark.rows))
    assert report.values["lmms_eval:mme_perception_score"] == pytest.approx(75 + 50 + 0)
    assert report.values["lmms_eval:mme_cognition_score"] == pytest.approx(200)
    assert report.values["perception_accuracy"] == pytest.approx(100 * 3 / 6)
    assert report.values["perception_accuracy_plus"] == pytest.approx(100 / 3)


def test_a_image_with_one_answer_missing_has_no_acc_plus(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = replayed("mme", monkeypatch)
    answers = answered("mme", benchmark.rows)
    del answers["000001"]
    report = benchmark.grade(answers)
    assert report.values["perception_accuracy_plus"] == pytest.approx(0)
    assert report.values["perception_accuracy"] == pytest.approx(100 * 2 / 5)


def test_a_total_that_is_not_that_of_the_rows_stops_the_grading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply = copy.deepcopy(HEARD["gqa"]["replies"]["grade"])
    reply["totals"]["exact_match"] += 0.1
    benchmark = replayed("gqa", monkeypatch, {"grade": reply})
    with pytest.raises(ValueError, match="this version of the kit counts differently"):
        benchmark.grade(answered("gqa", benchmark.rows))


def test_rows_in_another_order_stop_the_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = copy.deepcopy(HEARD["gqa"]["replies"]["grade"])
    reply["rows"].reverse()
    benchmark = replayed("gqa", monkeypatch, {"grade": reply})
    with pytest.raises(ValueError, match="in another order"):
        benchmark.grade(answered("gqa", benchmark.rows))


@pytest.mark.parametrize(
    ("task", "metric", "broken"),
    [
        ("mmvet", "gpt_eval_score", {"eval_model": "", "score": 0.0}),
        (
            "llava_in_the_wild",
            "gpt_eval_llava_all",
            {"scores": [-1, -1], "review": "error: connection refused"},
        ),
    ],
)
def test_a_judgement_that_failed_stops_the_grading(
    task: str, metric: str, broken: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = copy.deepcopy(HEARD[task]["replies"]["grade"])
    reply["rows"][1]["metrics"][metric].update(broken)
    benchmark = replayed(task, monkeypatch, {"grade": reply})
    with pytest.raises(ValueError, match=r"gave no judgement on 1 of . answers"):
        benchmark.grade(answered(task, benchmark.rows))


def test_a_random_option_of_the_kit_stops_the_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = copy.deepcopy(HEARD["mmbench_en_dev"]["replies"]["grade"])
    row = next(iter(reply["choices"]["judged"]))
    reply["choices"]["judged"][row][1] = "Failed to predict, thus randomly generate one. "
    benchmark = replayed("mmbench_en_dev", monkeypatch, {"grade": reply})
    with pytest.raises(ValueError, match=f"row {row}: the kit took a random option"):
        benchmark.grade(answered("mmbench_en_dev", benchmark.rows))


def test_answers_are_cut_at_stops_and_cleaned_for_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert via.cut_at_stop("a cat ASSISTANT: no", ["ASSISTANT:"]) == "a cat "
    assert via.cut_at_stop("one\n\ntwo", []) == "one\n\ntwo"
    assert via.without_controls("a\x00b\nc\x07") == ("a b\nc ", 2)
    benchmark = replayed("mmbench_en_dev", monkeypatch)
    report = benchmark.grade(answered("mmbench_en_dev", benchmark.rows))
    assert report.grades[1].why == "1 control characters taken out for the kit"


def test_an_answer_to_no_question_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no question '000099' for an answer \(2 such answers\)"):
        replayed("pope", monkeypatch).grade({"000000": "yes", "000099": "yes", "x": "no"})


def test_a_version_names_kit_task_data_counting_and_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_VERSION", "judge-9")
    version = replayed("mmvet", monkeypatch).version
    assert version.startswith("lmms-eval-0.7.3 mmvet-0.0-")
    assert version.endswith("rules-1 judge-judge-9")


def test_a_judge_is_needed_and_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert run.judge_environment("pope") == {}
    with pytest.raises(ValueError, match="needs its key in OPENAI_API_KEY"):
        run.judge_environment("mmvet")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made")
    monkeypatch.setenv("MODEL_VERSION", MODEL)
    with serving(lambda _prompt, _before: said("1")) as judge:
        for given in (judge.url, f"{judge.url}/chat/completions"):
            monkeypatch.setenv("OPENAI_API_URL", given)
            assert run.judge_environment("mmvet")["OPENAI_API_URL"] == judge.url
            assert (
                run.judge_environment("mmbench_en_dev")["OPENAI_API_URL"]
                == f"{judge.url}/chat/completions"
            )
    with serving(lambda _prompt, _before: refused(401)) as judge:
        monkeypatch.setenv("OPENAI_API_URL", judge.url)
        with pytest.raises(ValueError, match="refuses the key"):
            run.judge_environment("mmvet")


def test_what_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has no 'dev' split"):
        via.benchmark("pope", "dev", None)
    with pytest.raises(ValueError, match="limit is 0"):
        via.benchmark("pope", "test", 0)
    with pytest.raises(ValueError, match="draws its own images"):
        via.benchmark("synthetic_pope", "dev", None, tmp_path)
    monkeypatch.setenv(run.VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ValueError, match="python -m nox -s toolkit_lmms_eval"):
        via.benchmark("pope", "test", None)


def test_broken_data_is_named_before_the_kit_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "python", lambda: Path("python"))
    monkeypatch.setattr(
        run, "describe", lambda _task, _python: HEARD["pope"]["replies"]["describe"]
    )

    def ask(data: Path) -> via.ViaLmmsEval:
        return via.benchmark("pope", "test", None, data)

    with pytest.raises(ValueError, match="there is no"):
        ask(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no \.parquet"):
        ask(tmp_path)
    whole = write("synthetic_pope", tmp_path / "whole", "dev", 1) / "test-00000-of-00001.parquet"
    assert ask(whole).version != ask(write("synthetic_pope", tmp_path / "other", "dev", 2)).version
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.parquet is cut off or no Parquet file"):
        ask(cut)
    hub = tmp_path / "hub"
    write("synthetic_pope", hub / "lmms-lab-encoder", "dev", 1).rename(
        hub / "lmms-lab-encoder" / "POPE"
    )
    assert ask(hub).data == hub / "lmms-lab-encoder" / "POPE"
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"id": 1}\n{"id": 2\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: not JSON, or cut off"):
        ask(lines)


def test_a_data_file_becomes_a_repository_that_loads(tmp_path: Path) -> None:
    file = write("synthetic_pope", tmp_path / "made", "dev", 2) / "test-00000-of-00001.parquet"
    run.link_data(file, tmp_path / "selfsight" / "data", {"dataset_name": "Full", "split": "odd"})
    loaded = load_dataset(
        str(tmp_path / "selfsight" / "data"), "Full", cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ["odd"]
    items = list(suite.pope("dev", 2).items())
    assert [row["question"] for row in loaded["odd"]] == [item.text for item in items]
    assert (
        loaded["odd"][0]["image"].convert("RGB").tobytes()
        == items[0].load_image().convert("RGB").tobytes()
    )


def test_the_synthetic_data_hold_its_questions_and_truth(tmp_path: Path) -> None:
    rows = pyarrow.parquet.read_table(write("synthetic_vqa", tmp_path, "dev", 2)).to_pylist()
    items = list(suite.visual_questions("dev", 2).items())
    assert [(row["question"], row["answer"], row["kind"]) for row in rows] == [
        (item.text, item.truth.answer, item.truth.kind) for item in items
    ]
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).size == items[0].load_image().size
    with pytest.raises(ValueError, match="no task 'synthetic_chair'"):
        write("synthetic_chair", tmp_path, "dev", 1)
    kinds = {
        row["kind"]
        for row in pyarrow.parquet.read_table(
            write("synthetic_pope", tmp_path, "dev", 3)
        ).to_pylist()
    }
    assert kinds <= set(SETTINGS)


def test_unknown_aggregations_make_means_under_another_name() -> None:
    means = counting(
        "new_task",
        [
            {"metric": "a b", "aggregation": "!function utils.f"},
            {"metric": "c", "aggregation": "mean"},
        ],
    )
    assert [metric.name for metric in means.metrics] == ["a_b_mean", "c"]
    read = means.read({"a b": {"score": 1}, "c": 0.5})
    assert [metric_value(metric, read.counts) for metric in means.metrics] == [1.0, 0.5]
    assert (score("x"), score({"score": True}), score({"points": 1})) == (None, 1.0, None)
