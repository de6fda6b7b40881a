"""The yes-matched baseline keeps answers unreadable that the untrained model's are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.catalogue import BENCHMARKS
from harness.artifacts.results_folder import Stage, read_jsonl, write_jsonl
from harness.pipeline.matched_baselines import matched_metric
from harness.pipeline.stages.grade import write_grades
from harness.pipeline.stages.matched import Source, write_answers
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
    for row, texts in said.items():
        answers = [{"id": id, "answer": text} for id, text in zip(ids, texts, strict=True)]
        write_jsonl(tmp_path / row / "answers.jsonl", answers)
        write_grades(Stage(tmp_path / f"{row} grades", {}), benchmark, tmp_path / row)
    write_jsonl(tmp_path / "choices" / "choices.jsonl", [{"id": id, "margin": 1.0} for id in ids])
    source = Source(
        answers=tmp_path / "base",
        choices=tmp_path / "choices",
        grades=tmp_path / "base grades",
    )
    write_answers(
        Stage(tmp_path / "out", {}), "yes-ratio", source, tmp_path / "method grades", metric
    )
    shifted = [row["answer"] for row in read_jsonl(tmp_path / "out" / "answers.jsonl")]
    assert shifted == ["yes"] * readable + ["I cannot tell."] * (len(ids) - readable)
    values = benchmark.grade(dict(zip(ids, shifted, strict=True))).values
    assert values["unreadable"] == pytest.approx(100 * (1 - readable / len(ids)))
    if name == "mme" and not readable:
        assert values["perception"] == 0
