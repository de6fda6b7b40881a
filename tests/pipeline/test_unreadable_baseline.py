"""The yes-matched baseline keeps answers unreadable that the untrained model's are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.catalogue import BENCHMARKS
from harness.artifacts.results_folder import Results, Stage, read_jsonl, write_jsonl
from harness.pipeline.matched_baselines import matched_metric
from harness.pipeline.stages.grade import write_grades
from harness.pipeline.stages.without_model import write_matched
from tests.benchmarks import official_files


@pytest.mark.parametrize("name", ["mme", "pope", "amber_d"])
@pytest.mark.parametrize("readable", [0, 10])
def test_unreadable_answers_stay_so(name: str, readable: int, tmp_path: Path) -> None:
    data = official_files.folder_for(name, tmp_path / "data")
    benchmark = BENCHMARKS[name].factory("test", None, data)
    metric = matched_metric(benchmark, "yes-ratio")
    assert metric is not None
    ids = [question.id for question in benchmark.questions()]
    said = {
        "base": ["No"] * readable + ["I cannot tell."] * (len(ids) - readable),
        "method": ["Yes"] * len(ids),
    }
    results = Results(tmp_path / "out")
    for row, texts in said.items():
        answers = [{"id": id, "answer": text} for id, text in zip(ids, texts, strict=True)]
        folder = results.answers(row, 0, 0, name)
        write_jsonl(folder / "answers.jsonl", answers)
        write_grades(Stage(results.grades(row, 0, 0, name), {}), benchmark, folder)
    choices = [{"id": id, "margin": 1.0} for id in ids]
    write_jsonl(results.choices("base", 0, 0, name) / "choices.jsonl", choices)
    base, method = ("base", 0, 0, name), ("method", 0, 0, name)
    write_matched(Stage(tmp_path / "matched", {}), "yes-ratio", results, base, method, metric)
    shifted = [row["answer"] for row in read_jsonl(tmp_path / "matched" / "answers.jsonl")]
    assert shifted == ["yes"] * readable + ["I cannot tell."] * (len(ids) - readable)
    values = benchmark.grade(dict(zip(ids, shifted, strict=True))).values
    assert values["unreadable"] == pytest.approx(100 * (1 - readable / len(ids)))
    if name == "mme" and not readable:
        assert values["perception"] == 0
